"""The default profile: capabilities, masked and read-only paths, and what changes them.

Source: podman's capabilities(7) defaults, security.md's list (podman 4.3.1's and today's united).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import PurePosixPath

from podrt.errors import InvalidConfig
from podrt.linux.caps import NAMES, full_name
from podrt.model.container import Security
from podrt.model.runtimespec import Capabilities

DEFAULT_CAPABILITIES: frozenset[str] = frozenset(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID "
        "SYS_CHROOT"
    ).split()
)
MASKED_PATHS: tuple[str, ...] = (
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
READONLY_PATHS: tuple[str, ...] = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


@functools.lru_cache(maxsize=64)
def bounding_set(security: Security, host_last_cap: int) -> frozenset[str]:
    """The capabilities a container's bounding set holds.

    `host_last_cap` is the highest number the kernel knows. As podman does: "all" added and names
    dropped is all but those; "all" dropped and names added is those alone; a name in both lists
    is an error. Raises: InvalidConfig.
    """
    every = frozenset(NAMES[: host_last_cap + 1])
    start = every if security.privileged else DEFAULT_CAPABILITIES
    adds_all, added = _names(security.cap_add, "--cap-add")
    drops_all, dropped = _names(security.cap_drop, "--cap-drop")
    if adds_all and drops_all:
        raise InvalidConfig("--cap-drop", "adding all caps and removing all caps not allowed")
    both = sorted(added & dropped)
    if both:
        raise InvalidConfig("--cap-drop", f"capability {both[0]!r} cannot be dropped and added")
    if adds_all:
        return every - dropped
    if drops_all:
        return added & every
    return (start | (added & every)) - dropped


def _names(given: Iterable[str], field: str) -> tuple[bool, frozenset[str]]:
    """Whether "all" is among the names, and the others."""
    names = [name for name in given if name.upper() != "ALL"]
    has_all = any(name.upper() == "ALL" for name in given)
    return has_all, frozenset(full_name(name, field) for name in names)


@functools.lru_cache(maxsize=64)
def capabilities(bounding: frozenset[str], security: Security, *, is_root: bool) -> Capabilities:
    """The five sets. Another user than root gets what was added by name, as podman gives it."""
    ordered = tuple(name for name in NAMES if name in bounding)
    if is_root:
        return Capabilities(bounding=ordered, effective=ordered, permitted=ordered)
    _, added = _names(security.cap_add, "--cap-add")
    kept = tuple(name for name in ordered if name in added)
    return Capabilities(
        bounding=ordered, effective=kept, permitted=kept, inheritable=kept, ambient=kept
    )


@functools.lru_cache(maxsize=64)
def masked_paths(security: Security) -> tuple[str, ...]:
    """The default masks without those unmasked, and those asked for."""
    return (*_unmasked(security, MASKED_PATHS), *security.mask)


@functools.lru_cache(maxsize=64)
def readonly_paths(security: Security) -> tuple[str, ...]:
    """The default read-only paths without those unmasked."""
    return _unmasked(security, READONLY_PATHS)


def _unmasked(security: Security, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Without those unmasked; "*" stands for a name, as podman has it."""
    if security.privileged or any(path.upper() == "ALL" for path in security.unmask):
        return ()
    patterns = [pattern for pattern in security.unmask if pattern.startswith("/")]
    return tuple(
        path for path in paths if not any(PurePosixPath(path).match(one) for one in patterns)
    )
