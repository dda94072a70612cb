"""The hierarchies as open directories, and batches of steps in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from podrt._fast import cgroupfs
from podrt.errors import EngineFailed, LimitReached, PodrtError

from . import paths
from .hierarchies import Hierarchies, Hierarchy

Step = tuple[int, int, bytes, bytes]
Result = bytes | int | None

# A cgroup whose processes were just killed is busy until the kernel has let the last one go.
GONE = frozenset({errno.ENOENT, errno.ENODEV})
BUSY = frozenset({errno.EBUSY, errno.ENOTEMPTY})


class Tree:
    """Every hierarchy's top directory, held open. Paths here are relative bytes."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self.hierarchies = hierarchies
        self._fds: dict[Hierarchy, int] = {}
        try:
            for one in hierarchies.all:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                self._fds[one] = os.open(one.mount, flags)
        except OSError as exc:
            self.close()
            raise EngineFailed("cgroup", exc.errno or 0, str(exc.filename)) from exc

    def close(self) -> None:
        """Close the directories; a second time does nothing."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def fd(self, hierarchy: Hierarchy) -> int:
        """The open top of a hierarchy."""
        return self._fds[hierarchy]

    def mkdir(self, hierarchy: Hierarchy, path: bytes) -> Step:
        """The step that makes a cgroup; one that exists is fine."""
        return cgroupfs.MKDIR, self._fds[hierarchy], path, b""

    def rmdir(self, hierarchy: Hierarchy, path: bytes) -> Step:
        """The step that removes an empty cgroup; its failure stops nothing."""
        return cgroupfs.RMDIR | cgroupfs.OPTIONAL, self._fds[hierarchy], path, b""

    def read(self, hierarchy: Hierarchy, path: bytes) -> Step:
        """The step that reads a file, which may be missing."""
        return cgroupfs.READ | cgroupfs.OPTIONAL, self._fds[hierarchy], path, b""

    def write(
        self, hierarchy: Hierarchy, path: bytes, value: bytes, *, optional: bool = False
    ) -> Step:
        """The step that writes a file."""
        operation = cgroupfs.WRITE | (cgroupfs.OPTIONAL if optional else 0)
        return operation, self._fds[hierarchy], path, value

    def run(self, steps: Iterable[Step]) -> tuple[int, int, list[Result]]:
        """Do the steps: (index of the failed one or -1, errno, results)."""
        return cgroupfs.run(steps)

    def get(self, hierarchy: Hierarchy, path: bytes) -> bytes:
        """What a file holds; b"" when it is not there."""
        result = self.run([self.read(hierarchy, path)])[2][0]
        return result if isinstance(result, bytes) else b""

    def put(self, hierarchy: Hierarchy, path: bytes, value: bytes) -> int:
        """Write a file: 0 or an errno."""
        return self.run([self.write(hierarchy, path, value)])[1]

    def absolute(self, hierarchy: Hierarchy, path: bytes) -> str:
        """A relative path as people see it."""
        return f"{hierarchy.mount}/{os.fsdecode(path)}"

    def exists(self, path: bytes) -> bool:
        """Whether the cgroup is there in any hierarchy."""
        return any(self.is_in(one, path) for one in self.hierarchies.all)

    def is_in(self, hierarchy: Hierarchy, path: bytes) -> bool:
        """Whether the cgroup is there in this hierarchy."""
        try:
            os.stat(path, dir_fd=self._fds[hierarchy], follow_symlinks=False)
        except OSError:
            return False
        return True

    def subtree(self, hierarchy: Hierarchy, path: bytes) -> list[bytes]:
        """The cgroup and all below it, the deepest last; empty when it is gone."""
        found: list[bytes] = []
        waiting = [path]
        while waiting:
            at = waiting.pop()
            below = self._children(hierarchy, at)
            if below is not None:
                found.append(at)
                waiting += [at + b"/" + name for name in below]
        return found

    def _children(self, hierarchy: Hierarchy, path: bytes) -> list[bytes] | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, dir_fd=self._fds[hierarchy])
        except OSError as exc:
            if exc.errno in GONE:
                return None
            raise
        try:
            with os.scandir(fd) as entries:
                return [os.fsencode(one.name) for one in entries if one.is_dir()]
        except FileNotFoundError:
            return None
        finally:
            os.close(fd)


def failed(number: int, path: str) -> PodrtError:
    """The error for a step that the kernel refused."""
    if number in (errno.ENOSPC, errno.EAGAIN, errno.ENOMEM):
        # No cgroup IDs left, cgroup.max.descendants or cgroup.max.depth reached.
        return LimitReached("the number of cgroups", f"{path}: {os.strerror(number)}")
    return EngineFailed("cgroup", number, path)


def relative(path: str) -> bytes:
    """A checked path from the top, as the steps take it. Raises: InvalidConfig."""
    return paths.below_top(path)
