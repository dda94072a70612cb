"""What a container sees at /sys/fs/cgroup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from podrt.linux.mounts import Mount as HostMount

CGROUP_DIR = "/sys/fs/cgroup"


class Hierarchy(msgspec.Struct, frozen=True):
    """A cgroup v1 hierarchy: its directory below /sys/fs/cgroup, its mount options, and the names
    that lead there too (cpu and cpuacct to cpu,cpuacct)."""

    directory: str
    options: tuple[str, ...]
    links: tuple[str, ...] = ()


class CgroupView(msgspec.Struct, frozen=True):
    """Version 2, the hierarchies of version 1, or 0.

    `path` is the container's cgroup: one without a cgroup namespace is shown that as a bind, and
    nothing above it, on version 1 and where the kernel would mount none. "" shows whatever its
    namespace does.
    """

    version: int = 2
    hierarchies: tuple[Hierarchy, ...] = ()
    path: str = ""


def cgroup_view(mounts: Iterable[HostMount], path: str = "") -> CgroupView:
    """The view that the host's mount table asks for; v1 counts where both kinds are mounted."""
    mounts = tuple(mounts)
    found = {
        mount.target: _hierarchy(mount.target, mount.options)
        for mount in mounts
        if mount.fstype == "cgroup" and mount.target.startswith(f"{CGROUP_DIR}/")
    }
    if found:
        return CgroupView(1, tuple(found.values()), path)
    version = 2 if any(mount.fstype == "cgroup2" for mount in mounts) else 0
    return CgroupView(version, (), path)


# What else is among a v1 mount's options in the mount table.
_NO_CONTROLLERS = frozenset({"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime"})


def _hierarchy(target: str, options: Sequence[str]) -> Hierarchy:
    directory = target.rpartition("/")[2]
    wanted = tuple(
        option
        for option in options
        if option not in _NO_CONTROLLERS
        and (option.startswith("name=") or "=" not in option)
        and option not in ("xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods")
    )
    if any(option.startswith("name=") for option in wanted):
        return Hierarchy(directory, ("none", *wanted))
    links = tuple(name for name in wanted if name != directory) if len(wanted) > 1 else ()
    return Hierarchy(directory, wanted, links)
