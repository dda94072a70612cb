"""Cgroup version 1: its files for limits and figures.

Source: Documentation/admin-guide/cgroup-v1/ of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from podrt.model.resources import Resources

from . import block_io
from .knob import Knob, keyed, listed, whole

_DEFAULT_SHARES = 1024
_DEFAULT_PERIOD_US = 100_000
# "No limit" reads as the highest number of whole pages below 2**63; nobody means such a limit.
_UNLIMITED = 1 << 62

STAT_FILES = (
    ("cpuacct", "cpuacct.usage"),
    ("cpuacct", "cpuacct.usage_user"),
    ("cpuacct", "cpuacct.usage_sys"),
    ("memory", "memory.usage_in_bytes"),
    ("memory", "memory.limit_in_bytes"),
    ("pids", "pids.current"),
    ("pids", "pids.max"),
    ("blkio", "blkio.throttle.io_service_bytes_recursive"),
)

LIMIT_FILES = (
    ("cpu", "cpu.cfs_quota_us"),
    ("cpu", "cpu.cfs_period_us"),
    ("cpu", "cpu.shares"),
    ("cpuset", "cpuset.cpus"),
    ("cpuset", "cpuset.mems"),
    ("memory", "memory.limit_in_bytes"),
    ("memory", "memory.soft_limit_in_bytes"),
    ("memory", "memory.memsw.limit_in_bytes"),
    ("pids", "pids.max"),
    ("blkio", "blkio.bfq.weight"),
    ("blkio", "blkio.weight"),
)


def knobs(resources: Resources) -> list[Knob]:
    """The writes for `resources` in the order a new cgroup takes them."""
    found: list[Knob] = []
    # Memory before memory plus swap, period before quota: the kernel checks each against the other.
    for field, controller, file in (
        ("cpu_shares", "cpu", "cpu.shares"),
        ("cpu_period_us", "cpu", "cpu.cfs_period_us"),
        ("cpu_quota_us", "cpu", "cpu.cfs_quota_us"),
        ("cpuset_cpus", "cpuset", "cpuset.cpus"),
        ("cpuset_mems", "cpuset", "cpuset.mems"),
        ("memory_bytes", "memory", "memory.limit_in_bytes"),
        ("memory_reservation_bytes", "memory", "memory.soft_limit_in_bytes"),
    ):
        value = getattr(resources, field)
        if value is not None:
            found.append(Knob(field, controller, file, str(value)))
    if resources.memory_swap_bytes is not None:
        # The file is there only if the kernel counts swap (swapaccount=1).
        found.append(
            Knob(
                "memory_swap_bytes",
                "memory",
                "memory.memsw.limit_in_bytes",
                str(resources.memory_swap_bytes),
                True,
                True,
            )
        )
    if resources.pids_limit is not None:
        value = "max" if resources.pids_limit < 0 else str(resources.pids_limit)
        found.append(Knob("pids_limit", "pids", "pids.max", value))
    if resources.blkio_weight is not None:
        for file in ("blkio.bfq.weight", "blkio.weight"):
            found.append(Knob("blkio_weight", "blkio", file, str(resources.blkio_weight), True))
    return found + block_io.v1_knobs(resources)


def stats(files: Mapping[str, bytes | int | None]) -> dict[str, int | None]:
    """Figures out of what STAT_FILES held, by the names of Stats; only those that were there."""
    found = {
        "cpu_ns": whole(files.get("cpuacct.usage")),
        "cpu_user_ns": whole(files.get("cpuacct.usage_user")),
        "cpu_system_ns": whole(files.get("cpuacct.usage_sys")),
        "memory_bytes": whole(files.get("memory.usage_in_bytes")),
        "memory_limit_bytes": _limit(files.get("memory.limit_in_bytes")),
        "pids": whole(files.get("pids.current")),
        "pids_limit": whole(files.get("pids.max")),
        "read_bytes": _served(files, b"Read"),
        "written_bytes": _served(files, b"Write"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _served(files: Mapping[str, bytes | int | None], operation: bytes) -> int | None:
    """The sum of "8:0 Read 4096" over all devices; None if they are not counted."""
    text = files.get("blkio.throttle.io_service_bytes_recursive")
    if not isinstance(text, bytes):
        return None
    lines = [line.split() for line in text.split(b"\n")]
    return sum(int(words[2]) for words in lines if len(words) == 3 and words[1] == operation)


def limits(files: Mapping[str, bytes | int | None]) -> dict[str, int | str]:
    """Limits out of what LIMIT_FILES held, by the names of Resources; only those that are set."""
    quota = whole(files.get("cpu.cfs_quota_us"))
    period = whole(files.get("cpu.cfs_period_us"))
    shares = whole(files.get("cpu.shares"))
    found: dict[str, int | str | None] = {
        "cpu_quota_us": None if quota is not None and quota < 0 else quota,
        "cpu_period_us": None if period == _DEFAULT_PERIOD_US else period,
        "cpu_shares": None if shares == _DEFAULT_SHARES else shares,
        "cpuset_cpus": listed(files.get("cpuset.cpus")),
        "cpuset_mems": listed(files.get("cpuset.mems")),
        "memory_bytes": _limit(files.get("memory.limit_in_bytes")),
        "memory_reservation_bytes": _limit(files.get("memory.soft_limit_in_bytes")),
        "memory_swap_bytes": _limit(files.get("memory.memsw.limit_in_bytes")),
        "pids_limit": whole(files.get("pids.max")),
        "blkio_weight": _weight(files),
    }
    return {name: value for name, value in found.items() if value is not None}


def oom_kills(text: bytes | int | None) -> int:
    """The count in a memory.oom_control."""
    return keyed(text, b"oom_kill") or 0


def _limit(text: bytes | int | None) -> int | None:
    value = whole(text)
    return None if value is None or value >= _UNLIMITED else value


def _weight(files: Mapping[str, bytes | int | None]) -> int | None:
    value = whole(files.get("blkio.bfq.weight")) or whole(files.get("blkio.weight"))
    return None if value in (100, 500) else value
