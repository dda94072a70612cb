"""Making an image of one archive, and removing what no image needs any more.

The files come first and the caller's record of them second, so that a crash in between leaves
files nobody knows, which `sweep` removes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import msgspec

from podrt.errors import InvalidConfig, NotFound, StoreFailed, Unsupported
from podrt.linux import trees
from podrt.model.image import Image, ImageDefaults

from . import blobs, layers, streams
from .archive import unpack_archive
from .changes import parse_changes
from .reference import normalise
from .tarstream import Source, TarReader

STDIN = "-"
# A compressed bomb ends here instead of at the last byte of the disk.
MAX_LAYER_BYTES = 64 << 30
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SUFFIXES = {streams.PLAIN: "", streams.GZIP: "+gzip", streams.ZSTD: "+zstd"}


class _Layer(msgspec.Struct, frozen=True, kw_only=True):
    diff_id: str
    blob: blobs.Descriptor
    size_bytes: int


def import_image(
    images_dir: str,
    source: str | BinaryIO,
    reference: str = "",
    *,
    changes: Iterable[str] = (),
    message: str = "",
) -> Image:
    """Make an image of a root file system's archive (tar; plain, gzip, bzip2, xz or zstd).

    `source` is a path, "-" for standard input, or an open binary file; `reference` "" leaves
    the image unnamed. The caller records the image and holds `blobs.hold_images` until then.
    Blocking: run it in a thread.

    Raises: InvalidConfig naming the reference, the change, or the archive and its member;
    NotFound, Unsupported, LimitReached, StoreFailed. Nothing is left behind.
    """
    references = (normalise(reference),) if reference else ()
    defaults = parse_changes(changes)
    blobs.make_layout(images_dir)
    layers.make_skeleton(images_dir)
    with blobs.hold_images(images_dir), _open_source(source) as (file, name):
        layer = _import_layer(images_dir, file, name)
        image = _put_image(images_dir, layer, defaults, message)
        image = msgspec.structs.replace(image, references=references)
        manifest = _manifest_descriptor(images_dir, image.manifest_digest)
        blobs.set_references(images_dir, manifest, references)
        return image


def sweep(images_dir: str, known: Callable[[], Iterable[Image]]) -> bool:
    """Remove every blob, layer and temporary file that no image of `known()` needs.

    `known` is called once nobody makes an image any more. Returns False, having done nothing,
    while somebody does. Raises: StoreFailed.
    """
    if not os.path.isdir(f"{images_dir}/tmp"):
        return True
    with blobs.try_sweep_lock(images_dir) as is_ours:
        if not is_ours:
            return False
        images = tuple(known())
        blobs.replace_index(
            images_dir, ((image.manifest_digest, image.references) for image in images)
        )
        with blobs.disk_errors(images_dir, "sweep"):
            _remove_but(f"{images_dir}/tmp", frozenset())
            kept = frozenset(diff_id for image in images for diff_id in image.layers)
            _remove_but(f"{images_dir}/layers", kept)
            _remove_but(f"{images_dir}/blobs/sha256", _needed_blobs(images_dir, images))
    return True


def image_document(images_dir: str, image: Image) -> dict[str, object]:
    """The image's OCI configuration. Raises: NotFound, StoreCorrupt."""
    return msgspec.json.decode(blobs.read_document(images_dir, image.id), type=dict[str, object])


@contextlib.contextmanager
def _open_source(source: str | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    if not isinstance(source, str):
        yield source, str(getattr(source, "name", "archive"))
    elif source == STDIN:
        yield sys.stdin.buffer, "standard input"
    else:
        if source.startswith(("http://", "https://")):
            raise Unsupported(f"{source}: importing from a URL")
        with _open_file(source) as file:
            yield file, source


def _open_file(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise NotFound("file", path) from None
    except (OSError, ValueError) as error:
        raise InvalidConfig(path, getattr(error, "strerror", None) or str(error)) from error


class _Readable:
    """The source with its errors worded, and its head put back."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise StoreFailed(self._name, error.errno or 0, "read") from error


def _import_layer(images_dir: str, file: BinaryIO, name: str) -> _Layer:
    readable = _Readable(file, name)
    head = readable.read(streams.MAGIC_BYTES)
    compression = streams.compression_of(head)
    source = streams.Prefixed(head, readable)
    blob, hasher = blobs.BlobWriter(images_dir), streams.Hasher()
    is_kept_as_given = compression in (streams.GZIP, streams.ZSTD)
    try:
        raw = _tap(source, blob, name) if is_kept_as_given else source
        plain = streams.decompressed(raw, compression, name)
        tar = _tap(plain, hasher if is_kept_as_given else blob, name)
        with layers.new_layer(images_dir) as layer:
            unpacked = unpack_archive(layer.root_fd, TarReader(tar, name))
            tar.drain()
            diff_id = hasher.digest if is_kept_as_given else blob.digest
            layer.commit(diff_id)
        suffix = _SUFFIXES[compression] if is_kept_as_given else ""
        descriptor = blobs.Descriptor(
            media_type=blobs.LAYER + suffix, digest=f"sha256:{blob.commit()}", size=blob.size_bytes
        )
        return _Layer(diff_id=diff_id, blob=descriptor, size_bytes=unpacked.size_bytes)
    finally:
        blob.discard()


def _tap(source: Source, sink: streams.Sink, name: str) -> streams.Tap:
    return streams.Tap(source, sink, name=name, limit_bytes=MAX_LAYER_BYTES)


def _put_image(images_dir: str, layer: _Layer, defaults: ImageDefaults, message: str) -> Image:
    created_at_ns = time.time_ns()
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config_digest, config_size = blobs.put_document(
        images_dir,
        {
            "created": _rfc3339(created_at_ns),
            "architecture": architecture,
            "os": "linux",
            "config": _config(defaults),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}"]},
            "history": [{"created": _rfc3339(created_at_ns), "comment": message}],
        },
    )
    config = blobs.Descriptor(
        media_type=blobs.CONFIG, digest=f"sha256:{config_digest}", size=config_size
    )
    manifest = blobs.Manifest(config=config, layers=[layer.blob])
    manifest_digest, _size = blobs.put_document(images_dir, manifest)
    return Image(
        id=config_digest,
        layers=(layer.diff_id,),
        manifest_digest=f"sha256:{manifest_digest}",
        defaults=defaults,
        architecture=architecture,
        created_at_ns=created_at_ns,
        size_bytes=layer.size_bytes,
    )


def _config(defaults: ImageDefaults) -> dict[str, object]:
    """The "config" object, with the capital letters the specification took from Docker."""
    config: dict[str, object] = {
        "User": defaults.user,
        "ExposedPorts": {port: {} for port in defaults.exposed_ports},
        "Env": list(defaults.env),
        "Entrypoint": list(defaults.entrypoint),
        "Cmd": list(defaults.command),
        "Volumes": {path: {} for path in defaults.volumes},
        "WorkingDir": defaults.workdir,
        "Labels": dict(defaults.labels),
        "StopSignal": defaults.stop_signal,
    }
    return {key: value for key, value in config.items() if value}


def _rfc3339(at_ns: int) -> str:
    whole = datetime.datetime.fromtimestamp(at_ns // 1_000_000_000, tz=datetime.UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at_ns % 1_000_000_000:09d}Z"


def _manifest_descriptor(images_dir: str, digest: str) -> blobs.Descriptor:
    size = os.stat(blobs.blob_path(images_dir, digest)).st_size
    return blobs.Descriptor(media_type=blobs.MANIFEST, digest=digest, size=size)


def _needed_blobs(images_dir: str, images: Iterable[Image]) -> frozenset[str]:
    needed: set[str] = set()
    for image in images:
        manifest = blobs.read_manifest(images_dir, image.manifest_digest)
        digests = [image.manifest_digest, manifest.config.digest]
        digests += [layer.digest for layer in manifest.layers]
        needed.update(digest.removeprefix("sha256:") for digest in digests)
    return frozenset(needed)


def _remove_but(directory: str, kept: frozenset[str]) -> None:
    for name in os.listdir(directory):
        if name not in kept:
            trees.remove_tree(f"{directory}/{name}")
