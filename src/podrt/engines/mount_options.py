"""Mount options as mount(8) writes them, sorted into attributes, flags and data.

Source: mount(8), mount_setattr(2), runtime-spec config.md ("Linux mount options").
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from podrt.errors import Unsupported

RDONLY = 0x1
NOSUID = 0x2
NODEV = 0x4
NOEXEC = 0x8
ATIME_MASK = 0x70
NOATIME = 0x10
STRICTATIME = 0x20
NODIRATIME = 0x80
NOSYMFOLLOW = 0x200000

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
    "norelatime": (STRICTATIME, ATIME_MASK),
    "strictatime": (STRICTATIME, ATIME_MASK),
    "nostrictatime": (0, ATIME_MASK),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
}
_OTHER_PROPAGATION = frozenset(
    {"shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
)
# Mounts of a container are private anyway; bind and rbind are looked at apart.
_NOTHING = frozenset(
    {"defaults", "async", "nomand", "silent", "loud", "notmpcopyup", "private", "rprivate"}
    | {"bind", "rbind"}
)
_UNSUPPORTED = _OTHER_PROPAGATION | {"tmpcopyup", "idmap", "ridmap", "remount", "mand"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`attr_set` and `attr_clear` as mount_setattr(2) takes them (`is_recursive`: for all mounts
    below, too); `data` is for the file system; `is_bind` and `is_rbind` say what is asked for.
    """

    attr_set: int = 0
    attr_clear: int = 0
    is_recursive: bool = False
    is_bind: bool = False
    is_rbind: bool = False
    data: tuple[str, ...] = ()


@functools.lru_cache(maxsize=512)
def parse_options(options: tuple[str, ...], field: str) -> Options:
    """Sort the options of the mount `field`; a later word wins. Raises: Unsupported."""
    plain = [0, 0]
    recursive = [0, 0]
    data = []
    for option in options:
        if option in _ATTRIBUTES:
            _apply(plain, _ATTRIBUTES[option])
        elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
            _apply(recursive, _ATTRIBUTES[option[1:]])
        elif option.partition("=")[0] in _UNSUPPORTED:
            raise Unsupported(f"{field}.options", option)
        elif option not in _NOTHING:
            data.append(option)
    if any(recursive) and plain[0] & ~recursive[0]:
        raise Unsupported(f"{field}.options", "recursive and other attributes together")
    return Options(
        attr_set=recursive[0] or plain[0],
        attr_clear=recursive[1],
        is_recursive=any(recursive),
        is_bind=bool({"bind", "rbind"} & set(options)),
        is_rbind="rbind" in options,
        data=tuple(data),
    )


def _apply(bits: list[int], change: tuple[int, int]) -> None:
    """Lay one word over what earlier words gave; `bits` are those to set and those to clear."""
    to_set, to_clear = change
    bits[0] = (bits[0] & ~to_clear) | to_set
    bits[1] = (bits[1] & ~to_set) | (to_clear & ~to_set)
