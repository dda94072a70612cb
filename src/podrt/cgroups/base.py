"""What every cgroup manager can do, and the values it takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from podrt.model.resources import NO_LIMITS, Resources
from podrt.model.runtimespec import DeviceRule


class NewCgroup(msgspec.Struct, frozen=True):
    """A cgroup to make: its limits and, unless None, its device rules.

    Rules count in their order, as the OCI runtime specification has it; whatever none of them
    allows is denied. None leaves what the parent allows.
    """

    path: str
    resources: Resources = NO_LIMITS
    devices: tuple[DeviceRule, ...] | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What a cgroup and all below it use. None: the host does not count it, or no limit is set.

    Units: nanoseconds of CPU time since the cgroup was made, bytes (of memory; read from and
    written to block devices), tasks.
    """

    cpu_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


class CgroupManager(Protocol):
    """Makes, limits, watches and removes cgroups.

    Paths are absolute from the top of every hierarchy ("/podrt_parent/<pod>/<container>") and are
    checked (InvalidConfig). All calls are synchronous; those that may wait say so.
    """

    @property
    def name(self) -> str:
        """The word of `--cgroup-manager`."""
        ...

    @property
    def unified(self) -> bool:
        """Whether a process has one cgroup for everything (v2), so that it can be born in it."""
        ...

    def close(self) -> None:
        """Close what the manager holds open."""
        ...

    def check_parent(self, parent: str, *, rootless: bool = False) -> str:
        """The parent that counts ("" is none) for what the user asked. Raises: InvalidConfig."""
        ...

    def pod_path(self, parent: str, pod_id: str) -> str:
        """A pod's cgroup; "" without cgroups."""
        ...

    def container_path(self, parent: str, container_id: str, pod_path: str | None = None) -> str:
        """A container's cgroup, in its pod's if that is given; "" without cgroups."""
        ...

    def monitor_path(self, parent: str, group_id: str) -> str:
        """The cgroup of a group's monitor; "" without cgroups."""
        ...

    def create(
        self,
        path: str,
        resources: Resources = NO_LIMITS,
        devices: tuple[DeviceRule, ...] | None = None,
    ) -> None:
        """Make a cgroup and what is missing above it; one that is there gets the limits.

        Raises: Unsupported naming a limit this host cannot keep; InvalidConfig naming one it
        refuses; InvalidState when the cgroup is frozen; EngineFailed.
        """
        ...

    def create_many(self, cgroups: Sequence[NewCgroup]) -> None:
        """`create` for many in one call, in their order. What it made goes when one fails."""
        ...

    def join_dirs(self, path: str) -> tuple[str, ...]:
        """The absolute directories whose cgroup.procs a process is written to: one a hierarchy."""
        ...

    def join(self, path: str, pid: int) -> None:
        """Move a process (0: the caller) into a cgroup. Raises: EngineFailed."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the cgroup is there, if only in some hierarchy."""
        ...

    def update(self, path: str, resources: Resources) -> None:
        """Set the limits that are not None; the others stay. Raises as `create` does."""
        ...

    def limits(self, path: str) -> Resources:
        """The limits as the kernel holds them; None where it has none. Raises: EngineFailed."""
        ...

    def stats(self, path: str) -> Stats:
        """What the cgroup uses. Raises: EngineFailed."""
        ...

    def stats_many(self, paths: Sequence[str]) -> list[Stats | None]:
        """`stats` for many in one call; None for a cgroup that is gone."""
        ...

    def oom_kills(self, path: str) -> int:
        """How many processes the kernel killed here for memory; 0 when it does not count them."""
        ...

    def procs(self, path: str) -> tuple[int, ...]:
        """The processes of the cgroup and all below it; empty when it is gone."""
        ...

    def freeze(self, path: str) -> None:
        """Stop every process of the subtree where it stands. Waits (up to seconds).

        Raises: EngineFailed when some process does not stop; the cgroup is thawed then.
        """
        ...

    def thaw(self, path: str) -> None:
        """Undo `freeze`; of one that is gone or not frozen it is silent."""
        ...

    def is_frozen(self, path: str) -> bool:
        """Whether the cgroup is frozen or on its way there."""
        ...

    def kill(self, path: str) -> None:
        """SIGKILL all of the subtree, frozen or not, and wait until it is empty (up to seconds).

        Raises: EngineFailed when something stays.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove the cgroup and all below it; already gone is silent. Waits shortly if busy.

        Raises: OSError (EBUSY) while a process lives in it.
        """
        ...

    def remove_many(self, paths: Sequence[str]) -> dict[str, OSError]:
        """`remove` for many in one call; the failures by path."""
        ...

    def remove_if_empty(self, parent: str) -> bool:
        """Remove a shared parent (and its `monitors`) that nobody uses; whether it is gone."""
        ...
