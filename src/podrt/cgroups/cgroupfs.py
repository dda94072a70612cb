"""The manager that writes the cgroup file systems itself: `--cgroup-manager cgroupfs`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from podrt.errors import EngineFailed
from podrt.model.resources import NO_LIMITS, Resources
from podrt.model.runtimespec import DeviceRule

from . import create, paths, policy, processes, read, remove, v1, v2
from .base import NewCgroup, Stats
from .hierarchies import Hierarchies, detect
from .tree import Tree, failed, relative


class Cgroupfs:
    """Cgroup v1, hybrid and v2 through their files.

    It holds one directory descriptor per hierarchy until `close`; it keeps nothing else, so many
    of them, in many processes, work on the same cgroups.
    """

    name = "cgroupfs"

    def __init__(self, hierarchies: Hierarchies | None = None) -> None:
        self._tree = Tree(detect() if hierarchies is None else hierarchies)
        self._stat_files = read.wanted_stats(self._tree.hierarchies)
        self._limit_files = read.wanted_limits(self._tree.hierarchies)

    def close(self) -> None:
        """Give the descriptors back."""
        self._tree.close()

    @property
    def hierarchies(self) -> Hierarchies:
        """The hierarchies it works in."""
        return self._tree.hierarchies

    @property
    def unified(self) -> bool:
        """Whether a process has one cgroup for everything, so that it can be born in it."""
        return self._tree.hierarchies.is_unified

    def check_parent(self, parent: str, *, rootless: bool = False) -> str:
        """The parent that counts for what the user asked. Raises: InvalidConfig."""
        return policy.effective_parent(self.name, parent, rootless=rootless)

    def pod_path(self, parent: str, pod_id: str) -> str:
        """A pod's cgroup."""
        return paths.pod_path(parent, pod_id)

    def container_path(self, parent: str, container_id: str, pod_path: str | None = None) -> str:
        """A container's cgroup, in its pod's if that is given."""
        return paths.container_path(parent, container_id, pod_path)

    def monitor_path(self, parent: str, group_id: str) -> str:
        """The cgroup of a group's monitor."""
        return paths.monitor_path(parent, group_id)

    def create(
        self,
        path: str,
        resources: Resources = NO_LIMITS,
        devices: tuple[DeviceRule, ...] | None = None,
    ) -> None:
        """Make a cgroup and what is missing above it; one that is there gets the limits."""
        self.create_many([NewCgroup(path, resources, devices)])

    def create_many(self, cgroups: Sequence[NewCgroup]) -> None:
        """`create` for many: a fixed number of batches, whatever their number."""
        create.create_many(self._tree, cgroups)

    def join_dirs(self, path: str) -> tuple[str, ...]:
        """The absolute directories whose cgroup.procs a process is written to."""
        at = os.fsdecode(relative(path))
        return tuple(f"{one.mount}/{at}" for one in self._tree.hierarchies.all)

    def join(self, path: str, pid: int) -> None:
        """Move a process (0: the caller) into a cgroup. Raises: EngineFailed."""
        at = relative(path) + b"/cgroup.procs"
        tree = self._tree
        hierarchies = tree.hierarchies.all
        value = str(pid).encode()
        index, number, _ = tree.run([tree.write(one, at, value) for one in hierarchies])
        if index >= 0:
            raise failed(number, tree.absolute(hierarchies[index], at))

    def exists(self, path: str) -> bool:
        """Whether the cgroup is there, if only in some hierarchy."""
        return self._tree.exists(relative(path))

    def update(self, path: str, resources: Resources) -> None:
        """Set the limits that are not None; the others stay."""
        create.update(self._tree, relative(path), resources)

    def limits(self, path: str) -> Resources:
        """The limits as the kernel holds them; None where it has none."""
        return read.limits(self._tree, self._limit_files, relative(path))

    def stats(self, path: str) -> Stats:
        """What the cgroup uses. Raises: EngineFailed when it is gone."""
        found = self.stats_many([path])[0]
        if found is None:
            raise EngineFailed("cgroup", 2, self.join_dirs(path)[0])
        return found

    def stats_many(self, paths: Sequence[str]) -> list[Stats | None]:
        """`stats` for many in one batch; None for a cgroup that is gone."""
        return read.stats_many(self._tree, self._stat_files, [relative(path) for path in paths])

    def oom_kills(self, path: str) -> int:
        """How many processes the kernel killed here for memory."""
        memory = self._tree.hierarchies.of("memory")
        if memory is None:
            return 0
        at = relative(path)
        if memory.version == 1:
            return v1.oom_kills(self._tree.get(memory, at + b"/memory.oom_control"))
        return v2.oom_kills(self._tree.get(memory, at + b"/memory.events"))

    def procs(self, path: str) -> tuple[int, ...]:
        """The processes of the cgroup and all below it; empty when it is gone."""
        return processes.procs(self._tree, relative(path))

    def freeze(self, path: str) -> None:
        """Stop every process of the subtree where it stands, and wait for that."""
        processes.freeze(self._tree, relative(path))

    def thaw(self, path: str) -> None:
        """Undo `freeze`; of one that is gone or not frozen it is silent."""
        processes.thaw(self._tree, relative(path))

    def is_frozen(self, path: str) -> bool:
        """Whether the cgroup is frozen or on its way there."""
        return processes.is_frozen(self._tree, relative(path))

    def kill(self, path: str) -> None:
        """SIGKILL all of the subtree, frozen or not, and wait until it is empty."""
        processes.kill(self._tree, relative(path))

    def remove(self, path: str) -> None:
        """Remove the cgroup and all below it; already gone is silent. Raises: OSError."""
        for error in self.remove_many([path]).values():
            raise error

    def remove_many(self, paths: Sequence[str]) -> dict[str, OSError]:
        """`remove` for many; the failures by path."""
        by_relative = {relative(path): path for path in paths}
        errors = remove.remove_many(self._tree, list(by_relative))
        return {by_relative[at]: error for at, error in errors.items()}

    def remove_if_empty(self, parent: str) -> bool:
        """Remove a shared parent and its `monitors` unless somebody uses them; whether it went."""
        at = relative(parent)
        return remove.remove_if_empty(self._tree, [at + b"/" + paths.MONITORS.encode(), at])
