"""Making, checking and replacing the file behind the lock table.

The file gets its name only when it is whole, so an opener never meets half a table. A reboot
voids it, on a disk as on a tmpfs: the processes and containers its words speak of are gone.
The layout is described, and used, in `locktable.h`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import zlib

from podrt.errors import StoreCorrupt, StoreFailed

MAGIC = b"podrtlk1"
VERSION = 1
PAGE = 4096
SLOTS = 4096
CHUNK_ENTRIES = 4096
ENTRY_BYTES = 64
CHUNKS_AT = PAGE + SLOTS * 64
CHUNK_BYTES = PAGE + CHUNK_ENTRIES * ENTRY_BYTES
SIZES = (PAGE, SLOTS, 64, CHUNK_ENTRIES, ENTRY_BYTES)

# magic, version, sizes, boot ID; then a checksum of those: a damaged boot ID must not look like
# a reboot, which would replace a table that is in use.
_HEAD = struct.Struct("<8s6I16s")
_CHECKSUM = struct.Struct("<I")
_CAPACITY_AT = 64
_SUMMARY_AT = 128


def read_boot_id() -> bytes:
    """The kernel's ID of this boot, 16 bytes."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def pack_header(boot_id: bytes) -> bytes:
    """The part of the header that never changes, with its checksum."""
    head = _HEAD.pack(MAGIC, VERSION, *SIZES, boot_id)
    return head + _CHECKSUM.pack(zlib.crc32(head))


def open_file(path: str) -> int:
    """A descriptor of this boot's table at `path`, made if need be.

    Raises: StoreCorrupt; StoreFailed when the file system refuses.
    """
    try:
        while True:
            fd = _open_once(path)
            if fd is not None:
                return fd
    except OSError as error:
        raise StoreFailed(path, error.errno or errno.EIO, "open") from error


def open_to_look(path: str) -> int | None:
    """A descriptor to read this boot's table with, None when there is no such table.

    Raises: StoreCorrupt, StoreFailed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreFailed(path, error.errno or errno.EIO, "open") from error
    try:
        if _is_of_this_boot(path, fd):
            return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _open_once(path: str) -> int | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        _create(path)
        return None
    try:
        if _is_of_this_boot(path, fd):
            return fd
        _replace(path, fd)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_of_this_boot(path: str, fd: int) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise StoreCorrupt(path, 0, "not a regular file")
    data = os.pread(fd, _HEAD.size + _CHECKSUM.size, 0)
    if len(data) < _HEAD.size + _CHECKSUM.size:
        raise StoreCorrupt(path, len(data), "shorter than its header")
    magic, version, *sizes, boot_id = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise StoreCorrupt(path, 0, "not a lock table")
    if _CHECKSUM.unpack_from(data, _HEAD.size)[0] != zlib.crc32(data[: _HEAD.size]):
        raise StoreCorrupt(path, len(MAGIC), "the header does not match its checksum")
    if version != VERSION:
        raise StoreCorrupt(path, 8, f"version {version}, this podrt knows {VERSION}")
    if tuple(sizes) != SIZES:
        raise StoreCorrupt(path, 12, "sizes that this podrt does not use")
    return bool(boot_id == read_boot_id())


def _create(path: str) -> None:
    """Makes an empty table unless another process is faster."""
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = -1
    try:
        fd = os.open(f"/proc/self/fd/{folder}", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        _fill(fd)
        # With directory descriptors Python calls linkat(2), which can follow this link.
        source, name = f"/proc/self/fd/{fd}", os.path.basename(path)
        os.link(source, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return
    finally:
        os.close(folder)
        if fd >= 0:
            os.close(fd)


def _fill(fd: int) -> None:
    # Blocks are reserved now: a full tmpfs would otherwise answer a store with SIGBUS.
    os.posix_fallocate(fd, 0, CHUNKS_AT + CHUNK_BYTES)
    # Lock 0 is never given out.
    os.pwrite(fd, b"\xfe" + b"\xff" * (CHUNK_ENTRIES // 8 - 1), CHUNKS_AT)
    os.pwrite(fd, b"\x01", _SUMMARY_AT)
    os.pwrite(fd, struct.pack("<I", CHUNK_ENTRIES), _CAPACITY_AT)
    os.pwrite(fd, pack_header(read_boot_id()), 0)


def _replace(path: str, fd: int) -> None:
    """Removes the table of an earlier boot, unless another opener has already done so."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        now, ours = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return
    if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
        os.unlink(path)
