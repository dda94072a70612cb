"""No cgroups at all: `--cgroup-manager disabled`."""

from __future__ import annotations

from collections.abc import Sequence

from podrt.errors import Unsupported
from podrt.model.resources import NO_LIMITS, Resources
from podrt.model.runtimespec import DeviceRule

from . import policy
from .base import NewCgroup, Stats

_WHY = "cgroups are disabled"


class Disabled:
    """Every path is ""; what needs a cgroup is Unsupported, what only tidies up does nothing.

    Device rules are passed over: without cgroups nothing can enforce them, and the capability
    to make device nodes is not among a container's.
    """

    name = "disabled"
    unified = False

    def close(self) -> None:
        """Nothing is open."""

    def check_parent(self, parent: str, *, rootless: bool = False) -> str:
        """Always "": there is no parent to judge."""
        return policy.effective_parent(self.name, parent, rootless=rootless)

    def pod_path(self, parent: str, pod_id: str) -> str:
        """Always ""."""
        return ""

    def container_path(self, parent: str, container_id: str, pod_path: str | None = None) -> str:
        """Always ""."""
        return ""

    def monitor_path(self, parent: str, group_id: str) -> str:
        """Always ""."""
        return ""

    def create(
        self,
        path: str,
        resources: Resources = NO_LIMITS,
        devices: tuple[DeviceRule, ...] | None = None,
    ) -> None:
        """Nothing. Raises: Unsupported when limits are asked for."""
        if not resources.is_unset:
            raise Unsupported("a resource limit", _WHY)

    def create_many(self, cgroups: Sequence[NewCgroup]) -> None:
        """Nothing. Raises: Unsupported when limits are asked for."""
        for cgroup in cgroups:
            self.create(cgroup.path, cgroup.resources, cgroup.devices)

    def join_dirs(self, path: str) -> tuple[str, ...]:
        """None: a process stays where it was born."""
        return ()

    def join(self, path: str, pid: int) -> None:
        """Nothing."""

    def exists(self, path: str) -> bool:
        """Never."""
        return False

    def update(self, path: str, resources: Resources) -> None:
        """Nothing. Raises: Unsupported when limits are asked for."""
        self.create(path, resources)

    def limits(self, path: str) -> Resources:
        """None."""
        return NO_LIMITS

    def stats(self, path: str) -> Stats:
        """Raises: Unsupported."""
        raise Unsupported("stats", _WHY)

    def stats_many(self, paths: Sequence[str]) -> list[Stats | None]:
        """None for each."""
        return [None] * len(paths)

    def oom_kills(self, path: str) -> int:
        """Always 0."""
        return 0

    def procs(self, path: str) -> tuple[int, ...]:
        """None."""
        return ()

    def freeze(self, path: str) -> None:
        """Raises: Unsupported."""
        raise Unsupported("pause", _WHY)

    def thaw(self, path: str) -> None:
        """Raises: Unsupported."""
        raise Unsupported("unpause", _WHY)

    def is_frozen(self, path: str) -> bool:
        """Never."""
        return False

    def kill(self, path: str) -> None:
        """Nothing: the monitor kills by pidfd."""

    def remove(self, path: str) -> None:
        """Nothing."""

    def remove_many(self, paths: Sequence[str]) -> dict[str, OSError]:
        """Nothing."""
        return {}

    def remove_if_empty(self, parent: str) -> bool:
        """Nothing is there."""
        return True
