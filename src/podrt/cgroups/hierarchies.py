"""Where cgroups are mounted on this host, and which of those mounts podrt uses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import msgspec

from podrt.errors import Unsupported
from podrt.linux.mounts import Mount, read_mounts

# What podrt limits, counts or freezes by; hugetlb, rdma and misc are left alone on v2.
NEEDED = frozenset({"cpu", "cpuset", "io", "memory", "pids"})

_HOME = "/sys/fs/cgroup"


def _read_controllers(mount: str) -> frozenset[str]:
    with contextlib.suppress(FileNotFoundError):
        with open(os.path.join(mount, "cgroup.controllers"), encoding="ascii") as file:
            return frozenset(file.read().split())
    return frozenset()


class Hierarchy(msgspec.Struct, frozen=True):
    """One mounted hierarchy: version 1 or 2, and its controllers ("name=systemd" for a named)."""

    mount: str
    version: int
    controllers: frozenset[str]


class Hierarchies(msgspec.Struct, frozen=True):
    """Every hierarchy a container's process lives in, v1 ones first."""

    all: tuple[Hierarchy, ...]

    @property
    def is_unified(self) -> bool:
        """Whether cgroup v2 is all there is."""
        return all(one.version == 2 for one in self.all)

    def of(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has `controller`, if any. v2 has cpuacct within cpu."""
        for one in self.all:
            if controller in one.controllers:
                return one
        return None

    @property
    def unified(self) -> Hierarchy | None:
        """The v2 hierarchy, if it is used."""
        return next((one for one in self.all if one.version == 2), None)


def detect() -> Hierarchies:
    """Read what this host has. Raises: Unsupported when that is nothing podrt can write to."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            mine = file.read()
        return choose(read_mounts(), mine)
    except OSError as exc:
        raise Unsupported("cgroups", f"cannot read {exc.filename}: {exc.strerror}") from exc


def choose(
    mounts: tuple[Mount, ...],
    proc_self_cgroup: str,
    v2_controllers: Callable[[str], frozenset[str]] = _read_controllers,
) -> Hierarchies:
    """Pick the hierarchies out of a mount table and a /proc/<pid>/cgroup.

    On a hybrid host the v2 hierarchy is used only if a controller podrt needs lives there.
    Raises: Unsupported.
    """
    named = _controllers(proc_self_cgroup)
    first: dict[frozenset[str], Hierarchy] = {}
    second: Mount | None = None
    for mount in sorted(mounts, key=_is_elsewhere):
        if mount.fstype == "cgroup":
            controllers = named.intersection(mount.options)
            if controllers and controllers not in first:
                _require_writable(mount)
                first[controllers] = Hierarchy(mount.target, 1, controllers)
        elif mount.fstype == "cgroup2" and second is None:
            second = mount
    chosen = tuple(first.values())
    if second is not None:
        controllers = v2_controllers(second.target)
        if not chosen or controllers & NEEDED:
            _require_writable(second)
            chosen += (Hierarchy(second.target, 2, controllers),)
    if not chosen:
        raise Unsupported("--cgroup-manager cgroupfs", "no cgroup hierarchy is mounted")
    return Hierarchies(chosen)


def _controllers(proc_self_cgroup: str) -> frozenset[str]:
    """The v1 controllers and named hierarchies of lines like "4:memory:/a" and "9:name=x:/"."""
    found: set[str] = set()
    for line in proc_self_cgroup.split("\n"):
        fields = line.split(":", 2)
        if len(fields) == 3:
            found.update(name for name in fields[1].split(",") if name)
    return frozenset(found)


def _is_elsewhere(mount: Mount) -> bool:
    """A second mount of a hierarchy, such as a chroot's, comes after the usual one."""
    return mount.target != _HOME and not mount.target.startswith(_HOME + "/")


def _require_writable(mount: Mount) -> None:
    if "ro" in mount.options:
        raise Unsupported("--cgroup-manager cgroupfs", f"{mount.target} is mounted read-only")
