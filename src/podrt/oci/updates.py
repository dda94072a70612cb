"""What `podrt oci update` is given: a document, and flags that count more."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci

from .bundle import read_document

# Where each flag's value stands in linux.resources, and whether it is a number.
_PLACES: Mapping[str, tuple[str, str, bool]] = {
    "memory": ("memory", "limit", True),
    "memory-reservation": ("memory", "reservation", True),
    "memory-swap": ("memory", "swap", True),
    "cpu-period": ("cpu", "period", True),
    "cpu-quota": ("cpu", "quota", True),
    "cpu-burst": ("cpu", "burst", True),
    "cpu-share": ("cpu", "shares", True),
    "cpuset-cpus": ("cpu", "cpus", False),
    "cpuset-mems": ("cpu", "mems", False),
    "pids-limit": ("pids", "limit", True),
    "blkio-weight": ("blockIO", "weight", True),
}


def read_limits(path: str, flags: Mapping[str, str]) -> oci.Resources:
    """The limits in the file `path` ("-": standard input, "": none) and in `flags`.

    Raises: InvalidConfig, NotFound.
    """
    given: dict[str, Any] = {}
    if path:
        data = sys.stdin.buffer.read() if path == "-" else read_document(path)
        try:
            given = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise InvalidConfig("--resources", f"not JSON: {exc}") from exc
    for name, text in flags.items():
        section, key, is_number = _PLACES[name]
        part = given.get(section)
        given[section] = {**(part if isinstance(part, dict) else {}), key: text}
        if is_number:
            try:
                given[section][key] = int(text)
            except ValueError:
                raise InvalidConfig(f"--{name}", f"{text!r} is no whole number") from None
    try:
        return msgspec.convert(oci.drop_nulls(given), oci.Resources)
    except msgspec.ValidationError as exc:
        raise InvalidConfig("--resources", str(exc)) from exc
