"""The verbs of an OCI runtime on containers that are there: state, kill, delete, pause, resume.

`create` and `start` are in creation.py. Source: runtime-spec runtime.md, "Operations".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from podrt.errors import EngineFailed, InvalidState, NotFound, PodrtError
from podrt.model import runtimespec as oci

from . import hooks, processes
from .freezer import is_frozen
from .state import Container, Containers, Document, Place, document

if TYPE_CHECKING:
    from .cgroup import Cgroup

CREATING, CREATED, RUNNING, STOPPED, PAUSED = "creating created running stopped paused".split()


class Runtime:
    """The containers below one root; `warn` gets what failed without ending a command."""

    def __init__(self, root: str, warn: Callable[[str], None]) -> None:
        self.containers = Containers(root)
        self.warn = warn

    def state(self, container_id: str) -> Document:
        """A container's state. Raises: NotFound, InvalidConfig."""
        container = self.containers.load(container_id)
        return document(container, status_of(container))

    def undo(self, place: Place, container: Container, spec: oci.Spec) -> None:
        """Take a container apart that could not be created; errors are only warnings then."""
        for error in self._destroy(place, container):
            self.warn(str(error))
        self._poststop(container, spec)

    def kill(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        """Send a signal. Raises: InvalidState unless it is created, running or paused.

        `everyone` in it: that nobody is there is no error, as callers who clean up expect.
        """
        container = self.containers.load(container_id)
        is_there = status_of(container) in (CREATED, RUNNING, PAUSED)
        if everyone:
            with _cgroup(container) as group:
                _signal_all(group, number)
            is_there = True
        elif is_there:
            is_there = processes.send(container.process, number)
        if not is_there:
            raise InvalidState("kill", f"container {container_id}", "container not running")
        # What stands frozen does not die of it on cgroup v1.
        if number == signal.SIGKILL and is_frozen(container.cgroup):
            with _cgroup(container) as group:
                group.thaw()

    def delete(self, container_id: str, *, force: bool = False) -> None:
        """Remove what create made, of a container that has stopped; `force` kills it first.

        With `force` one that is not there is no error. Raises: InvalidState, NotFound.
        """
        try:
            with self.containers.locked(container_id) as place:
                self._delete(place, container_id, force=force)
        except NotFound:
            if not force:
                raise

    def _delete(self, place: Place, container_id: str, *, force: bool) -> None:
        container = place.load()
        if container is None:  # whoever began to create it has died
            place.remove()
            return
        status = status_of(container)
        if status not in (STOPPED, CREATING) and not force:
            what = f"container {container_id} that is not stopped"
            raise InvalidState("delete", what, f"it is {status}")
        spec = place.config()
        errors = list(self._destroy(place, container))
        self._poststop(container, spec)
        if errors:
            raise errors[0]

    def _destroy(self, place: Place, container: Container) -> Iterator[PodrtError]:
        """Kill what is left, and give everything back; the directory goes last of all."""
        failed = False
        with _cgroup(container) as group:
            # The cgroup first: what stands frozen in it ends only once that is thawed.
            steps: tuple[Callable[[], None], ...] = (
                group.kill,
                lambda: processes.kill(container.process),
                lambda: _uncover(container),
                group.remove,
            )
            for step in steps:
                try:
                    step()
                except PodrtError as exc:
                    failed = True
                    yield exc
        if not failed:
            place.remove()

    def _poststop(self, container: Container, spec: oci.Spec) -> None:
        given = (spec.hooks or oci.Hooks()).poststop
        if given:
            state = encoded(container, STOPPED)
            hooks.run_all("poststop", given, state, container.bundle, self.warn)

    def pause(self, container_id: str) -> None:
        """Freeze a created or running container. Raises: InvalidState, EngineFailed."""
        with self._in_state("pause", container_id, (CREATED, RUNNING)) as group:
            group.freeze()

    def resume(self, container_id: str) -> None:
        """Undo `pause`. Raises: InvalidState, EngineFailed."""
        with self._in_state("resume", container_id, (PAUSED,)) as group:
            group.thaw()

    def update(self, container_id: str, wanted: oci.Resources) -> None:
        """Change limits. Raises: InvalidState, InvalidConfig, Unsupported."""
        with self._in_state("update", container_id, (CREATED, RUNNING, PAUSED)) as group:
            group.update(wanted)

    def pids(self, container_id: str) -> tuple[int, ...]:
        """The processes of a container. Raises: NotFound."""
        container = self.containers.load(container_id)
        with _cgroup(container) as group:
            return group.procs()

    @contextmanager
    def _in_state(self, verb: str, container_id: str, allowed: tuple[str, ...]) -> Iterator[Cgroup]:
        with self.containers.locked(container_id) as place:
            container = known(place, container_id)
            status = status_of(container)
            if status not in allowed:
                raise InvalidState(verb, f"container {container_id}", f"it is {status}")
            with _cgroup(container) as group:
                yield group


def _uncover(container: Container) -> None:
    """Take away the mounts of a container that has no mount namespace. Raises: EngineFailed."""
    if not container.covered_mount:
        return
    from podrt._fast import calls
    from podrt.linux.mounts import mount_of

    try:
        if mount_of(container.rootfs) != container.covered_mount:
            calls.umount_lazily(container.rootfs)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise EngineFailed("unmount", exc.errno or 0, container.rootfs) from exc


@contextmanager
def _cgroup(container: Container) -> Iterator[Cgroup]:
    from .cgroup import opened  # dear to load, and whoever only looks does not need it

    with opened(container.cgroup) as group:
        yield group


def _signal_all(group: Cgroup, number: int) -> None:
    """Send a signal to all of a cgroup.

    A number may be another process's by now: held by descriptor, then looked up once more.
    """
    held: dict[int, int] = {}
    try:
        for pid in group.procs():
            with suppress(ProcessLookupError):
                held[pid] = os.pidfd_open(pid)
        for pid in held.keys() & set(group.procs()):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(held[pid], number)
    finally:
        for fd in held.values():
            os.close(fd)


def status_of(container: Container) -> str:
    """What the container does now: the kernel's word counts, not what was written down."""
    if not container.pid:
        return CREATING
    if not container.process.is_alive:
        return STOPPED
    if not container.is_created:
        return CREATING
    if is_frozen(container.cgroup):
        return PAUSED
    return RUNNING if container.is_started else CREATED


def encoded(container: Container, status: str) -> bytes:
    """The state as hooks find it on their standard input."""
    return msgspec.json.encode(document(container, status))


def known(place: Place, container_id: str) -> Container:
    """The container of a directory. Raises: NotFound when it was never made."""
    container = place.load()
    if container is None:
        raise NotFound("container", container_id)
    return container
