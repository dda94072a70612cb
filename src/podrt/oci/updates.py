"""What `podrt oci update` is given: a document, and flags that count more."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from podrt.errors import InvalidConfig, Unsupported
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
    "cpu-idle": ("cpu", "idle", True),
    "cpu-rt-period": ("cpu", "realtimePeriod", True),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", True),
    "kernel-memory": ("memory", "kernel", True),
    "kernel-memory-tcp": ("memory", "kernelTCP", True),
}
_RDT = ("l3-cache-schema", "mem-bw-schema")
_SIZE = re.compile(r"(\d+)([kmgt]?)i?b?", re.ASCII | re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


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
    for name in _RDT:
        if flags.get(name):
            raise Unsupported("linux.intelRdt", f"--{name}")
    for name, text in flags.items():
        section, key, is_number = _PLACES[name]
        part = given.get(section)
        given[section] = {**(part if isinstance(part, dict) else {}), key: text}
        if is_number:
            given[section][key] = _number(name, section, text)
    try:
        return msgspec.convert(oci.drop_nulls(given), oci.Resources)
    except msgspec.ValidationError as exc:
        raise InvalidConfig("--resources", str(exc)) from exc


def _number(name: str, section: str, text: str) -> int:
    """A whole number; of memory also a size such as 50M. Raises: InvalidConfig."""
    size = _SIZE.fullmatch(text)
    if section == "memory" and size:
        return int(size[1]) * _FACTORS[size[2].lower()]
    try:
        return int(text)
    except ValueError:
        raise InvalidConfig(f"--{name}", f"{text!r} is no whole number") from None
