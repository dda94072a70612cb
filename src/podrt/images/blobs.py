"""The OCI image layout under the images directory: content named by its SHA-256.

```
oci-layout  index.json  blobs/sha256/<hex>     the layout other tools read
layers/<hex>                                   layers unpacked, named by their archive's SHA-256
skeleton/                                      the lowest layer of every container
tmp/<random>                                   whatever is being made; sweep removes what is left
lock                                           shared by who makes images, exclusive to sweep
```
Everything is made under `tmp`, flushed, and renamed to its place, so a name that exists is whole.

Source: OCI image specification, image-layout.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator

import msgspec

from podrt.errors import NotFound, StoreCorrupt, StoreFailed

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REFERENCE_NAME = "org.opencontainers.image.ref.name"
# Configurations and manifests are read whole; the distribution specification suggests 4 MiB.
MAX_DOCUMENT_BYTES = 4 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Descriptor(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """What points at a blob; `digest` is "sha256:" and hex. Foreign fields are tolerated."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, kw_only=True, rename="camel"):
    """An image's manifest: its configuration and its layers, lowest first."""

    schema_version: int = 2
    media_type: str = MANIFEST
    config: Descriptor
    layers: list[Descriptor]


class _Index(msgspec.Struct, kw_only=True, rename="camel"):
    schema_version: int = 2
    media_type: str = _INDEX
    manifests: list[Descriptor] = []


def make_layout(images_dir: str) -> None:
    """Make the directories and the two files of an empty layout; what exists stays.

    Raises: StoreFailed.
    """
    with disk_errors(images_dir):
        for name in ("blobs/sha256", "layers", "tmp"):
            os.makedirs(f"{images_dir}/{name}", mode=0o700, exist_ok=True)
    if os.path.exists(f"{images_dir}/oci-layout") and os.path.exists(f"{images_dir}/index.json"):
        return
    with hold_images(images_dir), _index_lock(images_dir):
        with disk_errors(images_dir):
            write_file(images_dir, "oci-layout", _LAYOUT)
        if not os.path.exists(f"{images_dir}/index.json"):
            _write_index(images_dir, _Index())


@contextlib.contextmanager
def hold_images(images_dir: str) -> Iterator[None]:
    """Keep `sweep` away while an image is made and until it is recorded in the state."""
    with _flock(f"{images_dir}/lock", fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def try_sweep_lock(images_dir: str) -> Iterator[bool]:
    """Yields whether nobody makes an image now, and keeps it so."""
    try:
        with _flock(f"{images_dir}/lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


@contextlib.contextmanager
def disk_errors(path: str, doing: str = "write") -> Iterator[None]:
    """Turn an OSError of podrt's own files into StoreFailed naming `path`."""
    try:
        yield
    except OSError as error:
        raise StoreFailed(path, error.errno or 0, doing) from error


def temporary(images_dir: str) -> str:
    """A fresh name below tmp."""
    return f"{images_dir}/tmp/{os.urandom(12).hex()}"


def blob_path(images_dir: str, digest: str) -> str:
    """Where the blob with the hex `digest` is."""
    return f"{images_dir}/blobs/sha256/{digest.removeprefix('sha256:')}"


class BlobWriter:
    """A blob being written; `commit` gives it its name, `discard` forgets it.

    Raises: StoreFailed.
    """

    def __init__(self, images_dir: str) -> None:
        self._images_dir = images_dir
        self._path = temporary(images_dir)
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        with disk_errors(self._path, "create"):
            self._file = open(self._path, "xb", buffering=0, opener=_private)  # noqa: SIM115

    def write(self, data: bytes) -> int:
        """Append `data`."""
        with disk_errors(self._path):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size_bytes += len(data)
        return len(data)

    @property
    def digest(self) -> str:
        """The hex SHA-256 of what was written so far."""
        return self._hash.hexdigest()

    def commit(self) -> str:
        """Flush and name the blob; returns its hex digest."""
        digest = self.digest
        target = blob_path(self._images_dir, digest)
        with disk_errors(target):
            os.fsync(self._file.fileno())
            self._file.close()
            os.rename(self._path, target)
            flush_directory(os.path.dirname(target))
        return digest

    def discard(self) -> None:
        """Close, and remove what was written; after `commit` nothing is left to do."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def put_document(images_dir: str, document: object) -> tuple[str, int]:
    """Store `document` as JSON; returns its hex digest and size. Raises: StoreFailed."""
    writer = BlobWriter(images_dir)
    try:
        size = writer.write(msgspec.json.encode(document))
        return writer.commit(), size
    finally:
        writer.discard()


def read_document(images_dir: str, digest: str) -> bytes:
    """A configuration or manifest. Raises: NotFound, StoreCorrupt if the content changed."""
    path = blob_path(images_dir, digest)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        raise NotFound("file", path) from None
    if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):
        raise StoreCorrupt(path, 0, "the content does not fit its digest")
    return data


def read_manifest(images_dir: str, digest: str) -> Manifest:
    """The manifest `digest`. Raises: NotFound, StoreCorrupt."""
    try:
        return msgspec.json.decode(read_document(images_dir, digest), type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(blob_path(images_dir, digest), 0, str(error)) from error


def set_references(images_dir: str, manifest: Descriptor, references: tuple[str, ...]) -> None:
    """List `manifest` in index.json under `references`, which no other image keeps.

    Without references it is listed once, unnamed. Raises: StoreFailed, StoreCorrupt.
    """
    with _index_lock(images_dir):
        index = _read_index(images_dir)
        kept = [
            entry
            for entry in index.manifests
            if entry.digest != manifest.digest and _reference_of(entry) not in references
        ]
        index.manifests = kept + _entries(manifest, references)
        _write_index(images_dir, index)


def replace_index(images_dir: str, images: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """Let index.json list exactly `images`: manifests' digests with their references.

    Raises: StoreFailed.
    """
    index = _Index()
    for digest, references in images:
        with disk_errors(blob_path(images_dir, digest), "read"):
            size = os.stat(blob_path(images_dir, digest)).st_size
        manifest = Descriptor(media_type=MANIFEST, digest=digest, size=size)
        index.manifests += _entries(manifest, references)
    with _index_lock(images_dir):
        _write_index(images_dir, index)


def indexed_references(images_dir: str) -> dict[str, str]:
    """Every name in index.json with its manifest's digest."""
    index = _read_index(images_dir)
    return {_reference_of(entry): entry.digest for entry in index.manifests if entry.annotations}


def write_file(images_dir: str, name: str, data: bytes) -> None:
    """Replace the file `name` of the images directory as a whole. Raises: OSError."""
    path = temporary(images_dir)
    try:
        with open(path, "xb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, f"{images_dir}/{name}")
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise
    flush_directory(images_dir)


def flush_directory(path: str) -> None:
    """Make the names in a directory durable. Raises: OSError."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _flock(path: str, operation: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _index_lock(images_dir: str) -> Iterator[None]:
    # A file of its own: the holder of `lock` may be a whole import.
    with _flock(f"{images_dir}/index.lock", fcntl.LOCK_EX):
        yield


def _entries(manifest: Descriptor, references: tuple[str, ...]) -> list[Descriptor]:
    named = [
        msgspec.structs.replace(manifest, annotations={REFERENCE_NAME: reference})
        for reference in references
    ]
    return named or [manifest]


def _reference_of(entry: Descriptor) -> str:
    return (entry.annotations or {}).get(REFERENCE_NAME, "")


def _read_index(images_dir: str) -> _Index:
    path = f"{images_dir}/index.json"
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=_Index)
    except FileNotFoundError:
        return _Index()
    except msgspec.DecodeError as error:
        raise StoreCorrupt(path, 0, str(error)) from error


def _write_index(images_dir: str, index: _Index) -> None:
    with disk_errors(f"{images_dir}/index.json"):
        write_file(images_dir, "index.json", msgspec.json.encode(index))
