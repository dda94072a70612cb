"""Which cgroup parent a pod or a container may have: one pure function over every manager."""

from __future__ import annotations

import msgspec

from podrt.errors import InvalidConfig

from . import paths

DEFAULT_CGROUPFS = "/podrt_parent"
DEFAULT_SYSTEMD = "machine.slice"
DEFAULT_SYSTEMD_ROOTLESS = "user.slice"

MANAGERS = ("cgroupfs", "systemd", "disabled")
_SLICE = ".slice"
_FLAG = "--cgroup-parent"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The parent that counts ("" is none) and whether the pod gets a cgroup of its own below it."""

    parent: str
    pod_cgroup: bool


def decide(
    manager: str,
    parent: str,
    *,
    rootless: bool = False,
    share_parent: bool = True,
    has_limits: bool = False,
) -> Decision:
    """Judge a pod's `--cgroup-parent` ("" when none was given) and its `--share-parent`.

    `has_limits` says that limits are asked for the pod as a whole: they need a cgroup to live on.
    Raises: InvalidConfig.
    """
    effective = effective_parent(manager, parent, rootless=rootless)
    pod_cgroup = share_parent and bool(effective)
    if has_limits and not pod_cgroup:
        if share_parent:
            reason = "limits of a pod need cgroups, and here there are none"
        else:
            reason = "limits of a pod need its own cgroup, which this turns off"
        raise InvalidConfig("--share-parent", reason)
    return Decision(parent=effective, pod_cgroup=pod_cgroup)


def effective_parent(manager: str, parent: str, *, rootless: bool = False) -> str:
    """The parent that counts for `manager`; "" when there is none. Raises: InvalidConfig."""
    if manager not in MANAGERS:
        known = ", ".join(MANAGERS)
        raise InvalidConfig("--cgroup-manager", f"unknown cgroup manager {manager!r}: {known}")
    if manager == "disabled":
        return ""
    if manager == "systemd":
        return _systemd(parent, rootless=rootless)
    return _cgroupfs(parent, rootless=rootless)


def check_member_parent(parent: str, decision: Decision) -> None:
    """A member of a pod with a cgroup lives there. Raises: InvalidConfig when it asks otherwise."""
    if parent and decision.pod_cgroup:
        raise InvalidConfig(
            _FLAG, "a container of a pod cannot have its own: it lives in the pod's cgroup"
        )


def _cgroupfs(parent: str, *, rootless: bool) -> str:
    # A user has no cgroup to make a default below; only one that was handed over can be used.
    if rootless and parent in ("", DEFAULT_CGROUPFS):
        return ""
    if not parent:
        return DEFAULT_CGROUPFS
    checked = paths.check(parent)
    if checked.endswith(_SLICE):
        raise InvalidConfig(
            _FLAG, "systemd slice received as cgroup parent when using cgroupfs: invalid argument"
        )
    return checked


def _systemd(parent: str, *, rootless: bool) -> str:
    if not parent:
        return DEFAULT_SYSTEMD_ROOTLESS if rootless else DEFAULT_SYSTEMD
    checked = paths.check(parent)
    if len(parent) < len(_SLICE) or not checked.endswith(_SLICE):
        raise InvalidConfig(
            _FLAG,
            "did not receive systemd slice as cgroup parent when using systemd to manage cgroups: "
            "invalid argument",
        )
    return parent
