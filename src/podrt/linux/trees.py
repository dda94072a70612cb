"""Removing directory trees that untrusted programs have filled.

No symlink is followed, no other file system is entered, and neither the depth of the tree nor
its size is limited by descriptors, stack or memory. (`shutil.rmtree` opens one descriptor and
uses one stack frame per level: a container makes ten thousand levels in a moment.)
"""

from __future__ import annotations

import errno
import os

from podrt._fast import calls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# How deep to walk with a descriptor per level; what lies deeper is moved up first.
_MAX_DEPTH = 32


def remove_tree(path: str | bytes) -> None:
    """Remove `path` and all below it; a missing one is fine. Raises: as remove_tree_at."""
    parent, leaf = os.path.split(os.fsencode(path).rstrip(b"/"))
    try:
        parent_fd = os.open(parent or b".", _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove_tree_at(parent_fd, leaf)
    finally:
        os.close(parent_fd)


def remove_tree_at(parent_fd: int, leaf: bytes) -> None:
    """Remove `leaf` of the directory `parent_fd` and all below it; a missing one is fine.

    Two callers may work on the same tree. Raises: OSError; EBUSY when something is mounted in
    the tree, whose content is left alone.
    """
    try:
        root_fd = _open(parent_fd, leaf)
    except FileNotFoundError:
        return
    except OSError as error:
        # O_NOFOLLOW on a symlink says ELOOP or ENOTDIR.
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        _unlink(parent_fd, leaf)
        return
    try:
        # Every round leaves less: what lay too deep has been moved to the top.
        while not _empty(root_fd, root_fd, 0):
            pass
    finally:
        os.close(root_fd)
    _rmdir(parent_fd, leaf)


def _open(parent_fd: int, name: bytes) -> int:
    """Open a directory that is no mount point.

    Device numbers would not tell: a bind mount shows its source's, a btrfs subvolume its own.
    """
    try:
        return calls.openat2(parent_fd, name, _DIRECTORY, 0, calls.RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, "something is mounted here", name) from error
        raise


def _empty(directory_fd: int, root_fd: int, depth: int) -> bool:
    """Remove what is in a directory; whether all of it is gone (else: go round again)."""
    is_done = True
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if not entry.is_dir(follow_symlinks=False):
                _unlink(directory_fd, name)
            else:
                is_done &= _remove_directory(directory_fd, name, root_fd, depth)
    return is_done


def _remove_directory(directory_fd: int, name: bytes, root_fd: int, depth: int) -> bool:
    if depth >= _MAX_DEPTH:
        if _remove_empty(directory_fd, name):
            return True
        _move_up(directory_fd, name, root_fd)
        return False
    try:
        below_fd = _open(directory_fd, name)
    except FileNotFoundError:
        return True
    try:
        is_done = _empty(below_fd, root_fd, depth + 1)
    finally:
        os.close(below_fd)
    return is_done and _remove_empty(directory_fd, name)


def _move_up(directory_fd: int, name: bytes, root_fd: int) -> None:
    try:
        os.rename(name, os.urandom(12).hex(), src_dir_fd=directory_fd, dst_dir_fd=root_fd)
    except FileNotFoundError:
        pass


def _remove_empty(directory_fd: int, name: bytes) -> bool:
    """Whether the directory is gone; False if there is something in it."""
    try:
        os.rmdir(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _rmdir(directory_fd: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=directory_fd)
    except FileNotFoundError:
        pass


def _unlink(directory_fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=directory_fd)
    except FileNotFoundError:
        pass
