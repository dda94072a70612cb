"""`podrt oci exec`: one more process in a container's namespaces, cgroup and confinement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import msgspec

from podrt.cgroups import paths
from podrt.errors import InvalidConfig, InvalidState
from podrt.linux import caps
from podrt.model import runtimespec as oci

from . import bundle as bundles
from . import cgroup as cgroups
from . import console, launch, plans, processes
from .creation import write_pid_file
from .foreground import waiting
from .lifecycle import CREATED, PAUSED, RUNNING, Runtime, known, status_of
from .state import Container

# The namespaces in the order they are entered: from a user namespace none of the host's others
# can be, and what comes after the mount namespace no longer sees the host's /proc.
_KINDS = ("net", "ipc", "uts", "cgroup", "time", "pid", "mnt", "user")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to run and how: runc's options of exec."""

    id: str
    args: tuple[str, ...] = ()
    process_file: str = ""
    tty: bool = False
    user: str = ""
    additional_gids: tuple[str, ...] = ()
    cwd: str = ""
    env: tuple[str, ...] = ()
    caps: tuple[str, ...] = ()
    no_new_privs: bool = False
    label: str = ""
    apparmor: str = ""
    cgroup: str = ""
    ignore_paused: bool = False
    detach: bool = False
    pid_file: str = ""
    console_socket: str = ""
    preserve_fds: int = 0


def execute(runtime: Runtime, wanted: Wanted) -> int:
    """Run it; unless `detach`, wait for its end. The result is the exit code.

    Raises: NotFound, InvalidState, InvalidConfig, Unsupported, EngineFailed.
    """
    with runtime.containers.locked(wanted.id) as place:
        container = known(place, wanted.id)
        status = status_of(container)
        allowed = (CREATED, RUNNING, PAUSED) if wanted.ignore_paused else (CREATED, RUNNING)
        if status not in allowed:
            raise InvalidState("exec in", f"a {status} container", wanted.id)
        spec = place.config()
    process = _process(wanted, spec)
    proxied = process.terminal and not wanted.console_socket and not wanted.detach
    if not proxied:
        console.check(process.terminal, wanted.console_socket)
    with contextlib.ExitStack() as stack:
        wait = None if wanted.detach else stack.enter_context(waiting(proxied=proxied))
        sink = stack.enter_context(console.sent_to(wanted.console_socket))
        if wait is not None and proxied:
            sink = wait.take_master
        joins = stack.enter_context(_namespaces(container))
        how = plans.Wanted(
            id=wanted.id,
            cgroup=container.cgroup,
            filters=runtime.containers.filters,
            preserve_fds=wanted.preserve_fds,
        )
        plan = plans.exec_plan(process, spec, joins, container, how)
        dirs = _join_dirs(container, wanted.cgroup)
        with launch.launched(plan, dirs, keep_fds=wanted.preserve_fds) as child:
            started = child.wait_started()
            master = child.take_master()
            if master >= 0:
                sink(master)
        if wanted.pid_file:
            write_pid_file(wanted.pid_file, started.pid)
        return 0 if wait is None else wait.for_end(started)


def _join_dirs(container: Container, below: str) -> tuple[str, ...]:
    path = container.cgroup
    if below:
        if ".." in below.split("/"):
            raise InvalidConfig("--cgroup", f"{below} is not a sub cgroup path")
        path = paths.check(f"{path}/{below.strip('/')}".rstrip("/"), "--cgroup")
    with cgroups.opened(path) as group:
        return group.join_dirs()


@contextlib.contextmanager
def _namespaces(container: Container) -> Iterator[list[tuple[str, str]]]:
    """(type, path) of the container's namespaces that are not ours.

    They are held open, and the paths lead to what is held: the number of a process that ends now
    may be another's in a moment. Raises: InvalidState.
    """
    with contextlib.ExitStack() as stack:
        pidfd = processes.open_process(container.process)
        if pidfd < 0:
            raise InvalidState("exec in", f"container {container.id}", "it is stopped")
        stack.callback(os.close, pidfd)
        found = []
        for kind in _KINDS:
            path = f"/proc/{container.pid}/ns/{kind}"
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            stack.callback(os.close, fd)
            theirs, ours = os.fstat(fd), os.stat(f"/proc/self/ns/{kind}")
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                os.set_inheritable(fd, True)
                found.append((kind, f"/proc/self/fd/{fd}"))
        if processes.ended(pidfd, 0):
            raise InvalidState("exec in", f"container {container.id}", "it is stopped")
        yield found


def _process(wanted: Wanted, spec: oci.Spec) -> oci.Process:
    """The process as a file says, or as the container's own with what the flags change."""
    if wanted.process_file:
        data = bundles.read_document(wanted.process_file)
        process = oci.decode(b'{"process":' + data + b"}").process
        if process is None:
            raise InvalidConfig("--process", f"{wanted.process_file} holds no process")
        changes: dict[str, object] = {"terminal": True} if wanted.tty else {}
    else:
        process = spec.process or oci.Process()
        if not wanted.args:
            raise InvalidConfig("process.args", "is empty")
        changes = {"args": wanted.args, "terminal": wanted.tty, "console_size": None}
    if wanted.cwd:
        changes["cwd"] = wanted.cwd
    if wanted.env:
        changes["env"] = _merged(process.env, wanted.env)
    if wanted.user or wanted.additional_gids:
        changes["user"] = _user(wanted, process.user)
    if wanted.caps:
        changes["capabilities"] = _capabilities(wanted.caps, process.capabilities)
    if wanted.no_new_privs:
        changes["no_new_privileges"] = True
    if wanted.label:
        changes["selinux_label"] = wanted.label
    if wanted.apparmor:
        changes["apparmor_profile"] = wanted.apparmor
    return msgspec.structs.replace(process, **changes)


def _merged(env: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """A later setting of a name counts."""
    settings = {entry.partition("=")[0]: entry for entry in (*env, *more)}
    return tuple(settings.values())


def _user(wanted: Wanted, user: oci.User) -> oci.User:
    """--user UID[:GID]; names are those of the container, which are nobody's business here."""
    uid, _, gid = wanted.user.partition(":")
    changes: dict[str, object] = {}
    try:
        if uid:
            changes["uid"] = int(uid)
        if gid:
            changes["gid"] = int(gid)
        if wanted.additional_gids:
            changes["additional_gids"] = tuple(map(int, wanted.additional_gids))
    except ValueError:
        raise InvalidConfig("--user", f"{wanted.user!r} is not UID[:GID]") from None
    return msgspec.structs.replace(user, **changes)


def _capabilities(words: tuple[str, ...], given: oci.Capabilities | None) -> oci.Capabilities:
    names = tuple(caps.full_name(word, "--cap") for word in words)
    sets = given or oci.Capabilities()
    return oci.Capabilities(
        bounding=_with(sets.bounding, names),
        effective=_with(sets.effective, names),
        permitted=_with(sets.permitted, names),
        inheritable=sets.inheritable,
        ambient=sets.ambient,
    )


def _with(names: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*names, *more)))
