"""The cgroup of a container made by `podrt oci`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from podrt.cgroups import paths
from podrt.cgroups.base import Stats
from podrt.cgroups.cgroupfs import Cgroupfs
from podrt.errors import EngineFailed, InUse, InvalidState, PodrtError
from podrt.model import runtimespec as oci

from . import limits

_FIELD = "linux.cgroupsPath"


def path_of(linux: oci.Linux, container_id: str) -> str:
    """The path from the top of every hierarchy, where a relative one starts, too.

    Without one the container is alone below the top. Raises: InvalidConfig.
    """
    return paths.check(linux.cgroups_path or f"/{container_id}", _FIELD)


class Cgroup:
    """One container's cgroup, through the files of this host's hierarchies."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._manager = Cgroupfs()

    def close(self) -> None:
        """Give the descriptors back."""
        self._manager.close()

    @property
    def is_unified(self) -> bool:
        """Whether a process can be born in it."""
        return self._manager.unified

    def create(self, wanted: oci.Resources) -> None:
        """Make it with its limits. One that is there must be empty, and not frozen.

        Raises: InUse, InvalidConfig, Unsupported, InvalidState, EngineFailed.
        """
        writes = limits.other_writes(wanted)
        if self._manager.procs(self.path):
            raise InUse(f"the cgroup {self.path}", ["processes that live in it"])
        was_there = self._manager.exists(self.path)
        if was_there and self._manager.is_frozen(self.path):
            raise InvalidState(
                "use", f"cgroup {self.path}", "container's cgroup unexpectedly frozen"
            )
        try:
            with _worded():
                known = limits.known_limits(wanted)
                self._manager.create(self.path, known, limits.device_rules(wanted))
                limits.apply_writes(writes, self._manager.hierarchies, self.path)
        except BaseException:
            if not was_there:
                with contextlib.suppress(OSError):
                    self._manager.remove(self.path)
            raise

    def update(self, wanted: oci.Resources) -> None:
        """Change limits; what is not given stays. Raises as `create` does."""
        writes = limits.other_writes(wanted)
        with _worded():
            self._manager.update(self.path, limits.known_limits(wanted))
            limits.apply_writes(writes, self._manager.hierarchies, self.path)

    def join_dirs(self) -> tuple[str, ...]:
        """The directories whose cgroup.procs a process of the container is written to."""
        return self._manager.join_dirs(self.path)

    def procs(self) -> tuple[int, ...]:
        """The processes in it and below."""
        return self._manager.procs(self.path)

    def stats(self) -> Stats:
        """What it uses. Raises: EngineFailed when it is gone."""
        return self._manager.stats(self.path)

    def oom_kills(self) -> int:
        """How many processes the kernel killed in it for memory."""
        return self._manager.oom_kills(self.path)

    def freeze(self) -> None:
        """Stop all of them. Raises: EngineFailed."""
        self._manager.freeze(self.path)

    def thaw(self) -> None:
        """Let all of them go on. Raises: EngineFailed."""
        self._manager.thaw(self.path)

    def is_frozen(self) -> bool:
        """Whether it is frozen, or on its way there."""
        return self._manager.is_frozen(self.path)

    def kill(self) -> None:
        """SIGKILL to everything in it; waits for the end. Raises: EngineFailed."""
        self._manager.kill(self.path)

    def remove(self) -> None:
        """Remove it and all below; what is gone is fine. Raises: EngineFailed."""
        try:
            self._manager.remove(self.path)
        except OSError as exc:
            raise EngineFailed("remove cgroup", exc.errno or 0, self.path) from exc


@contextlib.contextmanager
def opened(path: str) -> Iterator[Cgroup]:
    """The cgroup `path`, for a while."""
    cgroup = Cgroup(path)
    try:
        yield cgroup
    finally:
        cgroup.close()


@contextlib.contextmanager
def _worded() -> Iterator[None]:
    try:
        yield
    except PodrtError as exc:
        known = limits.by_field(exc)
        if known is exc:
            raise
        raise known from exc
