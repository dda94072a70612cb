"""The cgroup manager for a word of `--cgroup-manager`."""

from __future__ import annotations

from podrt.errors import InvalidConfig, Unsupported

from .base import CgroupManager
from .cgroupfs import Cgroupfs
from .disabled import Disabled
from .policy import MANAGERS


def open_manager(name: str = "cgroupfs") -> CgroupManager:
    """The manager called `name`. Raises: Unsupported, InvalidConfig."""
    if name == "cgroupfs":
        return Cgroupfs()
    if name == "disabled":
        return Disabled()
    if name == "systemd":
        raise Unsupported(
            "--cgroup-manager systemd", "it is not built yet: use cgroupfs or disabled"
        )
    raise InvalidConfig(
        "--cgroup-manager", f"unknown cgroup manager {name!r}: {', '.join(MANAGERS)}"
    )
