"""Copying what an image shows in a directory, as an overlay of its layers would, to another place.

Nothing is mounted for it: the layers are laid over each other entry by entry, lowest first. Only
real directories are gone into, so that no symlink of an image leads anywhere.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence

from podrt.linux import trees

from . import blobs

Owner = Callable[[int, int], tuple[int, int]]
"""Who owns, at the new place, what a user and a group of the image own."""

_OPAQUE = "trusted.overlay.opaque"
_OVERLAY = "trusted.overlay."


def copy_up(layers: Sequence[str], path: str, target: str, owner: Owner) -> None:
    """Fill the empty directory `target` with what `layers` (highest first) show at `path`.

    The directory's own mode and owner come along; without such a directory nothing happens.
    Raises: StoreFailed.
    """
    parts = [part for part in path.split("/") if part]
    with blobs.disk_errors(target, "fill"):
        for layer in reversed(layers):
            source, hides_lower = _find(layer, parts)
            if hides_lower:
                _empty(target)
            if source:
                _lay_over(source, target, owner)


def _find(layer: str, parts: Sequence[str]) -> tuple[str, bool]:
    """Where a layer has the directory ("" nowhere), and whether it hides that of lower layers."""
    at, hides = layer, False
    for part in parts:
        at = f"{at}/{part}"
        try:
            status = os.lstat(at)
        except OSError:
            return "", hides
        if not stat.S_ISDIR(status.st_mode):
            # A whiteout, or something else in the directory's place.
            return "", True
        hides = hides or _is_opaque(at)
    return at, hides


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _empty(directory: str) -> None:
    for name in os.listdir(directory):
        trees.remove_tree(f"{directory}/{name}")


def _lay_over(source: str, target: str, owner: Owner) -> None:
    """Copy a layer's directory over what lower layers gave."""
    waiting = [(source, target)]
    made: list[tuple[str, str]] = []
    while waiting:
        above, below = waiting.pop()
        made.append((above, below))
        for entry in _entries(above):
            place = f"{below}/{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                trees.remove_tree(place)
                _copy(entry.path, place, owner)
                continue
            if not _is_directory(place) or _is_opaque(entry.path):
                trees.remove_tree(place)
                os.mkdir(place, 0o700)
            waiting.append((entry.path, place))
    # Filling a directory changes its time, and its mode may forbid it: last of all.
    for above, below in reversed(made):
        _copy_attributes(above, below, owner)


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        yield from found


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _copy(source: str, place: str, owner: Owner) -> None:
    status = os.lstat(source)
    mode = status.st_mode
    if stat.S_ISCHR(mode) and status.st_rdev == 0:
        # A whiteout: it is gone.
        return
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), place)
    elif stat.S_ISREG(mode):
        shutil.copyfile(source, place, follow_symlinks=False)
    else:
        os.mknod(place, mode, status.st_rdev)
    _copy_attributes(source, place, owner)


def _copy_attributes(source: str, place: str, owner: Owner) -> None:
    status = os.lstat(source)
    os.chown(place, *owner(status.st_uid, status.st_gid), follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith(_OVERLAY):
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(place, name, value, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(place, stat.S_IMODE(status.st_mode))
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
