"""Making a container, and letting its program run.

Source: runtime-spec runtime.md, "Lifecycle", steps 1 to 8.
"""

from __future__ import annotations

import datetime
import os
import pwd
from collections.abc import Callable

import msgspec

from podrt.errors import EngineFailed, InvalidConfig, InvalidState
from podrt.linux import files
from podrt.linux.mounts import mount_of
from podrt.linux.process import Process
from podrt.model import runtimespec as oci

from . import bundle as bundles
from . import cgroup as cgroups
from . import console, hooks, launch, plans, processes, programs
from .lifecycle import CREATED, CREATING, RUNNING, STOPPED, Runtime, encoded, known, status_of
from .state import Container, Place

Sink = Callable[[int], None]

# As runc words it: managers look for this.
_NOT_STARTED = {RUNNING: "an already running container", STOPPED: "a container that has stopped"}


class Making(msgspec.Struct, frozen=True, kw_only=True):
    """How a container is to be made: runc's options of create and run."""

    id: str
    bundle: str = "."
    config: str = bundles.CONFIG
    pid_file: str = ""
    console_socket: str = ""
    preserve_fds: int = 0
    new_keyring: bool = True


def create(runtime: Runtime, making: Making) -> Container:
    """Make a container up to its program, which waits for `start`.

    What was made goes when it fails, and poststop hooks run. Raises: PodrtError.
    """
    bundle = bundles.read(making.bundle, making.config)
    terminal = bool(bundle.spec.process and bundle.spec.process.terminal)
    console.check(terminal, making.console_socket)
    with console.sent_to(making.console_socket) as sink:
        return create_from(runtime, making, bundle, sink)


def create_from(runtime: Runtime, making: Making, bundle: bundles.Bundle, sink: Sink) -> Container:
    """`create` for a bundle that was read; `sink` gets the terminal's descriptor."""
    linux = bundle.spec.linux or oci.Linux()
    for text in plans.warnings(bundle.spec):
        runtime.warn(text)
    container = Container(
        id=making.id,
        bundle=bundle.path,
        rootfs=bundle.rootfs,
        created=datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
        oci_version=bundle.spec.oci_version,
        owner=_user_name(),
        cgroup=cgroups.path_of(linux, making.id),
        covered_mount=0 if linux.has_namespace("mount") else mount_of(bundle.rootfs),
        annotations=bundle.spec.annotations,
    )
    place = runtime.containers.reserve(making.id)
    try:
        with cgroups.opened(container.cgroup) as group:
            plan = _prepare(runtime, making, bundle, (place, container, group))
            try:
                made = _launch(place, container, bundle.spec, (making, plan, group, sink))
                return place.save(msgspec.structs.replace(made, is_created=True))
            except BaseException:
                # What was saved on the way knows the process.
                runtime.undo(place, place.load() or container, bundle.spec)
                raise
    finally:
        place.close()


def _prepare(
    runtime: Runtime,
    making: Making,
    bundle: bundles.Bundle,
    into: tuple[Place, Container, cgroups.Cgroup],
) -> bytes:
    """Everything before there is a process: the state, the plan, the cgroup. The plan."""
    place, container, group = into
    try:
        place.write_config(bundle.data)
        place.save(container)
        wanted = plans.Wanted(
            id=making.id,
            cgroup=container.cgroup,
            filters=runtime.containers.filters,
            preserve_fds=making.preserve_fds,
            new_keyring=making.new_keyring,
        )
        plan = plans.container_plan(bundle, wanted)
        linux = bundle.spec.linux or oci.Linux()
        group.create(linux.resources or oci.Resources())
        return plan
    except BaseException:
        place.remove()
        raise


def _launch(
    place: Place,
    container: Container,
    spec: oci.Spec,
    how: tuple[Making, bytes, cgroups.Cgroup, Sink],
) -> Container:
    making, plan, group, sink = how
    given = spec.hooks or oci.Hooks()
    with launch.launched(
        plan, group.join_dirs(), folder=place.path, keep_fds=making.preserve_fds
    ) as child:
        if plans.stops_for_hooks(spec):
            container = place.save(_with(container, child.wait_made()))
            # Once, prestart came after create; its readers still look for that.
            hooks.run("prestart", given.prestart, encoded(container, CREATED), container.bundle)
            state = encoded(container, CREATING)
            hooks.run("createRuntime", given.create_runtime, state, container.bundle)
            child.go_on()
        container = place.save(_with(container, child.wait_created()))
        if spec.process is not None:
            programs.check(container.pid, spec.process)
        master = child.take_master()
        if master >= 0:
            sink(master)
        if making.pid_file:
            write_pid_file(making.pid_file, container.pid)
        return container


def start(runtime: Runtime, container_id: str) -> None:
    """Let a created container's program run. Raises: InvalidState, EngineFailed, NotFound."""
    with runtime.containers.locked(container_id) as place:
        container = known(place, container_id)
        status = status_of(container)
        if status != CREATED:
            raise InvalidState(
                "start", _NOT_STARTED.get(status, f"a {status} container"), container_id
            )
        spec = place.config()
        if spec.process is None:
            processes.kill(container.process)
            raise InvalidConfig("process", "is missing: there is nothing to start")
        try:
            launch.release(place.path, container_id)
        except EngineFailed as exc:
            processes.kill(container.process)
            if launch.is_hook(exc):
                runtime.undo(place, container, spec)
            raise
        container = place.save(msgspec.structs.replace(container, is_started=True))
    given = (spec.hooks or oci.Hooks()).poststart
    if given:
        # Without the lock: they may well use the container.
        state = encoded(container, RUNNING)
        hooks.run_all("poststart", given, state, container.bundle, runtime.warn)


def _with(container: Container, process: Process) -> Container:
    return msgspec.structs.replace(container, pid=process.pid, start_ticks=process.start_ticks)


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
