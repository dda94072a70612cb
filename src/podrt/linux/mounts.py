"""Mounts: the table of this process, and a read-only copy of one file to execute."""

from __future__ import annotations

import os
import re

import msgspec

from podrt._fast import calls

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """One line of /proc/mounts. Source: proc_pid_mounts(5), fstab(5)."""

    source: str
    target: str
    fstype: str
    options: tuple[str, ...]


def read_mounts(path: str = "/proc/self/mounts") -> tuple[Mount, ...]:
    """Every mount this process sees, in mount order. Raises: OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as table:
        return parse_mounts(table.read())


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The mounts of a table in the format of /proc/mounts; short lines are passed over."""
    found = []
    # Not splitlines(): a path may hold a form feed or another character it takes for a line's end.
    for line in text.split("\n"):
        fields = line.split(" ")
        if len(fields) >= 4:
            source, target, fstype = (_unescape(field) for field in fields[:3])
            found.append(Mount(source, target, fstype, tuple(fields[3].split(","))))
    return tuple(found)


def _unescape(field: str) -> str:
    """Blank, tab, newline and backslash are written as three octal digits."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def readonly_clone(path: str) -> int:
    """A descriptor of the file `path` on a read-only, nosuid mount of its own.

    A process executed through it cannot open its own binary for writing by way of
    /proc/self/exe (CVE-2019-5736), whoever it is. The caller closes it. Raises: OSError.
    """
    flags = calls.OPEN_TREE_CLONE | calls.AT_SYMLINK_NOFOLLOW
    tree_fd = calls.open_tree(calls.AT_FDCWD, os.path.realpath(path), flags)
    try:
        attributes = calls.MOUNT_ATTR_RDONLY | calls.MOUNT_ATTR_NOSUID
        calls.mount_setattr(tree_fd, "", calls.AT_EMPTY_PATH, attributes, 0)
    except BaseException:
        os.close(tree_fd)
        raise
    return tree_fd


def mount_of(path: str) -> int:
    """The number of the mount on which `path` lies. Source: proc_pid_fdinfo(5). Raises: OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            fields = dict(line.split(":", 1) for line in info)
        return int(fields["mnt_id"])
    finally:
        os.close(fd)
