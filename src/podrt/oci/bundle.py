"""A bundle: a directory with a config.json, and what must be true of it before anything is made.

Source: runtime-spec bundle.md, config.md.
"""

from __future__ import annotations

import os
import re

import msgspec

from podrt.errors import InvalidConfig, NotFound, Unsupported
from podrt.model import runtimespec as oci

CONFIG = "config.json"
_LARGEST = 16 << 20
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:[-+][\w.+-]+)?", re.ASCII)


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle as it was read: absolute paths, the document and its bytes."""

    path: str
    rootfs: str
    spec: oci.Spec
    data: bytes


class _Version(msgspec.Struct, rename="camel"):
    oci_version: str | None = None


def read(path: str, config: str = CONFIG) -> Bundle:
    """Read the bundle in the directory `path`, described by the file `config`, which may lie
    elsewhere. Raises: NotFound, InvalidConfig, Unsupported."""
    path = os.path.abspath(path)
    data = read_document(os.path.join(path, config))
    spec = oci.decode(data)
    _check_version(data)
    if spec.root is None or not spec.root.path:
        raise InvalidConfig("root.path", "is missing")
    rootfs = os.path.realpath(os.path.join(path, spec.root.path))
    if not os.path.isdir(rootfs):
        raise InvalidConfig("root.path", f"{rootfs} is not a directory")
    if rootfs == "/":
        raise InvalidConfig("root.path", "is the host's own root")
    if spec.linux is None:
        raise InvalidConfig("linux", "is missing")
    return Bundle(path=path, rootfs=rootfs, spec=spec, data=data)


def read_document(path: str) -> bytes:
    """A JSON file somebody else wrote. Raises: NotFound, InvalidConfig."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            data = file.read(_LARGEST + 1) or b""
    except FileNotFoundError as exc:
        raise NotFound("file", path) from exc
    except OSError as exc:
        raise InvalidConfig(path, os.strerror(exc.errno or 0)) from exc
    if len(data) > _LARGEST:
        raise InvalidConfig(path, f"is larger than {_LARGEST} bytes")
    return data


def _check_version(data: bytes) -> None:
    version = msgspec.json.decode(data, type=_Version).oci_version
    found = _VERSION.fullmatch(version or "")
    if found is None:
        raise InvalidConfig("ociVersion", f"{version!r} is no version")
    if found[1] != "1":
        raise Unsupported("ociVersion", f"{version} is not 1.x")
