"""Layers unpacked for overlay: made beside their place and renamed into it, once each.

Whoever unpacks a layer that somebody else unpacks at the same moment loses the race at the
rename and uses the other's, which is the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterator

from podrt.linux import trees

from . import blobs

SKELETON = "skeleton"
_PAUSE = "pause-"
PAUSE_PROGRAM = "/pause"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Mount points every container needs, in the lowest layer: bind-mounting over a file that only
# a higher layer has would copy it up (1.0 ms a container against 0.07).
_SKELETON_DIRECTORIES = (
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
)
_SKELETON_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "run/.containerenv")
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY})


def layer_path(images_dir: str, diff_id: str) -> str:
    """Where the layer whose archive has the hex SHA-256 `diff_id` lies unpacked.

    The layer with the pause program, which is of no archive, is named as `make_pause` says.
    """
    if diff_id.startswith(_PAUSE):
        return f"{images_dir}/{diff_id}"
    return f"{images_dir}/layers/{diff_id.removeprefix('sha256:')}"


def skeleton_path(images_dir: str) -> str:
    """The lowest layer of every container."""
    return f"{images_dir}/{SKELETON}"


@contextlib.contextmanager
def new_layer(images_dir: str) -> Iterator[NewLayer]:
    """A directory to unpack into; gone afterwards unless it was committed.

    Raises: StoreFailed.
    """
    path = blobs.temporary(images_dir)
    with blobs.disk_errors(path, "create"):
        os.mkdir(path, 0o700)
        descriptor = os.open(path, _DIRECTORY)
    try:
        # What "/" looks like if the archive does not say.
        os.fchmod(descriptor, 0o755)
        yield NewLayer(images_dir, path, descriptor)
    finally:
        os.close(descriptor)
        with blobs.disk_errors(path, "remove"):
            trees.remove_tree(path)


class NewLayer:
    """A layer that is being unpacked into the directory `root_fd`."""

    def __init__(self, images_dir: str, path: str, root_fd: int) -> None:
        self._images_dir = images_dir
        self._path = path
        self.root_fd = root_fd

    def commit(self, diff_id: str) -> None:
        """Make it durable and give it its place, unless the same layer is there already."""
        target = layer_path(self._images_dir, diff_id)
        if not os.path.isdir(target):
            with blobs.disk_errors(target):
                _flush_file_system(self.root_fd)
                _rename_unless_taken(self._path, target)
                blobs.flush_directory(os.path.dirname(target))


def make_skeleton(images_dir: str) -> None:
    """Make the skeleton layer if it is missing. Raises: StoreFailed."""
    _make_own(images_dir, skeleton_path(images_dir), _fill_skeleton)


def make_pause(images_dir: str, program: bytes) -> str:
    """Make the layer that holds nothing but podrt's pause program, if it is missing; its name.

    A copy for the store: nobody in a container gets to see the installed file. Raises: StoreFailed.
    """
    name = f"{_PAUSE}{hashlib.sha256(program).hexdigest()[:32]}"

    def fill(path: str) -> None:
        os.mkdir(path)
        os.chmod(path, 0o755)
        with open(f"{path}{PAUSE_PROGRAM}", "xb") as file:
            file.write(program)
            os.fchmod(file.fileno(), 0o755)

    _make_own(images_dir, layer_path(images_dir, name), fill)
    return name


def _make_own(images_dir: str, target: str, fill: Callable[[str], None]) -> None:
    if os.path.isdir(target):
        return
    blobs.make_layout(images_dir)
    with blobs.hold_images(images_dir):
        path = blobs.temporary(images_dir)
        try:
            with blobs.disk_errors(target, "create"):
                fill(path)
                _rename_unless_taken(path, target)
        finally:
            trees.remove_tree(path)


def _fill_skeleton(path: str) -> None:
    os.mkdir(path)
    os.chmod(path, 0o755)
    for name, mode in _SKELETON_DIRECTORIES:
        os.mkdir(f"{path}/{name}")
        os.chmod(f"{path}/{name}", mode)
    for name in _SKELETON_FILES:
        with open(f"{path}/{name}", "xb") as file:
            os.fchmod(file.fileno(), 0o644)


def _rename_unless_taken(path: str, target: str) -> None:
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise


def _flush_file_system(descriptor: int) -> None:
    """syncfs(2): one call for a layer of ten thousand files. Python has no name for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
