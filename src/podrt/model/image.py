"""An image: where its layers are and what a container of it runs by default."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class ImageDefaults(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The part of an OCI image configuration that a container inherits."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    labels: Mapping[str, str] = {}
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()


class Image(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """An image in the store.

    `id` is the hex SHA-256 of the OCI configuration; `layers` are the hex SHA-256 of the
    unpacked layers' uncompressed archives, lowest first; `references` are full names
    ("localhost/busybox:latest"); `size_bytes` sums the layers.
    """

    id: str
    references: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    manifest_digest: str = ""
    defaults: ImageDefaults = ImageDefaults()
    architecture: str = ""
    created_at_ns: int = 0
    size_bytes: int = 0
