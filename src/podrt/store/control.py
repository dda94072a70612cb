"""`state/shared`: the words that all processes of one store see at once.

The file is of one boot: after a reboot (or when it is lost) a new one takes its place, and then
nothing is known to be durable but the snapshot.
"""

from __future__ import annotations

import os
import struct

from podrt._fast.frames import Mapping, Words

from .disk import Disk

SIZE = 4096
_HEAD = struct.Struct("<8sQ16s")
_MAGIC = b"podrtsh1"
_VERSION = 1
_GENERATION, _POISON, _DURABLE, _APPENDED, _SEGMENT = 8, 9, 10, 11, 12
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id() -> bytes:
    """This boot's ID, 16 bytes. Source: random(4)."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


class Control:
    """The mapped words.

    `generation` counts the times the store was made whole anew: who finds another than it
    opened must open again. `poison` is the errno of a write or sync that failed (0: none).
    `durable` is the highest sequence known to be on disk, `appended` the highest written,
    `segment` the first sequence of the segment that is written to.
    """

    def __init__(self, mapping: Mapping) -> None:
        self._words = Words(mapping.view())

    @property
    def generation(self) -> int:
        """The generation."""
        return self._words.load(_GENERATION)

    @property
    def poison(self) -> int:
        """The errno that poisoned the store, or 0."""
        return self._words.load(_POISON)

    @property
    def durable(self) -> int:
        """The highest durable sequence."""
        return self._words.load(_DURABLE)

    @property
    def appended(self) -> int:
        """The highest sequence written, at least as far as its writer lived to say so."""
        return self._words.load(_APPENDED)

    @property
    def segment(self) -> int:
        """The first sequence of the current segment."""
        return self._words.load(_SEGMENT)

    def set_durable(self, seq: int) -> None:
        """Everything up to `seq` is on disk."""
        self._words.raise_to(_DURABLE, seq)

    def set_appended(self, seq: int, segment: int) -> None:
        """`seq` was written, to the segment that begins with `segment`."""
        # The segment first: who reads `appended` and then `segment` must not pair a new
        # sequence with an old segment.
        self._words.raise_to(_SEGMENT, segment)
        self._words.raise_to(_APPENDED, seq)

    def set_poison(self, errno: int) -> None:
        """From now on nobody acknowledges anything."""
        self._words.store(_POISON, errno)

    def renew(self, seq: int, segment: int) -> None:
        """The store was written anew and is durable up to `seq`: who was open must reopen."""
        self._words.store(_DURABLE, seq)
        self._words.store(_APPENDED, seq)
        self._words.store(_SEGMENT, segment)
        self._words.store(_GENERATION, self.generation + 1)
        self._words.store(_POISON, 0)


def attach(path: str) -> Control | None:
    """Map the words of this boot; None when there are none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        if os.fstat(fd).st_size != SIZE:
            return None
        mapping = Mapping(fd, SIZE, writable=True)
    finally:
        os.close(fd)
    if bytes(mapping.view()[: _HEAD.size]) != _HEAD.pack(_MAGIC, _VERSION, boot_id()):
        return None
    return Control(mapping)


def create(path: str, disk: Disk) -> Control:
    """Write a new file in place of an old one and map it; the caller holds the append lock.

    Raises: OSError.
    """
    fresh = f"{path}.new"
    fd = disk.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        # Whole from the start: a store to a hole of a full disk would be SIGBUS.
        head = _HEAD.pack(_MAGIC, _VERSION, boot_id())
        disk.write(fd, head + bytes(SIZE - len(head)), 0)
        mapping = Mapping(fd, SIZE, writable=True)
    finally:
        disk.close(fd)
    disk.rename(fresh, path)
    return Control(mapping)
