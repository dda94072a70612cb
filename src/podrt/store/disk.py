"""The few calls by which the store changes a disk: one seam, so that a test can lose power.

Reading needs no seam: whatever the calls below left behind is read with plain `os` calls.
"""

from __future__ import annotations

import os


class Disk:
    """The real thing. Every method raises OSError as the kernel does."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Open a file; O_CLOEXEC is always set."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Close what `open` gave."""
        os.close(fd)

    def write(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at `offset`; gives the number of bytes written, which may be fewer."""
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """fdatasync(2): content and size are on disk when this returns."""
        os.fdatasync(fd)

    def sync_dir(self, path: str) -> None:
        """Make the names in the directory `path` durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """rename(2)."""
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        """unlink(2); already gone is fine."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def write_all(disk: Disk, fd: int, data: bytes | bytearray, offset: int) -> None:
    """Write all of `data` at `offset`, however many calls that takes. Raises: OSError."""
    done = disk.write(fd, data, offset)
    while done < len(data):
        # The view is let go at once: a bytearray that is looked at cannot grow.
        with memoryview(data) as rest, rest[done:] as left:
            done += disk.write(fd, left, offset + done)


def read_from(fd: int, offset: int, size: int) -> bytes:
    """The bytes from `offset` up to `size` (fewer when the file is cut meanwhile)."""
    data = os.pread(fd, size - offset, offset)
    while len(data) < size - offset:
        more = os.pread(fd, size - offset - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


REAL_DISK = Disk()
