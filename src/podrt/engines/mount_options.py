"""Mount options as mount(8) writes them, sorted into attributes, propagation, flags and data.

Source: mount(8), mount_setattr(2), runtime-spec config.md ("Linux mount options").
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from podrt.errors import InvalidConfig
from podrt.model.runtimespec import IdMapping

RDONLY = 0x1
NOSUID = 0x2
NODEV = 0x4
NOEXEC = 0x8
ATIME_MASK = 0x70
NOATIME = 0x10
STRICTATIME = 0x20
NODIRATIME = 0x80
NOSYMFOLLOW = 0x200000
ALL_ATTRIBUTES = RDONLY | NOSUID | NODEV | NOEXEC | ATIME_MASK | NODIRATIME | NOSYMFOLLOW

MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_REC = 1 << 14

# Word: (bits set, bits cleared). Times of access share a field, so setting one clears the others.
_ATTRIBUTES: Mapping[str, tuple[int, int]] = {
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0),
    "suid": (0, NOSUID),
    "nodev": (NODEV, 0),
    "dev": (0, NODEV),
    "noexec": (NOEXEC, 0),
    "exec": (0, NOEXEC),
    "noatime": (NOATIME, ATIME_MASK),
    "atime": (0, ATIME_MASK),
    "relatime": (0, ATIME_MASK),
    # What is neither is relative, as it is when mount(2) gets no word about it.
    "norelatime": (0, ATIME_MASK),
    "strictatime": (STRICTATIME, ATIME_MASK),
    "nostrictatime": (0, ATIME_MASK),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
}
PROPAGATIONS: Mapping[str, int] = {
    f"{prefix}{word}": bit | recursive
    for word, bit in (
        ("private", MS_PRIVATE),
        ("slave", MS_SLAVE),
        ("shared", MS_SHARED),
        ("unbindable", MS_UNBINDABLE),
    )
    for prefix, recursive in (("", 0), ("r", MS_REC))
}
# What is so anyhow, and words for mount(8) itself. Linux keeps a change counter (iversion) where a
# file system has one, whatever is asked for.
_NOTHING = frozenset(
    {"", "defaults", "async", "nolazytime", "nomand", "silent", "loud", "notmpcopyup"}
    | {"iversion", "noiversion", "bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"}
)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`attr_set` and `attr_clear` as mount_setattr(2) takes them, `all_set` and `all_clear` for
    the mounts below, too; `propagation` are MS_* flags in their order; `data` is for the file
    system. The others say what is asked for; `uid_map` and `gid_map` came with it.
    """

    attr_set: int = 0
    attr_clear: int = 0
    all_set: int = 0
    all_clear: int = 0
    propagation: int = 0
    is_bind: bool = False
    is_rbind: bool = False
    is_remount: bool = False
    is_idmapped: bool = False
    is_ridmapped: bool = False
    copies_up: bool = False
    uid_map: tuple[IdMapping, ...] = ()
    gid_map: tuple[IdMapping, ...] = ()
    data: tuple[str, ...] = ()

    @property
    def is_everywhere(self) -> bool:
        """Whether attributes are asked for that hold for the mounts below, too."""
        return bool(self.all_set or self.all_clear)


@functools.lru_cache(maxsize=512)
def parse_options(options: tuple[str, ...], field: str) -> Options:
    """Sort the options of the mount `field`; a later word wins.

    Raises: Unsupported, InvalidConfig.
    """
    plain = [0, 0]
    everywhere = [0, 0]
    data: list[str] = []
    maps: dict[str, tuple[IdMapping, ...]] = {}
    for option in options:
        if option in _ATTRIBUTES:
            _apply(plain, _ATTRIBUTES[option])
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            _apply(everywhere, _ATTRIBUTES[option[1:]])
        elif option.startswith(("idmap=", "ridmap=")):
            maps = _maps(option, field)
        elif option not in _NOTHING and option not in PROPAGATIONS:
            data += _split(option)
    words = {option.partition("=")[0] for option in options}
    return Options(
        attr_set=plain[0],
        attr_clear=plain[1],
        all_set=everywhere[0],
        all_clear=everywhere[1],
        propagation=next((PROPAGATIONS[w] for w in reversed(options) if w in PROPAGATIONS), 0),
        is_bind=bool({"bind", "rbind"} & words),
        is_rbind="rbind" in words,
        is_remount="remount" in words,
        is_idmapped=bool({"idmap", "ridmap"} & words),
        is_ridmapped="ridmap" in words,
        copies_up="tmpcopyup" in words,
        uid_map=maps.get("uids", ()),
        gid_map=maps.get("gids", ()),
        data=tuple(data),
    )


def _split(option: str) -> list[str]:
    """The options in one word: the kernel would split it there, too."""
    if '"' in option:
        return [option]
    return [part for part in option.split(",") if part]


def _apply(bits: list[int], change: tuple[int, int]) -> None:
    """Lay one word over what earlier words gave; `bits` are those to set and those to clear."""
    to_set, to_clear = change
    bits[0] = (bits[0] & ~to_clear) | to_set
    bits[1] = (bits[1] & ~to_set) | (to_clear & ~to_set)


def _maps(option: str, field: str) -> dict[str, tuple[IdMapping, ...]]:
    """idmap=uids=0-1000-10#10-2000-5;gids=...: inside, outside and count of each range.

    Source: crun.1, "idmap mount options".
    """
    found: dict[str, tuple[IdMapping, ...]] = {}
    for part in option.partition("=")[2].split(";"):
        kind, _, ranges = part.partition("=")
        if kind not in ("uids", "gids"):
            raise InvalidConfig(f"{field}.options", f"{option!r}: {kind!r} is not uids or gids")
        found[kind] = tuple(_range(text, option, field) for text in ranges.split("#"))
    return found


def _range(text: str, option: str, field: str) -> IdMapping:
    numbers = text.split("-")
    if len(numbers) != 3 or not all(n.isascii() and n.isdecimal() for n in numbers):
        raise InvalidConfig(f"{field}.options", f"{option!r}: {text!r} is no range of IDs")
    if any(len(number) > 10 for number in numbers):
        raise InvalidConfig(f"{field}.options", f"{option!r}: {text!r} is too large")
    inside, outside, count = map(int, numbers)
    return IdMapping(container_id=inside, host_id=outside, size=count)
