"""A container's root file system: an overlay of its image's layers and a directory of its own."""

from __future__ import annotations

import os
import stat

import msgspec

from podrt.errors import InvalidConfig, NotFound
from podrt.model.image import Image

from . import blobs, layers

# overlayfs takes 500 lower directories; the skeleton is one.
_MAX_LAYERS = 499


class Rootfs(msgspec.Struct, frozen=True, kw_only=True):
    """What an overlay mount needs: `lower` has the highest layer first, the skeleton last."""

    lower: tuple[str, ...]
    upper: str
    work: str


def describe_rootfs(images_dir: str, image: Image, container_dir: str) -> Rootfs:
    """The overlay of a container whose directory is `container_dir`; touches no disk."""
    lower = [layers.layer_path(images_dir, diff_id) for diff_id in reversed(image.layers)]
    return Rootfs(
        lower=(*lower, layers.skeleton_path(images_dir)),
        upper=f"{container_dir}/upper",
        work=f"{container_dir}/work",
    )


def prepare_rootfs(images_dir: str, image: Image, container_dir: str) -> Rootfs:
    """Make the container's own directories. `container_dir` may exist; upper must not.

    Raises: NotFound when a layer is missing, InvalidConfig for too many layers, StoreFailed.
    """
    if len(image.layers) > _MAX_LAYERS:
        raise InvalidConfig("image", f"{image.id[:12]} has more than {_MAX_LAYERS} layers")
    rootfs = describe_rootfs(images_dir, image, container_dir)
    top = _lstat(rootfs.lower[0])
    with blobs.disk_errors(container_dir, "create"):
        os.makedirs(container_dir, mode=0o700, exist_ok=True)
        os.mkdir(rootfs.upper, 0o700)
        os.mkdir(rootfs.work, 0o700)
        # The upper directory's attributes are what the container sees on "/".
        os.chown(rootfs.upper, top.st_uid, top.st_gid)
        os.chmod(rootfs.upper, stat.S_IMODE(top.st_mode))
    return rootfs


def check_layers(images_dir: str, image: Image) -> None:
    """Raises: NotFound naming the first layer of `image` that is not unpacked."""
    for diff_id in image.layers:
        _lstat(layers.layer_path(images_dir, diff_id))


def _lstat(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        raise NotFound("file", path) from None
