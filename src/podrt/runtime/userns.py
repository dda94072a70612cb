"""User namespaces of pods and containers: what may be asked for, and which IDs each is given.

The range of --userns=auto is decided inside the transaction that reserves names, and is in the
log with them: two creations at once, in one process or in several, never get the same IDs. What
a removed owner had is free again.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Sequence

import msgspec

from podrt._fast import calls
from podrt.engines.plan_namespaces import MAX_RANGES
from podrt.errors import InvalidConfig, Unsupported
from podrt.linux.features import kernel_version
from podrt.model.container import ContainerConfig
from podrt.model.runtimespec import IdMapping
from podrt.model.userns import GivenIds, UserNamespace
from podrt.spec.accounts import Accounts
from podrt.spec.userns import (
    SUBORDINATE_NAME,
    Caller,
    Maps,
    Range,
    Wanted,
    in_a_row,
    parse_id_map,
    parse_subids,
    parse_userns,
    resolve,
    to_ids,
)
from podrt.store.records import (
    ContainerRecord,
    Delete,
    IntentRecord,
    MetaRecord,
    Op,
    PodRecord,
    Put,
)
from podrt.store.tables import Tables

SUBUIDS = "/etc/subuid"
SUBGIDS = "/etc/subgid"
# Since then overlayfs takes its layers as descriptors, which is how idmapped ones are given to it.
MAPPED_LAYERS = (6, 13)
_IDS = "ids:"
# ioctl_nsfs(2): what kind of namespace a descriptor is of.
_NS_GET_NSTYPE = 0xB703
_OF_PROCESS = re.compile(r"/proc/([1-9][0-9]*)/ns/user")
# Who owns nothing by definition: as podman, an image does not need a map for them.
_NOBODY = ("nobody", "nogroup")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A user namespace that can be made here, but for the IDs of auto: they are in nobody's hands
    before the transaction."""

    wanted: Wanted
    caller: Caller
    maps: Maps | None = None

    @property
    def is_auto(self) -> bool:
        """Whether podrt chooses the IDs."""
        return self.maps is None


def request_of(config: UserNamespace) -> Request | None:
    """Check everything about `config` that can be known beforehand; None is the host's.

    Raises: InvalidConfig, Unsupported, LimitReached; all name the flag.
    """
    wanted = parse_userns(config.mode, config.uid_maps, config.gid_maps)
    if config.subuid_name or config.subgid_name:
        if config.mode not in ("", "private") or config.uid_maps or config.gid_maps:
            raise InvalidConfig(
                "",
                "--subuidname and --subgidname cannot be given together with --userns, --uidmap "
                "and --gidmap",
            )
        wanted = _of_names(config)
    if wanted.mode == "host":
        return None
    check_kernel(kernel_version())
    caller = read_caller(wanted)
    if wanted.mode == "ns":
        maps = _joined(wanted.path)
    else:
        # With auto this tells whether there are such IDs at all.
        maps = resolve(wanted, caller)
    _check(maps, "--uidmap" if wanted.mode == "map" else f"--userns {wanted.mode}")
    return Request(wanted=wanted, caller=caller, maps=None if wanted.mode == "auto" else maps)


def check_kernel(version: tuple[int, int]) -> None:
    """Raises: Unsupported where an image's layers cannot be shown with other IDs."""
    if version < MAPPED_LAYERS:
        least = ".".join(map(str, MAPPED_LAYERS))
        raise Unsupported("--userns", f"images with mapped IDs need Linux {least} or newer")


def _check(maps: Maps, field: str) -> None:
    for kind, ranges in (("user", maps.uid_map), ("group", maps.gid_map)):
        if not any(one.container_id == 0 for one in ranges):
            raise InvalidConfig(field, f"the container's {kind} 0 is not mapped")
        if len(ranges) > MAX_RANGES:
            raise InvalidConfig(field, f"{len(ranges)} ranges are more than {MAX_RANGES}")


def _of_names(config: UserNamespace) -> Wanted:
    """As podman, one name is for both if the other is not given."""
    found: list[tuple[IdMapping, ...]] = []
    for flag, own, other, path in (
        ("--subuidname", config.subuid_name, config.subgid_name, SUBUIDS),
        ("--subgidname", config.subgid_name, config.subuid_name, SUBGIDS),
    ):
        name = own or other
        ranges = parse_subids(_text(path), name)
        if not ranges:
            raise InvalidConfig(flag, f'no ranges found for user "{name}" in {path}')
        found.append(in_a_row(ranges))
    return Wanted(mode="map", uid_map=found[0], gid_map=found[1])


def read_caller(wanted: Wanted) -> Caller:
    """Who asks, with as much of the host's tables as `wanted` needs. Raises: InvalidConfig."""
    caller = Caller(uid=os.geteuid(), gid=os.getegid())
    if wanted.mode == "auto":
        return msgspec.structs.replace(
            caller,
            subuids=parse_subids(_text(SUBUIDS), SUBORDINATE_NAME),
            subgids=parse_subids(_text(SUBGIDS), SUBORDINATE_NAME),
        )
    if wanted.mode == "keep-id":
        return msgspec.structs.replace(
            caller,
            uid_map=parse_id_map(_text("/proc/self/uid_map")),
            gid_map=parse_id_map(_text("/proc/self/gid_map")),
        )
    return caller


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _joined(path: str) -> Maps:
    """The namespace at `path` with its maps. Raises: InvalidConfig, Unsupported."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise InvalidConfig(
            "--userns",
            f"cannot find specified user namespace path: {path}: {os.strerror(exc.errno or 0)}",
        ) from exc
    try:
        try:
            is_user = fcntl.ioctl(fd, _NS_GET_NSTYPE) == calls.CLONE_NEWUSER
        except OSError:
            is_user = False
        inode = os.fstat(fd).st_ino
    finally:
        os.close(fd)
    if not is_user:
        raise InvalidConfig("--userns", f"{path} is no user namespace")
    if inode == os.stat("/proc/self/ns/user").st_ino:
        raise InvalidConfig("--userns", f"{path} is the host's user namespace: say host")
    users, groups = _maps_of(path, inode)
    return Maps(path=path, uid_map=users, gid_map=groups)


def _maps_of(path: str, inode: int) -> tuple[tuple[IdMapping, ...], ...]:
    """The kernel shows a namespace's maps only through a process that is in it."""
    named = _OF_PROCESS.fullmatch(path)
    numbers = [named[1]] if named else filter(str.isdecimal, os.listdir("/proc"))
    for number in numbers:
        try:
            texts = [_text(f"/proc/{number}/{kind}id_map") for kind in "ug"]
            # Looked at last: if it was this one then, the maps are its.
            if os.stat(f"/proc/{number}/ns/user").st_ino != inode:
                continue
        except OSError:
            continue
        return tuple(parse_id_map(text) for text in texts)
    raise Unsupported(f"--userns ns:{path}", "no process is in it that would show its maps")


def least_size(config: ContainerConfig, known: Accounts, image_user: str) -> int:
    """One more than the highest ID that an image's files and a container's flags name."""
    found = [
        number
        for user in known.users
        if user.name not in _NOBODY
        for number in (user.uid, user.gid)
    ]
    found += [group.gid for group in known.groups if group.name not in _NOBODY]
    words = [*(config.user or image_user).split(":"), *config.groups]
    found += [int(word) for word in words if word.isascii() and word.isdecimal()]
    return max(found, default=0) + 1


def give(tables: Tables, owner: str, request: Request, least: int) -> tuple[GivenIds, Sequence[Op]]:
    """The IDs of a new pod or container, and what the transaction that reserves them writes.

    Raises: LimitReached when nothing is free, InvalidConfig.
    """
    if request.maps is not None:
        return to_ids(request.maps), ()
    taken, ops = _taken(tables)
    maps = resolve(request.wanted, request.caller, taken=taken, image_size=least)
    _check(maps, "--userns auto")
    ranges = (*maps.uid_map, *maps.gid_map)
    text = ",".join(f"{one.host_id}:{one.size}" for one in ranges)
    return to_ids(maps), [*ops, Put(MetaRecord(id=f"{_IDS}{owner}", value=text))]


def _taken(tables: Tables) -> tuple[list[Range], list[Op]]:
    """What others have; whatever has no owner any more is taken out of the log."""
    taken: list[Range] = []
    stale: list[Op] = []
    for key in tables.ids(MetaRecord, _IDS):
        record = tables.get(MetaRecord, key)
        owner = key.removeprefix(_IDS)
        kinds = (PodRecord, ContainerRecord, IntentRecord)
        if record is None or all(tables.get(kind, owner) is None for kind in kinds):
            stale.append(Delete(MetaRecord, key))
            continue
        pairs = (word.partition(":") for word in record.value.split(","))
        taken += [Range(int(first), int(count)) for first, _, count in pairs]
    return taken, stale


def give_back(tables: Tables, owners: Iterable[str]) -> list[Op]:
    """What a transaction that forgets `owners` does about their IDs."""
    keys = [f"{_IDS}{owner}" for owner in owners]
    return [Delete(MetaRecord, key) for key in keys if tables.get(MetaRecord, key) is not None]
