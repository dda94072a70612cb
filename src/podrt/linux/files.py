"""File calls that hold against symlinks, half-written files and crashes."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets

from podrt._fast import calls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What lies deeper is moved up first, so that a hostile tree can exhaust neither the stack nor the
# descriptor table.
_DEPTH = 64


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
        beside = f".{name[:200]}.{secrets.token_hex(8)}"
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


def remove_tree(path: str) -> None:
    """Remove `path` and all below it; already gone is fine. Symlinks are removed, not followed.

    A directory that is swapped for a symlink meanwhile is not entered. A mount point inside fails
    with EBUSY. Raises: OSError.
    """
    directory, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "not a name that can be removed", path)
    try:
        parent_fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if _unlink(parent_fd, name):
            return
        _remove_directory(parent_fd, name)
    finally:
        os.close(parent_fd)


def _unlink(dir_fd: int, name: str) -> bool:
    """Remove a name that is no directory; False when it is one."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True


def _remove_directory(parent_fd: int, name: str) -> None:
    try:
        top_fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    try:
        while _empty(top_fd, top_fd, _DEPTH):
            pass
    finally:
        os.close(top_fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent_fd)


def _empty(fd: int, top_fd: int, depth: int) -> bool:
    """Remove what is in the directory `fd`; whether something too deep was moved up to `top_fd`."""
    moved = False
    with os.scandir(fd) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if _unlink(fd, name):
            continue
        if depth == 0:
            os.rename(name, secrets.token_hex(16), src_dir_fd=fd, dst_dir_fd=top_fd)
            moved = True
        else:
            moved |= _empty_below(fd, name, top_fd, depth - 1)
    return moved


def _empty_below(parent_fd: int, name: str, top_fd: int, depth: int) -> bool:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    except FileNotFoundError:
        return False
    try:
        moved = _empty(fd, top_fd, depth)
    finally:
        os.close(fd)
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent_fd)
    return moved
