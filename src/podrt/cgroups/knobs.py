"""Limits as writes to cgroup files: which file, which value, and what to do if it is missing."""

from __future__ import annotations

import re

import msgspec

from podrt.errors import InvalidConfig, Unsupported
from podrt.model.resources import Resources

from . import v1, v2
from .hierarchies import Hierarchies, Hierarchy
from .knob import Knob

FLAGS = {
    "cpu_quota_us": "--cpu-quota",
    "cpu_period_us": "--cpu-period",
    "cpu_shares": "--cpu-shares",
    "cpuset_cpus": "--cpuset-cpus",
    "cpuset_mems": "--cpuset-mems",
    "memory_bytes": "--memory",
    "memory_reservation_bytes": "--memory-reservation",
    "memory_swap_bytes": "--memory-swap",
    "pids_limit": "--pids-limit",
    "blkio_weight": "--blkio-weight",
    "blkio_weight_devices": "--blkio-weight-device",
    "device_read_bps": "--device-read-bps",
    "device_write_bps": "--device-write-bps",
    "device_read_iops": "--device-read-iops",
    "device_write_iops": "--device-write-iops",
}

# What the kernel takes; -1 (no limit) is taken besides where the second word says so.
_RANGES = {
    "cpu_quota_us": (1_000, 1 << 44, True),
    "cpu_period_us": (1_000, 1_000_000, False),
    "cpu_shares": (2, 262_144, False),
    "memory_bytes": (1, (1 << 63) - 1, True),
    "memory_reservation_bytes": (1, (1 << 63) - 1, True),
    "memory_swap_bytes": (1, (1 << 63) - 1, True),
    "pids_limit": (0, 1 << 22, True),
    "blkio_weight": (10, 1_000, False),
}
_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*", re.ASCII)


class Placed(msgspec.Struct, frozen=True):
    """A knob and the hierarchy it is turned in."""

    hierarchy: Hierarchy
    knob: Knob


def place(resources: Resources, hierarchies: Hierarchies) -> tuple[Placed, ...]:
    """Every write that `resources` needs on this host, in the order of a new cgroup.

    Raises: InvalidConfig for a value no kernel takes; Unsupported for a limit without controller.
    """
    check(resources)
    placed = []
    for version, knobs in ((1, v1.knobs(resources)), (2, v2.knobs(resources))):
        for knob in knobs:
            hierarchy = hierarchies.of(knob.controller)
            if hierarchy is not None and hierarchy.version == version:
                placed.append(Placed(hierarchy, knob))
    kept = {one.knob.field for one in placed}
    for field in _given(resources):
        if field not in kept:
            raise Unsupported(FLAGS[field], "this host has no cgroup controller for it")
    return tuple(placed)


def check(resources: Resources) -> None:
    """Refuse what no kernel would take. Raises: InvalidConfig naming the flag."""
    for field, (lowest, highest, unlimited) in _RANGES.items():
        value = getattr(resources, field)
        if value is None or (unlimited and value == -1):
            continue
        if not lowest <= value <= highest:
            also = ", or -1 for no limit" if unlimited else ""
            raise InvalidConfig(FLAGS[field], f"{value} is not in {lowest}..{highest}{also}")
    for device in resources.blkio_weight_devices or ():
        if not 10 <= device.rate <= 1_000:
            raise InvalidConfig(FLAGS["blkio_weight_devices"], f"{device.rate} is not in 10..1000")
    for field in ("cpuset_cpus", "cpuset_mems"):
        value = getattr(resources, field)
        if value is not None and not _LIST.fullmatch(value):
            raise InvalidConfig(FLAGS[field], f"{value!r} is not a list such as 0-3,6")
    _check_swap(resources)


def _check_swap(resources: Resources) -> None:
    swap, memory = resources.memory_swap_bytes, resources.memory_bytes
    if swap is None or swap == -1:
        return
    if memory is None or memory == -1:
        raise InvalidConfig(FLAGS["memory_swap_bytes"], "needs --memory: it is the sum of both")
    if swap < memory:
        raise InvalidConfig(
            FLAGS["memory_swap_bytes"], f"{swap} is less than --memory {memory}: it is the sum"
        )


def _given(resources: Resources) -> list[str]:
    return [name for name in FLAGS if getattr(resources, name) not in (None, ())]
