"""What this host offers, and one clear error when it is not enough."""

from __future__ import annotations

import os
import re

from podrt.errors import Unsupported

from .mounts import Mount, read_mounts

MINIMUM_KERNEL = (6, 1)
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")

_RELEASE = re.compile(r"(\d+)\.(\d+)")


def kernel_version(release: str | None = None) -> tuple[int, int]:
    """(major, minor) of a kernel's release, by default the running one's; (0, 0) if unreadable."""
    found = _RELEASE.match(os.uname().release if release is None else release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def namespace_types() -> frozenset[str]:
    """The namespaces this kernel has ("net", "time", ...). Raises: OSError."""
    return frozenset(
        name for name in os.listdir("/proc/self/ns") if not name.endswith("_for_children")
    )


def boot_id() -> str:
    """32 hex digits that are new at every boot. Raises: OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip().replace("-", "")


def cgroup_mode(mounts: tuple[Mount, ...] | None = None) -> str:
    """ "v1", "hybrid" (both kinds are mounted), "v2", or "none". Raises: OSError."""
    kinds = {mount.fstype for mount in (read_mounts() if mounts is None else mounts)}
    if "cgroup" in kinds:
        return "hybrid" if "cgroup2" in kinds else "v1"
    return "v2" if "cgroup2" in kinds else "none"


def require_host() -> None:
    """Do nothing on a host podrt can work on. Raises: Unsupported naming what is missing."""
    version = kernel_version()
    if version < MINIMUM_KERNEL:
        wanted = ".".join(map(str, MINIMUM_KERNEL))
        raise Unsupported(f"Linux {os.uname().release}", f"podrt needs Linux {wanted} or newer")
    try:
        missing = sorted(set(NAMESPACES) - namespace_types())
    except OSError as exc:
        raise Unsupported("this host", "/proc is not mounted or not readable") from exc
    if missing:
        raise Unsupported("this kernel", f"it has no {', '.join(missing)} namespaces")


def require_root() -> None:
    """Do nothing as root. Raises: Unsupported for everybody else, until rootless is built."""
    uid = os.geteuid()
    if uid != 0:
        raise Unsupported(
            f"running as user {uid}", "podrt needs root: rootless pods are not built yet"
        )
