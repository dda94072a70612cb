"""`state/shared`: the words that all processes of one store see at once.

The file is of one boot: after a reboot (or when it is lost) a new one takes its place, and then
nothing is known to be durable but the snapshot.
"""

from __future__ import annotations

import os
import struct

from podrt._fast.frames import Mapping, Words

from .disk import Disk, write_all

SIZE = 4096
_HEAD = struct.Struct("<8sQ16s")
_MAGIC = b"podrtsh1"
_VERSION = 1
_GENERATION, _POISON, _DURABLE, _APPENDED, _SEGMENT, _FULL = 8, 9, 10, 11, 12, 13
# The words have no checksum: a damaged one must still be something to say.
_MAX_ERRNO = 4095
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def boot_id() -> bytes:
    """This boot's ID, 16 bytes. Source: random(4)."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


class Control:
    """The mapped words.

    `generation` counts the times the store was made whole anew: who finds another than it
    opened must open again. `poison` is the errno of a write or sync that failed and left in doubt
    what the disk holds (0: none); `full` that of one which was refused for want of space and left
    no doubt. `durable` is the highest sequence known to be on disk, `appended` the highest written,
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
        return min(self._words.load(_POISON), _MAX_ERRNO)

    @property
    def full(self) -> int:
        """The errno of the write that found no space, or 0."""
        return min(self._words.load(_FULL), _MAX_ERRNO)

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
        """`seq` was written, to the segment that begins with `segment`.

        The caller holds the append lock.
        """
        # The segment first: who reads `appended` and then `segment` must not pair a new
        # sequence with an old segment. But what damage took must not be believed to be on
        # disk after the next sync.
        self._words.store(_APPENDED, min(seq, self.appended))
        self._words.store(_SEGMENT, segment)
        self._words.store(_APPENDED, seq)

    def set_poison(self, errno: int) -> None:
        """From now on, until all is written anew, nobody acknowledges anything."""
        self._words.store(_POISON, errno)

    def set_full(self, errno: int) -> None:
        """From now on, until somebody opens the store, nobody acknowledges anything.

        The caller holds the append lock, here and in `clear_full`.
        """
        self._words.store(_FULL, errno)

    def clear_full(self) -> None:
        """The store was opened: what is on the disk has been looked at."""
        self._words.store(_FULL, 0)

    def renew(self, seq: int, segment: int) -> None:
        """The store was written anew and is durable up to `seq`: who was open must reopen."""
        self._words.store(_DURABLE, seq)
        self._words.store(_APPENDED, seq)
        self._words.store(_SEGMENT, segment)
        self._words.store(_GENERATION, (self.generation + 1) % (1 << 64))
        self._words.store(_FULL, 0)
        # Last: who dies before this leaves a store that is written anew once more.
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
    """Make the words of this boot and map them; the caller holds the append lock.

    A file of an earlier boot is used again, so that a full disk can be opened after a reboot,
    to remove something. Raises: OSError.
    """
    old = _open_old(path, disk)
    fresh = path if old is not None else f"{path}.new"
    fd = disk.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC) if old is None else old
    try:
        # Whole from the start: a store to a hole of a full disk would be SIGBUS. And the head
        # last: nobody maps a file without it.
        write_all(disk, fd, bytes(SIZE), 0)
        write_all(disk, fd, _HEAD.pack(_MAGIC, _VERSION, boot_id()), 0)
        mapping = Mapping(fd, SIZE, writable=True)
    finally:
        disk.close(fd)
    if old is None:
        disk.rename(fresh, path)
    return Control(mapping)


def _open_old(path: str, disk: Disk) -> int | None:
    """The file, if it is one that nobody can have mapped: of another boot."""
    try:
        fd = disk.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    if os.fstat(fd).st_size == SIZE and os.pread(fd, _HEAD.size, 0)[-16:] != boot_id():
        return fd
    disk.close(fd)
    return None
