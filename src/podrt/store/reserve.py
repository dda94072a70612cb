"""A file that only takes up space, until a transaction that removes something needs it.

Whoever wants to free a full disk has to write down first what is to be removed, so without this
nobody could. The file is made again by the next command that opens the store and finds the space.
"""

from __future__ import annotations

import os

from .disk import Disk, write_all
from .records import Delete, Op

_NAME = "reserve"
_BYTES = 64 << 10
"""Some two hundred transactions that remove something."""


def is_freeing(op: Op) -> bool:
    """Whether an operation removes an object, or says that it is about to be removed."""
    if isinstance(op, Delete):
        return True
    record = op.record
    return getattr(record, "removing", False) or getattr(record, "verb", "") == "remove"


def keep(state_dir: str, disk: Disk) -> None:
    """Have the file, if there is the space; the caller holds the append lock."""
    path = f"{state_dir}/{_NAME}"
    try:
        if os.stat(path).st_size == _BYTES:
            return
    except FileNotFoundError:
        pass
    try:
        fd = disk.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            # Nothing that a file system could make smaller.
            write_all(disk, fd, os.urandom(_BYTES), 0)
        finally:
            disk.close(fd)
    except OSError:
        disk.unlink(path)


def give_up(state_dir: str, disk: Disk) -> bool:
    """Remove the file; whether there was one. The caller holds the append lock."""
    path = f"{state_dir}/{_NAME}"
    is_there = os.path.exists(path)
    disk.unlink(path)
    return is_there
