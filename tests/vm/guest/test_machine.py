"""The guest is the host most users have: cgroup v2 alone, with every controller."""

from __future__ import annotations

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def test_boot_guest_has_pure_cgroup_v2() -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    kinds = {fields[2] for fields in mounts if fields[2].startswith("cgroup")}
    assert kinds == {"cgroup2"}


def test_boot_guest_has_every_limit_controller() -> None:
    found = set((CGROUP / "cgroup.controllers").read_text().split())
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= found


def test_boot_guest_runs_debians_oldest_supported_kernel() -> None:
    release = Path("/proc/sys/kernel/osrelease").read_text()
    assert tuple(int(part) for part in release.split(".")[:2]) >= (6, 1)
