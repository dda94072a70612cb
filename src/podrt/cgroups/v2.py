"""Cgroup version 2: its files for limits and figures.

Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from podrt.model.resources import Resources

from . import block_io
from .knob import Knob, keyed, listed, whole

_DEFAULT_PERIOD_US = 100_000
_DEFAULT_WEIGHT = 100

# cpu.shares counts 2..262144, cpu.weight 1..10000; every runtime maps one line onto the other,
# and so 1024 shares become 39.
_SHARES = 262_144 - 2
_WEIGHTS = 10_000 - 1

STAT_FILES = (
    ("", "cpu.stat"),
    ("memory", "memory.current"),
    ("memory", "memory.max"),
    ("pids", "pids.current"),
    ("pids", "pids.max"),
    ("io", "io.stat"),
)

LIMIT_FILES = (
    ("cpu", "cpu.max"),
    ("cpu", "cpu.weight"),
    ("cpuset", "cpuset.cpus"),
    ("cpuset", "cpuset.mems"),
    ("memory", "memory.max"),
    ("memory", "memory.low"),
    ("memory", "memory.swap.max"),
    ("pids", "pids.max"),
    ("io", "io.bfq.weight"),
    ("io", "io.weight"),
)


def weight_of(shares: int) -> int:
    """cpu.weight for cpu.shares."""
    return 1 + (min(max(shares, 2), 262_144) - 2) * _WEIGHTS // _SHARES


def shares_of(weight: int) -> int:
    """The lowest cpu.shares that become `weight`."""
    return 2 + -(-(weight - 1) * _SHARES // _WEIGHTS)


def io_weight_of(blkio_weight: int) -> int:
    """io.weight (1..10000) for a blkio weight (10..1000)."""
    return 1 + (blkio_weight - 10) * _WEIGHTS // 990


def knobs(resources: Resources) -> list[Knob]:
    """The writes for `resources` in the order a new cgroup takes them."""
    found: list[Knob] = []
    if resources.cpu_shares is not None:
        weight = str(weight_of(resources.cpu_shares))
        found.append(Knob("cpu_shares", "cpu", "cpu.weight", weight))
    found += _bandwidth(resources)
    for field, file in (("cpuset_cpus", "cpuset.cpus"), ("cpuset_mems", "cpuset.mems")):
        value = getattr(resources, field)
        if value is not None:
            found.append(Knob(field, "cpuset", file, value))
    found += _memory(resources)
    if resources.pids_limit is not None:
        found.append(Knob("pids_limit", "pids", "pids.max", _or_max(resources.pids_limit)))
    if resources.blkio_weight is not None:
        given = resources.blkio_weight
        for file, weight in (
            ("io.bfq.weight", str(given)),
            ("io.weight", str(io_weight_of(given))),
        ):
            found.append(Knob("blkio_weight", "io", file, weight, True))
    return found + block_io.v2_knobs(resources)


def _bandwidth(resources: Resources) -> list[Knob]:
    """cpu.max holds quota and period; a quota alone leaves the period as it is."""
    quota, period = resources.cpu_quota_us, resources.cpu_period_us
    if quota is None and period is None:
        return []
    words = "max" if quota is None else _or_max(quota)
    if period is not None:
        words += f" {period}"
    fields = ["cpu_quota_us"] if quota is not None else []
    fields += ["cpu_period_us"] if period is not None else []
    return [Knob(field, "cpu", "cpu.max", words) for field in fields]


def _memory(resources: Resources) -> list[Knob]:
    found = []
    if resources.memory_bytes is not None:
        value = _or_max(resources.memory_bytes)
        found.append(Knob("memory_bytes", "memory", "memory.max", value))
    if resources.memory_reservation_bytes is not None:
        value = _or_max(resources.memory_reservation_bytes)
        found.append(Knob("memory_reservation_bytes", "memory", "memory.low", value))
    swap = resources.memory_swap_bytes
    if swap is not None:
        # v2 counts swap alone. The file is missing on a kernel without swap.
        alone = "max" if swap < 0 else str(swap - (resources.memory_bytes or 0))
        found.append(Knob("memory_swap_bytes", "memory", "memory.swap.max", alone, True, True))
    return found


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def stats(files: Mapping[str, bytes | int | None]) -> dict[str, int | None]:
    """Figures out of what STAT_FILES held, by the names of Stats; only those that were there."""
    found: dict[str, int | None] = {}
    for name, key in (
        ("cpu_ns", b"usage_usec"),
        ("cpu_user_ns", b"user_usec"),
        ("cpu_system_ns", b"system_usec"),
    ):
        microseconds = keyed(files.get("cpu.stat"), key)
        found[name] = None if microseconds is None else microseconds * 1_000
    found["memory_bytes"] = whole(files.get("memory.current"))
    found["memory_limit_bytes"] = whole(files.get("memory.max"))
    found["pids"] = whole(files.get("pids.current"))
    found["pids_limit"] = whole(files.get("pids.max"))
    found["read_bytes"] = _served(files, b"rbytes=")
    found["written_bytes"] = _served(files, b"wbytes=")
    return {name: value for name, value in found.items() if value is not None}


def _served(files: Mapping[str, bytes | int | None], key: bytes) -> int | None:
    """The sum of "8:0 rbytes=4096 wbytes=0 ..." over all devices; None if they are not counted."""
    text = files.get("io.stat")
    if not isinstance(text, bytes):
        return None
    words = [word for word in text.split() if word.startswith(key)]
    return sum(int(word.removeprefix(key)) for word in words)


def limits(files: Mapping[str, bytes | int | None]) -> dict[str, int | str]:
    """Limits out of what LIMIT_FILES held, by the names of Resources; only those that are set.

    `cpu_shares` is the lowest number that gives the weight found.
    """
    quota, period = _read_bandwidth(files.get("cpu.max"))
    weight = whole(files.get("cpu.weight"))
    memory = whole(files.get("memory.max"))
    swap = whole(files.get("memory.swap.max"))
    found: dict[str, int | str | None] = {
        "cpu_quota_us": quota,
        "cpu_period_us": None if period == _DEFAULT_PERIOD_US else period,
        "cpu_shares": None if weight in (None, _DEFAULT_WEIGHT) else shares_of(weight or 1),
        "cpuset_cpus": listed(files.get("cpuset.cpus")),
        "cpuset_mems": listed(files.get("cpuset.mems")),
        "memory_bytes": memory,
        "memory_reservation_bytes": whole(files.get("memory.low")) or None,
        "memory_swap_bytes": None if swap is None or memory is None else swap + memory,
        "pids_limit": whole(files.get("pids.max")),
        "blkio_weight": _read_weight(files),
    }
    return {name: value for name, value in found.items() if value is not None}


def _read_bandwidth(text: bytes | int | None) -> tuple[int | None, int | None]:
    if not isinstance(text, bytes):
        return None, None
    quota, _, period = text.strip().partition(b" ")
    return whole(quota), whole(period)


def _read_weight(files: Mapping[str, bytes | int | None]) -> int | None:
    """ "default 100", then lines for single devices."""
    bfq = keyed(files.get("io.bfq.weight"), b"default")
    if bfq is not None:
        return None if bfq == _DEFAULT_WEIGHT else bfq
    weight = keyed(files.get("io.weight"), b"default")
    return None if weight in (None, _DEFAULT_WEIGHT) else 10 + ((weight or 1) - 1) * 990 // _WEIGHTS


def oom_kills(text: bytes | int | None) -> int:
    """The count in a memory.events."""
    return keyed(text, b"oom_kill") or 0
