"""User namespaces as the command line asks for them, and the maps of IDs they become.

`parse_userns` reads `--userns`, `--uidmap` and `--gidmap`; `resolve` makes maps of that for
somebody on a host. Neither looks at the system: who asks, which IDs are theirs to give away and
which are taken comes in.
Source: podman-run(1), subuid(5), user_namespaces(7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from podrt.errors import InvalidConfig, LimitReached, Unsupported
from podrt.model.runtimespec import IdMapping
from podrt.model.userns import GivenIds, IdRange

IDS_END = 1 << 32
# Podman's own numbers: how many IDs a container gets that does not say.
AUTO_LEAST = 1024
AUTO_MOST = 65536
SUBORDINATE_NAME = "containers"
"""Whose lines in /etc/subuid and /etc/subgid are for `--userns=auto` of root."""

_MODES = ("auto", "host", "keep-id", "nomap", "ns")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "auto": ("size", "uidmapping", "gidmapping"),
    "keep-id": ("uid", "gid", "size"),
}


class Range(msgspec.Struct, frozen=True, order=True):
    """`count` IDs from `first` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The first ID after it."""
        return self.first + self.count


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for: a mode, or maps ("map"), with the mode's options.

    `size` 0 is not given; `uid` and `gid` are keep-id's; the maps are those of --uidmap and
    --gidmap, or the fixed parts of auto; `path` is the namespace to join.
    """

    mode: str = "host"
    path: str = ""
    size: int = 0
    uid: int | None = None
    gid: int | None = None
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: IDs, the maps of their own namespace (/proc/self/uid_map), and their subordinate
    IDs; for root those of `containers`."""

    uid: int = 0
    gid: int = 0
    uid_map: tuple[IdMapping, ...] = (IdMapping(container_id=0, host_id=0, size=IDS_END - 1),)
    gid_map: tuple[IdMapping, ...] = (IdMapping(container_id=0, host_id=0, size=IDS_END - 1),)
    subuids: tuple[Range, ...] = ()
    subgids: tuple[Range, ...] = ()


class Maps(msgspec.Struct, frozen=True, kw_only=True):
    """A container's user namespace: joined (`path`), or new with maps; none if all is empty.

    `user` is who the container's process is where nothing else says so.
    """

    path: str = ""
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()
    user: tuple[int, int] | None = None

    @property
    def is_host(self) -> bool:
        """Whether the container has no user namespace of its own."""
        return not self.path and not self.uid_map


def to_maps(ids: GivenIds, path: str = "") -> Maps:
    """A record's user namespace for a specification; `path` is where it is joined, if not made."""
    uids, gids = (
        tuple(IdMapping(container_id=r.inside, host_id=r.outside, size=r.count) for r in ranges)
        for ranges in (ids.uid_map, ids.gid_map)
    )
    return Maps(path=path or ids.path, uid_map=uids, gid_map=gids, user=ids.user)


def to_ids(maps: Maps) -> GivenIds:
    """What a record keeps of resolved maps."""
    uids, gids = (
        tuple(IdRange(one.container_id, one.host_id, one.size) for one in ranges)
        for ranges in (maps.uid_map, maps.gid_map)
    )
    return GivenIds(path=maps.path, uid_map=uids, gid_map=gids, user=maps.user)


def parse_userns(
    userns: str = "", uidmaps: Sequence[str] = (), gidmaps: Sequence[str] = ()
) -> Wanted:
    """Read the three options. Raises: InvalidConfig, Unsupported."""
    if uidmaps or gidmaps:
        if userns not in ("", "private"):
            raise InvalidConfig("--userns", "cannot be given together with --uidmap and --gidmap")
        return _mapped(uidmaps, gidmaps)
    mode, _, rest = userns.partition(":")
    if mode in ("", "host") and not rest:
        return Wanted()
    if mode == "container":
        raise Unsupported("--userns container")
    if mode not in _MODES or (rest and mode in ("host", "nomap")):
        raise InvalidConfig("--userns", f"{userns!r} is not auto, host, keep-id, nomap or ns:PATH")
    if mode == "ns":
        if not rest.startswith("/"):
            raise InvalidConfig("--userns", f"{rest!r} is not an absolute path")
        return Wanted(mode="ns", path=rest)
    return _with_options(mode, rest)


def _with_options(mode: str, text: str) -> Wanted:
    wanted = Wanted(mode=mode)
    for option in text.split(",") if text else ():
        key, _, value = option.partition("=")
        if key not in _KEYS.get(mode, ()):
            raise InvalidConfig(f"--userns {mode}", f"unknown option {option!r}")
        field = f"--userns {mode}:{key}"
        if key in ("uidmapping", "gidmapping"):
            name = f"{key[0]}id_map"
            maps = (*getattr(wanted, name), _mapping(value, field))
            wanted = msgspec.structs.replace(wanted, **{name: maps})
        else:
            least = 1 if key == "size" else 0
            number = _number(value, field, least)
            wanted = msgspec.structs.replace(wanted, **{key: number})
    check_map(wanted.uid_map, f"--userns {mode}:uidmapping")
    check_map(wanted.gid_map, f"--userns {mode}:gidmapping")
    return wanted


def _mapped(uidmaps: Sequence[str], gidmaps: Sequence[str]) -> Wanted:
    """Maps given one by one; where only users or only groups have one, it is for both."""
    found: dict[str, list[IdMapping]] = {"u": [], "g": []}
    for default, field, texts in (("u", "--uidmap", uidmaps), ("g", "--gidmap", gidmaps)):
        for text in texts:
            flags = text[: len(text) - len(text.lstrip("+ug"))]
            if "+" in flags:
                raise Unsupported(f"{field} +", "there is no map to extend")
            for kind in sorted(set(flags)) or (default,):
                found[kind].append(_mapping(text[len(flags) :], field))
    users, groups = found["u"] or found["g"], found["g"] or found["u"]
    check_map(users, "--uidmap")
    check_map(groups, "--gidmap")
    return Wanted(mode="map", uid_map=tuple(users), gid_map=tuple(groups))


def _mapping(text: str, field: str) -> IdMapping:
    """CONTAINER:HOST[:COUNT]; the @ of a host's ID, which says that it is one, changes nothing."""
    parts = text.split(":")
    if not 2 <= len(parts) <= 3:
        raise InvalidConfig(field, f"{text!r} is not CONTAINER_ID:HOST_ID[:COUNT]")
    inside = _number(parts[0], field)
    outside = _number(parts[1].removeprefix("@"), field)
    count = _number(parts[2], field, 1) if len(parts) == 3 else 1
    return IdMapping(container_id=inside, host_id=outside, size=count)


def _number(text: str, field: str, least: int = 0) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise InvalidConfig(field, f"{text!r} is not a number of IDs")
    if not least <= int(text) < IDS_END:
        raise InvalidConfig(field, f"{text} is not {least} to {IDS_END - 1}")
    return int(text)


def check_map(ranges: Sequence[IdMapping], field: str) -> None:
    """Refuse ranges that overlap or leave the IDs there are. Raises: InvalidConfig."""
    for side, found in (
        ("in the container", [Range(one.container_id, one.size) for one in ranges]),
        ("on the host", [Range(one.host_id, one.size) for one in ranges]),
    ):
        end = 0
        for one in sorted(found):
            if one.first < end:
                raise InvalidConfig(field, f"ID {one.first} {side} is mapped twice")
            end = one.end
        # The kernel takes no range that has the last number: it means none.
        if end >= IDS_END:
            raise InvalidConfig(field, f"IDs {side} end before {end - 1}")


def parse_subids(text: str, *names: str) -> tuple[Range, ...]:
    """The ranges that /etc/subuid or /etc/subgid gives to any of `names` (a name, a number)."""
    found = []
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if len(fields) != 3 or fields[0] not in names:
            continue
        if all(f.isascii() and f.isdecimal() and len(f) <= 10 for f in fields[1:]):
            first, count = int(fields[1]), int(fields[2])
            if count > 0 and first + count <= IDS_END:
                found.append(Range(first, count))
    return tuple(found)


def parse_id_map(text: str) -> tuple[IdMapping, ...]:
    """A namespace's own map, as /proc/self/uid_map has it. Raises: InvalidConfig."""
    found = []
    for line in text.splitlines():
        numbers = line.split()
        if len(numbers) != 3 or not all(n.isascii() and n.isdecimal() for n in numbers):
            raise InvalidConfig("uid_map", f"{line!r} is no range of IDs")
        inside, outside, count = map(int, numbers)
        found.append(IdMapping(container_id=inside, host_id=outside, size=count))
    return tuple(found)


def resolve(
    wanted: Wanted,
    caller: Caller,
    *,
    taken: Iterable[Range] = (),
    image_size: int = 0,
) -> Maps:
    """The namespace for what was asked for.

    `taken` are the host's IDs that other containers got from auto, `image_size` is one more than
    the highest ID of the image. Raises: InvalidConfig, LimitReached.
    """
    if wanted.mode == "host":
        return Maps()
    if wanted.mode == "ns":
        return Maps(path=wanted.path)
    if wanted.mode == "map":
        return Maps(uid_map=wanted.uid_map, gid_map=wanted.gid_map)
    if wanted.mode == "auto":
        return _auto(wanted, caller, tuple(taken), image_size)
    if wanted.mode == "keep-id":
        return _keep_id(wanted, caller)
    if caller.uid == 0:
        raise InvalidConfig("--userns nomap", "is not for root")
    return Maps(
        uid_map=in_a_row(_subordinate(caller.subuids, "uid")),
        gid_map=in_a_row(_subordinate(caller.subgids, "gid")),
    )


def _auto(wanted: Wanted, caller: Caller, taken: tuple[Range, ...], image_size: int) -> Maps:
    size = wanted.size or min(max(image_size, AUTO_LEAST), AUTO_MOST)
    maps = []
    for fixed, subordinate, kind in (
        (wanted.uid_map, caller.subuids, "uid"),
        (wanted.gid_map, caller.subgids, "gid"),
    ):
        free = _free(_subordinate(subordinate, kind), taken, size, kind)
        maps.append((*fixed, *_around(fixed, free)))
        check_map(maps[-1], f"--userns auto:{kind}mapping")
    return Maps(uid_map=maps[0], gid_map=maps[1])


def _subordinate(ranges: tuple[Range, ...], kind: str) -> tuple[Range, ...]:
    if not ranges:
        raise InvalidConfig(
            "--userns", f"/etc/sub{kind} has no line for {SUBORDINATE_NAME} or the caller"
        )
    return ranges


def _free(ranges: Sequence[Range], taken: Sequence[Range], size: int, kind: str) -> Range:
    """The first run of `size` IDs that nobody has."""
    for one in sorted(ranges):
        first = one.first
        for used in sorted(taken):
            if used.first < first + size and used.end > first:
                first = used.end
        if first + size <= one.end:
            return Range(first, size)
    raise LimitReached("--userns auto", f"no {size} IDs in a row are free in /etc/sub{kind}")


def _around(fixed: Sequence[IdMapping], free: Range) -> Iterator[IdMapping]:
    """The container's IDs from 0 on that `fixed` leaves, each at its place in `free`."""
    at = 0
    for one in sorted(fixed, key=lambda mapping: mapping.container_id):
        end = min(one.container_id, free.count)
        if at < end:
            yield IdMapping(container_id=at, host_id=free.first + at, size=end - at)
        at = max(at, one.container_id + one.size)
    if at < free.count:
        yield IdMapping(container_id=at, host_id=free.first + at, size=free.count - at)


def _keep_id(wanted: Wanted, caller: Caller) -> Maps:
    """The caller's own IDs stay what they are, or become `uid` and `gid`.

    Root's IDs are all there already: the map of its namespace, once more.
    """
    if caller.uid == 0:
        return Maps(
            uid_map=_again(caller.uid_map, wanted.size),
            gid_map=_again(caller.gid_map, wanted.size),
            user=(wanted.uid or 0, wanted.gid or 0),
        )
    uid = caller.uid if wanted.uid is None else wanted.uid
    gid = caller.gid if wanted.gid is None else wanted.gid
    return Maps(
        uid_map=_with_own(uid, caller.uid, _subordinate(caller.subuids, "uid"), wanted.size),
        gid_map=_with_own(gid, caller.gid, _subordinate(caller.subgids, "gid"), wanted.size),
        user=(uid, gid),
    )


def _again(own: Sequence[IdMapping], size: int) -> tuple[IdMapping, ...]:
    """Each ID of a namespace as itself, up to `size` if that is given."""
    most = size or IDS_END
    return tuple(
        IdMapping(
            container_id=one.container_id,
            host_id=one.container_id,
            size=min(one.size, most - one.container_id),
        )
        for one in own
        if one.container_id < most
    )


def in_a_row(ranges: Sequence[Range], start: int = 0) -> tuple[IdMapping, ...]:
    """A map from `start` on to every ID of `ranges`, in their order."""
    found = []
    for one in ranges:
        found.append(IdMapping(container_id=start, host_id=one.first, size=one.count))
        start += one.count
    return tuple(found)


def _with_own(inside: int, own: int, ranges: Sequence[Range], size: int) -> tuple[IdMapping, ...]:
    """`own` at `inside`, and subordinate IDs for the others from 0 on; `size` counts all."""
    found = [IdMapping(container_id=inside, host_id=own, size=1)]
    left = size - 1 if size else IDS_END
    at = 0
    for one in ranges:
        first, count = one.first, min(one.count, left)
        left -= count
        while count:
            at += at == inside
            number = min(count, inside - at) if at < inside else count
            found.append(IdMapping(container_id=at, host_id=first, size=number))
            at, first, count = at + number, first + number, count - number
    return tuple(sorted(found, key=lambda mapping: mapping.container_id))
