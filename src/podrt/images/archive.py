"""Unpacking a layer's archive into a directory, and never anywhere else.

The directory is open as a descriptor, every parent is resolved by openat2 with RESOLVE_IN_ROOT
(".." and absolute symlinks stay inside), and the last component is only ever created, linked or
removed, never followed. So no name, symlink or hard link of an archive reaches outside.

Source: OCI image specification, layer.md (whiteouts); overlayfs.rst (their form on disk).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import msgspec

from podrt._fast import calls
from podrt.errors import PodrtError, StoreFailed, Unsupported
from podrt.linux import trees

from .tarstream import (
    BLOCK,
    CHAR,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Member,
    TarReader,
)

_RESOLVE = calls.RESOLVE_IN_ROOT | calls.RESOLVE_NO_MAGICLINKS | calls.RESOLVE_NO_XDEV
_PARENT_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LEAF_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEAF_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_OPAQUE_XATTR = "trusted.overlay.opaque"
# The overlay's own attributes redirect look-ups: an archive may not set them.
_USER_XATTR, _OVERLAY_XATTR = b"user.", b"user.overlay."
_CAPABILITY_XATTR = b"security.capability"

# Directories' times are set last, because filling them changes the times. The list of them is
# the only thing that grows with an archive; past this, later directories keep the time of
# unpacking.
_MAX_REMEMBERED_BYTES = 8 << 20
MAX_MEMBERS = 4_000_000
# The numbers the kernel's 32-bit device encoding holds.
_MAX_MAJOR, _MAX_MINOR = 4095, (1 << 20) - 1
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of an archive."""

    members: int
    size_bytes: int


class _At(msgspec.Struct, frozen=True):
    """A place in the layer: the parent's descriptor and the last component."""

    parent_fd: int
    leaf: bytes


class Unpacker:
    """Unpacks `reader` into the directory `root_fd`, which nobody else works in.

    Raises: InvalidConfig naming the archive and the member, Unsupported, StoreFailed.
    """

    def __init__(self, root_fd: int, reader: TarReader) -> None:
        self._root_fd = root_fd
        self._reader = reader
        self._parent: tuple[bytes, int] | None = None
        self._times: list[tuple[bytes, int]] = []
        self._times_bytes = 0
        self._members = 0
        self._size_bytes = 0
        self._makers: dict[bytes, Callable[[Member, _At], None]] = {
            REGULAR: self._make_file,
            HARD_LINK: self._make_hard_link,
            SYMLINK: self._make_symlink,
            CHAR: self._make_node,
            BLOCK: self._make_node,
            FIFO: self._make_node,
        }

    def run(self) -> Unpacked:
        """Unpack everything."""
        try:
            while (member := self._reader.next_member()) is not None:
                self._members += 1
                if self._members > MAX_MEMBERS:
                    raise self._reader.bad(f"more than {MAX_MEMBERS} members", member)
                self._add_checked(member)
            self._set_directory_times()
        finally:
            self._drop_parent()
        return Unpacked(members=self._members, size_bytes=self._size_bytes)

    def _add_checked(self, member: Member) -> None:
        try:
            self._add(member)
        except PodrtError:
            raise
        except OSError as error:
            raise self._worded(error, member) from error

    def _worded(self, error: OSError, member: Member) -> PodrtError:
        if error.errno in _DISK_ERRORS:
            return StoreFailed(member.shown, error.errno or 0, "unpack")
        if error.errno == errno.EPERM and member.kind in (CHAR, BLOCK):
            return Unsupported(f"device node {member.shown!r}", "this needs CAP_MKNOD")
        reasons = {
            errno.ELOOP: "its parent is a loop of symbolic links",
            errno.ENOTDIR: "its parent is not a directory",
            errno.ENOENT: "its parent is a symbolic link to nothing",
            errno.EXDEV: "it would leave the layer",
        }
        reason = reasons.get(error.errno or 0, os.strerror(error.errno or 0))
        return self._reader.bad(f"cannot unpack: {reason}", member)

    def _add(self, member: Member) -> None:
        path = self._clean(member.name, member)
        if not path:
            return self._root_member(member)
        parent, _, leaf = path.rpartition(b"/")
        at = _At(self._open_parent(parent), leaf)
        if leaf.startswith(_WHITEOUT):
            return self._whiteout(member, at)
        if member.kind == DIRECTORY:
            return self._make_directory(member, at, path)
        self._clear(at)
        self._makers[member.kind](member, at)
        return None

    def _clean(self, name: bytes, member: Member) -> bytes:
        """`name` without leading slashes, "." and doubled slashes; b"" is the root."""
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise self._reader.bad('a name with ".."', member)
        return b"/".join(parts)

    def _root_member(self, member: Member) -> None:
        if member.kind != DIRECTORY:
            raise self._reader.bad("the root of a layer must be a directory", member)
        self._finish(self._root_fd, member)
        self._remember(b".", member)

    # Parents -----------------------------------------------------------------

    def _open_parent(self, path: bytes) -> int:
        """The directory `path`, made with its parents if it is missing; kept for the next."""
        if self._parent is not None and self._parent[0] == path:
            return self._parent[1]
        # Dropped for the root as well: only there may the kept one itself be replaced.
        self._drop_parent()
        if not path:
            return self._root_fd
        try:
            descriptor = self._resolve(path)
        except FileNotFoundError:
            descriptor = self._make_parents(path)
        self._parent = (path, descriptor)
        return descriptor

    def _drop_parent(self) -> None:
        if self._parent is not None:
            descriptor = self._parent[1]
            self._parent = None
            os.close(descriptor)

    def _resolve(self, path: bytes) -> int:
        while True:
            try:
                return calls.openat2(self._root_fd, path, _PARENT_FLAGS, 0, _RESOLVE)
            except BlockingIOError:
                # Somebody renamed something, anywhere, while the kernel walked over a "..".
                continue

    def _make_parents(self, path: bytes) -> int:
        """Make what is missing of `path` below what there is of it; opens its end."""
        parts = path.split(b"/")
        descriptor, count = self._deepest(parts)
        try:
            for leaf in parts[count:]:
                _make_parent(descriptor, leaf)
                # Made a moment ago, so it is a directory of ours.
                below_fd = os.open(leaf, _PARENT_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below_fd
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _deepest(self, parts: list[bytes]) -> tuple[int, int]:
        """The deepest existing directory on the way, and how many of `parts` lead to it."""
        for count in range(len(parts) - 1, 0, -1):
            try:
                return self._resolve(b"/".join(parts[:count])), count
            except FileNotFoundError:
                continue
        return self._resolve(b"."), 0

    # Members -----------------------------------------------------------------

    def _clear(self, at: _At) -> None:
        """Remove what an earlier member left under this name."""
        try:
            os.unlink(at.leaf, dir_fd=at.parent_fd)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            trees.remove_tree_at(at.parent_fd, at.leaf)

    def _make_directory(self, member: Member, at: _At, path: bytes) -> None:
        try:
            os.mkdir(at.leaf, 0o700, dir_fd=at.parent_fd)
        except FileExistsError:
            if not _is_directory(at):
                self._clear(at)
                os.mkdir(at.leaf, 0o700, dir_fd=at.parent_fd)
        descriptor = os.open(at.leaf, _LEAF_DIR_FLAGS, dir_fd=at.parent_fd)
        try:
            self._finish(descriptor, member)
        finally:
            os.close(descriptor)
        self._remember(path, member)

    def _make_file(self, member: Member, at: _At) -> None:
        descriptor = os.open(at.leaf, _LEAF_FILE_FLAGS, 0o600, dir_fd=at.parent_fd)
        try:
            for piece in self._reader.pieces():
                _write_all(descriptor, piece)
            self._size_bytes += member.size_bytes
            self._finish(descriptor, member)
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(descriptor)

    def _make_symlink(self, member: Member, at: _At) -> None:
        if not member.link:
            raise self._reader.bad("a symbolic link to nothing", member)
        os.symlink(member.link, at.leaf, dir_fd=at.parent_fd)
        os.chown(at.leaf, member.uid, member.gid, dir_fd=at.parent_fd, follow_symlinks=False)
        self._set_time(member, at)

    def _make_hard_link(self, member: Member, at: _At) -> None:
        target = self._clean(member.link, member)
        parent, _, leaf = target.rpartition(b"/")
        if not leaf:
            raise self._reader.bad("a hard link to the root", member)
        try:
            parent_fd = self._resolve(parent or b".")
        except OSError:
            raise self._reader.bad("a hard link to a missing file", member) from None
        try:
            os.link(
                leaf,
                at.leaf,
                src_dir_fd=parent_fd,
                dst_dir_fd=at.parent_fd,
                follow_symlinks=False,
            )
        except FileNotFoundError:
            raise self._reader.bad("a hard link to a missing file", member) from None
        finally:
            os.close(parent_fd)

    def _make_node(self, member: Member, at: _At) -> None:
        if not (0 <= member.major <= _MAX_MAJOR and 0 <= member.minor <= _MAX_MINOR):
            raise self._reader.bad("a device number out of range", member)
        kind = {CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO}[member.kind]
        device = os.makedev(member.major, member.minor) if member.kind != FIFO else 0
        os.mknod(at.leaf, kind | 0o600, device, dir_fd=at.parent_fd)
        os.chown(at.leaf, member.uid, member.gid, dir_fd=at.parent_fd, follow_symlinks=False)
        # The node was made a moment ago in a directory nobody else knows: no link to follow.
        os.chmod(at.leaf, member.mode, dir_fd=at.parent_fd)
        self._set_time(member, at)

    def _whiteout(self, member: Member, at: _At) -> None:
        """A deletion: overlay's character device 0:0, or its mark on the parent."""
        if at.leaf == _OPAQUE:
            self._set_opaque(at.parent_fd)
            return
        if at.leaf.startswith(_AUFS):
            return  # aufs' own bookkeeping, which the specification says to ignore
        hidden = at.leaf[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise self._reader.bad("a whiteout of no name", member)
        place = _At(at.parent_fd, hidden)
        self._clear(place)
        os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=at.parent_fd)

    def _set_opaque(self, parent_fd: int) -> None:
        # Attributes cannot be set through an O_PATH descriptor.
        descriptor = os.open(".", _LEAF_DIR_FLAGS, dir_fd=parent_fd)
        try:
            os.setxattr(descriptor, _OPAQUE_XATTR, b"y")
        finally:
            os.close(descriptor)

    # Owners, modes, attributes, times ----------------------------------------

    def _finish(self, descriptor: int, member: Member) -> None:
        # In this order: a change of owner clears the set-user-ID bit and the capabilities.
        os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode)
        for key, value in member.xattrs.items():
            self._set_xattr(descriptor, key, value)

    def _set_xattr(self, descriptor: int, key: bytes, value: bytes) -> None:
        if key == _CAPABILITY_XATTR:
            os.setxattr(descriptor, key, value)
        elif key.startswith(_USER_XATTR) and not key.startswith(_OVERLAY_XATTR):
            try:
                os.setxattr(descriptor, key, value)
            except OSError as error:
                # Not every file system has user attributes, and none has room for all.
                if error.errno not in (errno.ENOTSUP, errno.ENOSPC, errno.E2BIG):
                    raise

    def _set_time(self, member: Member, at: _At) -> None:
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(at.leaf, ns=times, dir_fd=at.parent_fd, follow_symlinks=False)

    def _remember(self, path: bytes, member: Member) -> None:
        self._times_bytes += len(path) + 100
        if self._times_bytes <= _MAX_REMEMBERED_BYTES:
            self._times.append((path, member.mtime_ns))

    def _set_directory_times(self) -> None:
        for path, mtime_ns in reversed(self._times):
            parent, _, leaf = path.rpartition(b"/")
            try:
                parent_fd = self._resolve(parent or b".")
            except OSError:
                continue  # a later member replaced it
            try:
                if _is_directory(_At(parent_fd, leaf)):
                    times = (mtime_ns, mtime_ns)
                    os.utime(leaf, ns=times, dir_fd=parent_fd, follow_symlinks=False)
            finally:
                os.close(parent_fd)


def unpack_archive(root_fd: int, reader: TarReader) -> Unpacked:
    """Unpack `reader` into the empty directory `root_fd`. Raises: as Unpacker."""
    return Unpacker(root_fd, reader).run()


def _make_parent(parent_fd: int, leaf: bytes) -> None:
    try:
        os.mkdir(leaf, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        # It exists and yet does not resolve: a symlink to nothing.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
    os.chmod(leaf, 0o755, dir_fd=parent_fd)


def _is_directory(at: _At) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(at.leaf, dir_fd=at.parent_fd).st_mode)
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
