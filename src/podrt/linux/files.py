"""File calls that hold against symlinks, half-written files and crashes."""

from __future__ import annotations

import contextlib
import os

from podrt._fast import calls


def open_inside(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if `root_fd` were "/": no symlink and no ".." leads out of it.

    Magic links (those of /proc) are refused. Raises: OSError. Source: openat2(2).
    """
    resolve = calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_MAGICLINKS
    return calls.openat2(root_fd, path, flags, mode, resolve)


def write_atomically(path: str, data: bytes, mode: int = 0o600, *, fsync: bool = False) -> None:
    """Put `data` at `path` so that a reader sees the old file or all of the new one.

    With `fsync` the new file also survives a power cut. Raises: OSError.
    """
    directory, name = os.path.split(path)
    dir_fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        beside = f".{name[:200]}.{os.urandom(8).hex()}"
        try:
            _write_new(dir_fd, beside, data, mode, fsync=fsync)
            os.rename(beside, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=dir_fd)
            raise
        if fsync:
            os.fsync(dir_fd)
    finally:
        os.close(dir_fd)


def _write_new(dir_fd: int, name: str, data: bytes, mode: int, *, fsync: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode, dir_fd=dir_fd)
    try:
        # The umask took bits away; the caller's word counts.
        os.fchmod(fd, mode)
        write_all(fd, data)
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of `data`, however many calls that takes. Raises: OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
