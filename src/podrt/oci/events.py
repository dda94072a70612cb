"""`podrt oci events`: what a container uses, again and again, and when the kernel kills for memory.

Shape: one JSON document a line, as runc(8) writes them; containerd and scripts read those.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from podrt.cgroups.base import Stats
from podrt.errors import InvalidConfig, InvalidState

from . import cgroup as cgroups
from . import processes
from .lifecycle import CREATED, PAUSED, RUNNING, Runtime, status_of

# How soon a kill for memory is told. Source: none; people read this.
_LOOK_S = 0.1
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


def interval_s(text: str) -> float:
    """Go's way to write a duration ("1m30s") in seconds. Raises: InvalidConfig."""
    parts = _DURATION.findall(text)
    seconds = sum(float(count) * _UNIT_S[unit] for count, unit in parts)
    if "".join(count + unit for count, unit in parts) != text or seconds <= 0:
        raise InvalidConfig("--interval", f"{text!r} is not a duration above zero, such as 5s")
    return seconds


def stats_once(runtime: Runtime, container_id: str) -> dict[str, Any]:
    """The figures of a container now. Raises: NotFound, InvalidState, EngineFailed."""
    container = runtime.containers.load(container_id)
    if status_of(container) not in (CREATED, RUNNING, PAUSED):
        raise InvalidState("read", f"container {container_id}", "container not running")
    with cgroups.opened(container.cgroup) as group:
        return _document(container_id, group.stats())


def follow(runtime: Runtime, container_id: str, every_s: float) -> Iterator[dict[str, Any]]:
    """Figures every `every_s` seconds and kills for memory, until the container has ended.

    Raises: NotFound, InvalidState.
    """
    container = runtime.containers.load(container_id)
    pidfd = processes.open_process(container.process)
    if pidfd < 0:
        raise InvalidState("follow", f"container {container_id}", "container not running")
    with processes.closing(pidfd), cgroups.opened(container.cgroup) as group:
        killed, due = group.oom_kills(), time.monotonic()
        is_over = False
        while not is_over:
            is_over = processes.ended(pidfd, min(_LOOK_S, max(0.0, due - time.monotonic())))
            now = group.oom_kills()
            for _ in range(killed, now):
                yield {"type": "oom", "id": container_id}
            killed = max(killed, now)
            if not is_over and time.monotonic() >= due:
                due += every_s
                yield _document(container_id, group.stats())


def _document(container_id: str, found: Stats) -> dict[str, Any]:
    usage = {"total": found.cpu_ns, "kernel": found.cpu_system_ns, "user": found.cpu_user_ns}
    moved = (("Read", found.read_bytes), ("Write", found.written_bytes))
    data = {
        "cpu": {"usage": usage, "throttling": {}},
        "memory": {
            "usage": _given(usage=found.memory_bytes, limit=found.memory_limit_bytes),
        },
        "pids": _given(current=found.pids, limit=found.pids_limit),
        "blkio": {
            "ioServiceBytesRecursive": [
                {"op": name, "value": count} for name, count in moved if count is not None
            ]
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }
    return {"type": "stats", "id": container_id, "data": data}


def _given(**figures: int | None) -> dict[str, int]:
    return {name: figure for name, figure in figures.items() if figure is not None}
