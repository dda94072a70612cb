"""The verbs of an OCI runtime: create, start, kill, delete, pause, resume, state.

Source: runtime-spec runtime.md, "Lifecycle" and "Operations".
"""

from __future__ import annotations

import datetime
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from podrt.errors import EngineFailed, InvalidConfig, InvalidState, NotFound, PodrtError
from podrt.linux import files
from podrt.linux.process import Process
from podrt.model import runtimespec as oci

from . import bundle as bundles
from . import cgroup as cgroups
from . import console, hooks, launch, plans, processes, programs
from .state import Container, Containers, Document, Place, document

CREATING, CREATED, RUNNING, STOPPED, PAUSED = "creating created running stopped paused".split()


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """How a container is to be made: runc's options of create and run."""

    id: str
    bundle: str = "."
    pid_file: str = ""
    console_socket: str = ""
    preserve_fds: int = 0
    new_keyring: bool = True


class Runtime:
    """The containers below one root; `warn` gets what failed without ending a command."""

    def __init__(self, root: str, warn: Callable[[str], None]) -> None:
        self.containers = Containers(root)
        self.warn = warn

    def state(self, container_id: str) -> Document:
        """A container's state. Raises: NotFound, InvalidConfig."""
        container = self.containers.load(container_id)
        return document(container, status_of(container))

    def create(self, making: Making) -> Container:
        """Make a container up to its program, which waits for `start`.

        What was made goes when it fails, and poststop hooks run. Raises: PodrtError.
        """
        bundle = bundles.read(making.bundle)
        terminal = bool(bundle.spec.process and bundle.spec.process.terminal)
        console.check(terminal, making.console_socket)
        with console.sent_to(making.console_socket) as sink:
            return self.create_with(making, bundle, sink)

    def create_with(
        self, making: Making, bundle: bundles.Bundle, sink: Callable[[int], None]
    ) -> Container:
        """`create` for a bundle that was read; `sink` gets the terminal's descriptor."""
        linux = bundle.spec.linux or oci.Linux()
        cgroup = cgroups.path_of(linux, making.id)
        place = self.containers.reserve(making.id)
        try:
            container = Container(
                id=making.id,
                bundle=bundle.path,
                rootfs=bundle.rootfs,
                created=_now(),
                oci_version=bundle.spec.oci_version,
                owner=_user_name(),
                cgroup=cgroup,
                annotations=bundle.spec.annotations,
            )
            try:
                place.write_config(bundle.data)
                place.save(container)
                plan = plans.container_plan(
                    bundle,
                    plans.Wanted(
                        id=making.id,
                        cgroup=cgroup,
                        filters=self.containers.filters,
                        preserve_fds=making.preserve_fds,
                        new_keyring=making.new_keyring,
                    ),
                )
            except BaseException:
                place.remove()
                raise
            with cgroups.opened(cgroup) as group:
                try:
                    group.create(linux.resources or oci.Resources())
                except BaseException:
                    place.remove()
                    raise
                return self._launch(place, container, bundle.spec, (making, plan, group, sink))
        finally:
            place.close()

    def _launch(
        self,
        place: Place,
        container: Container,
        spec: oci.Spec,
        how: tuple[Making, bytes, cgroups.Cgroup, Callable[[int], None]],
    ) -> Container:
        making, plan, group, sink = how
        given = spec.hooks or oci.Hooks()
        early = (*given.prestart, *given.create_runtime)
        try:
            with launch.launched(
                plan, group.join_dirs(), folder=place.path, keep_fds=making.preserve_fds
            ) as child:
                if early:
                    container = place.save(_with(container, child.wait_made()))
                    state = encoded(container, CREATING)
                    hooks.run("prestart", given.prestart, state, container.bundle)
                    hooks.run("createRuntime", given.create_runtime, state, container.bundle)
                    child.go_on()
                process = child.wait_created()
                container = _with(container, process)
                if spec.process is not None:
                    programs.check(process.pid, spec.process)
                master = child.take_master()
                if master >= 0:
                    sink(master)
                if making.pid_file:
                    write_pid_file(making.pid_file, process.pid)
                created = msgspec.structs.replace(container, is_created=True)
                return place.save(created)
        except BaseException:
            self._undo(place, container, spec)
            raise

    def _undo(self, place: Place, container: Container, spec: oci.Spec) -> None:
        """Take a container apart that could not be created; errors are only warnings then."""
        for error in self._destroy(place, container):
            self.warn(str(error))
        self._poststop(container, spec)

    def start(self, container_id: str) -> None:
        """Let a created container's program run. Raises: InvalidState, EngineFailed, NotFound."""
        with self.containers.locked(container_id) as place:
            container = _known(place, container_id)
            status = status_of(container)
            if status != CREATED:
                raise InvalidState("start", f"container {container_id}", f"it is {status}")
            spec = place.config()
            try:
                launch.release(place.path, container_id)
            except EngineFailed as exc:
                processes.kill(container.process)
                if launch.is_hook(exc):
                    self._undo(place, container, spec)
                raise
            container = place.save(msgspec.structs.replace(container, is_started=True))
            given = (spec.hooks or oci.Hooks()).poststart
            if given:
                state = encoded(container, RUNNING)
                hooks.run_all("poststart", given, state, container.bundle, self.warn)

    def kill(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        """Send a signal. Raises: InvalidState unless it is created, running or paused."""
        container = self.containers.load(container_id)
        is_there = status_of(container) in (CREATED, RUNNING, PAUSED)
        if everyone:
            with cgroups.opened(container.cgroup) as group:
                pids = group.procs()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            is_there = is_there or bool(pids)
        elif is_there:
            is_there = processes.send(container.process, number)
        if not is_there:
            raise InvalidState("kill", f"container {container_id}", "container not running")
        if number == 9:
            self._thaw(container)

    def _thaw(self, container: Container) -> None:
        """A process that stands frozen does not die of SIGKILL on cgroup v1."""
        with cgroups.opened(container.cgroup) as group:
            if group.is_frozen():
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
            raise InvalidState("delete", f"container {container_id}", f"it is {status}")
        spec = place.config()
        errors = list(self._destroy(place, container))
        self._poststop(container, spec)
        if errors:
            raise errors[0]

    def _destroy(self, place: Place, container: Container) -> Iterator[PodrtError]:
        """Kill what is left, and give everything back; the directory goes last of all."""
        failed = False
        with cgroups.opened(container.cgroup) as group:
            steps: tuple[Callable[[], None], ...] = (
                lambda: processes.kill(container.process),
                group.kill,
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
        with cgroups.opened(container.cgroup) as group:
            return group.procs()

    @contextmanager
    def _in_state(
        self, verb: str, container_id: str, allowed: tuple[str, ...]
    ) -> Iterator[cgroups.Cgroup]:
        with self.containers.locked(container_id) as place:
            container = _known(place, container_id)
            status = status_of(container)
            if status not in allowed:
                raise InvalidState(verb, f"container {container_id}", f"it is {status}")
            with cgroups.opened(container.cgroup) as group:
                yield group


def status_of(container: Container) -> str:
    """What the container does now: the kernel's word counts, not what was written down."""
    if not container.pid:
        return CREATING
    if not container.process.is_alive:
        return STOPPED
    if not container.is_created:
        return CREATING
    with cgroups.opened(container.cgroup) as group:
        if group.is_frozen():
            return PAUSED
    return RUNNING if container.is_started else CREATED


def encoded(container: Container, status: str) -> bytes:
    """The state as hooks find it on their standard input."""
    return msgspec.json.encode(document(container, status))


def _known(place: Place, container_id: str) -> Container:
    container = place.load()
    if container is None:
        raise NotFound("container", container_id)
    return container


def _with(container: Container, process: Process) -> Container:
    return msgspec.structs.replace(container, pid=process.pid, start_ticks=process.start_ticks)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def write_pid_file(path: str, pid: int) -> None:
    """Tell the caller the number of the process. Raises: InvalidConfig."""
    try:
        files.write_atomically(path, str(pid).encode(), 0o644)
    except OSError as exc:
        raise InvalidConfig("--pid-file", f"{path}: {os.strerror(exc.errno or 0)}") from exc
