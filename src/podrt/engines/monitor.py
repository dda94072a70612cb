"""Talking to a group's monitor, and starting one where none serves.

A group is a pod, or a container outside a pod. Its monitor outlives the command that started
it, so a client's end cancels nothing; whoever comes next connects to the same socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import trio

from podrt.errors import EngineFailed, MonitorGone, sole_error
from podrt.layout import Layout
from podrt.linux import mounts
from podrt.linux.limits import limits_as_found

from . import wire
from .liveness import try_lock
from .plan_ops import stage_name
from .wire import Kind, Message

# Descriptors the monitor expects (monitor.c), and a number above them all to move ours to, so
# that no dup2 in the child overwrites a source that is still needed.
_LOCK_FD, _LISTEN_FD, _JOURNAL_FD, _RUN_FD = 3, 4, 5, 6
_ABOVE_FDS = 20
_BACKLOG = 64
# How long an ending monitor may take to let go of its lock before we call it stuck.
_TAKEOVER_S = 10
_TAKEOVER_POLL_S = 0.002
# One may be killed before it serves; the next would end the same way.
_SPAWNS = 3


class Started(NamedTuple):
    """A process that runs (or is held before exec): its pid and start time in clock ticks.

    `stages`, after a START_TIMES: when each stage of its start began (ns since 1970), and its
    number, in their order.
    """

    pid: int
    start_ticks: int
    stages: tuple[tuple[int, int], ...] = ()


class Exited(NamedTuple):
    """A process that ended: 0-255 (128+n for signal n), when, and whether it had to be killed."""

    code: int
    finished_at_ns: int
    was_killed: bool


class _Pending:
    __slots__ = ("done", "message")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.message: Message | None = None


class Monitor:
    """A connection to one group's monitor. Any number of requests may be under way at once."""

    def __init__(self, sock: socket.socket, group_id: str) -> None:
        self.group_id = group_id
        self._sock = sock
        self._pending: dict[int, _Pending] = {}
        self._last_req = 0
        self._is_gone = False
        # Of all who find the socket full one may watch it, the others queue behind.
        self._room = trio.StrictFIFOLock()

    async def setup(
        self, owner_id: str, flags: int, shm_bytes: int, hostname: str, *, maps: Sequence[str] = ()
    ) -> None:
        """Make the namespaces `flags` (CLONE_NEW*) that the group's containers share.

        `owner_id` is the infra container's ID, under which the journal keeps it; `maps` are the
        users' and groups' of a user namespace among them, as /proc/PID/uid_map takes them.
        Raises: EngineFailed.
        """
        await self._ask(
            Message(
                Kind.SETUP, arg=flags, a=shm_bytes, id=bytes.fromhex(owner_id),
                body="\0".join((hostname, *maps)).encode(),
            ),
            "setup",
        )  # fmt: skip

    async def start(
        self, container_id: str, run: int, *, plan_fd: int, join: Sequence[str], flags: int
    ) -> Started:
        """Start a container's process from its plan, in the cgroup directories `join`.

        Returns when exec succeeded (with START_HOLD: when the process stands before exec).
        Raises: EngineFailed naming the plan's stage.
        """
        body = b"".join(path.encode() + b"\0" for path in join)
        message = Message(Kind.START, run=run, arg=flags, id=bytes.fromhex(container_id), body=body)
        reply = await self._ask(message, "start", (plan_fd,))
        if not flags & wire.START_TIMES:
            return Started(reply.a, reply.b)
        stages = tuple((at, stage) for at, stage, _ in wire.STAMP.iter_unpack(reply.body))
        return Started(reply.a, reply.b, stages)

    async def release(self, container_id: str, run: int) -> Started:
        """Let a held process exec. Raises: EngineFailed."""
        reply = await self._ask(
            Message(Kind.RELEASE, run=run, id=bytes.fromhex(container_id)), "release"
        )
        return Started(reply.a, reply.b)

    async def signal(self, container_id: str, run: int, number: int) -> None:
        """Send a signal to a container's process. Raises: EngineFailed(ESRCH) if it is gone."""
        await self._ask(
            Message(Kind.SIGNAL, run=run, arg=number, id=bytes.fromhex(container_id)), "signal"
        )

    async def stop(self, container_id: str, run: int, *, number: int, grace_s: float) -> Exited:
        """Send `number`, then SIGKILL after `grace_s`; returns when the process is gone."""
        reply = await self._ask(
            Message(
                Kind.STOP, run=run, arg=number, a=round(grace_s * 1000),
                id=bytes.fromhex(container_id),
            ),
            "stop",
        )  # fmt: skip
        return Exited(reply.arg, reply.a, bool(reply.b))

    async def wait(self, container_id: str, run: int) -> Exited:
        """Wait until the container's process has ended. Raises: EngineFailed(ESRCH) unknown."""
        reply = await self._ask(Message(Kind.WAIT, run=run, id=bytes.fromhex(container_id)), "wait")
        return Exited(reply.arg, reply.a, bool(reply.b))

    async def tell_policy(
        self, container_id: str, run: int, policy: wire.Policy, *, flags: int
    ) -> None:
        """Say when a container is started again; it holds from now on, whatever it does.

        `flags` are those of the starts to come, `run` is its last one. Raises: EngineFailed.
        """
        await self._ask(
            Message(
                Kind.POLICY, run=run, arg=flags, id=bytes.fromhex(container_id),
                body=policy.encode(),
            ),
            "policy",
        )  # fmt: skip

    async def adopt(
        self, container_id: str, run: int, process: Started, log: str, *, flags: int = 0
    ) -> Started:
        """Watch a process that a dead monitor left; `flags` are those of a start.

        Raises: EngineFailed(ESRCH) if it is gone.
        """
        reply = await self._ask(
            Message(
                Kind.ADOPT, run=run, arg=flags, a=process.pid, b=process.start_ticks,
                id=bytes.fromhex(container_id), body=log.encode(),
            ),
            "adopt",
        )  # fmt: skip
        return Started(reply.a, reply.b)

    async def note(self, kind: Kind, owner_id: str) -> None:
        """Send PAUSE, UNPAUSE, REMOVING or FORGET, which carry no more than an ID."""
        await self._ask(Message(kind, id=bytes.fromhex(owner_id)), kind.name.lower())

    async def release_namespaces(self, owner_id: str) -> None:
        """Drop the shared namespaces. Raises: EngineFailed(EBUSY) while a process is in them."""
        await self._ask(Message(Kind.RELEASE_NS, id=bytes.fromhex(owner_id)), "release")

    async def hello(self) -> int:
        """Greet the monitor; returns the sequence of its last journal record.

        Once it answers, the journal holds everything that will come of what dead clients sent.
        """
        reply = await self._ask(Message(Kind.HELLO), "hello")
        return int.from_bytes(reply.body[:8], "little")

    async def _ask(self, message: Message, verb: str, fds: Sequence[int] = ()) -> Message:
        pending = _Pending()
        self._last_req += 1
        req = self._last_req
        self._pending[req] = pending
        try:
            await self._send(wire.encode(message._replace(req=req)), fds)
            await pending.done.wait()
        finally:
            self._pending.pop(req, None)
        reply = pending.message
        if reply is None:
            raise MonitorGone(f"the monitor of {self.group_id[:12]} ended during {verb}")
        if reply.kind == Kind.FAILED:
            stage = stage_name(reply.a) if reply.a else verb
            raise EngineFailed(stage, reply.arg, reply.body.decode("utf-8", "replace"))
        return reply

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        while not self._is_gone:
            try:
                if fds:
                    socket.send_fds(self._sock, [data], list(fds))
                else:
                    self._sock.send(data)
                return
            except BlockingIOError:
                async with self._room:
                    await trio.lowlevel.wait_writable(self._sock)
            except OSError:
                break
        raise MonitorGone(f"the monitor of {self.group_id[:12]} ended")

    async def read_replies(self) -> None:
        """Hand every reply to its asker until the connection ends; then all askers fail."""
        try:
            while await self._read_one():
                pass
        finally:
            self._is_gone = True
            for pending in self._pending.values():
                pending.done.set()

    async def _read_one(self) -> bool:
        try:
            data = self._sock.recv(wire.MAX_MESSAGE)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(self._sock)
            return True
        except OSError:
            return False
        if not data:
            return False
        try:
            reply = wire.decode(data)
        except ValueError:
            # Not a monitor that we could talk to; its askers are told that it is gone.
            return False
        pending = self._pending.get(reply.req)
        if pending is not None:
            pending.message = reply
            pending.done.set()
        return True


def monitor_binary() -> str:
    """The path of the installed monitor; PODRT_MONITOR_BINARY names another (sanitizer builds)."""
    return os.environ.get("PODRT_MONITOR_BINARY") or native_program("podrt-monitor")


def native_program(name: str) -> str:
    """The path of an installed C program."""
    own = os.path.join(os.path.dirname(__file__), "..", "_native", "bin", name)
    return os.path.normpath(own)


@contextlib.asynccontextmanager
async def open_monitor(
    layout: Layout,
    group_id: str,
    *,
    new_journal: Callable[[], int] | None,
    arguments: Callable[[], Sequence[str]] = tuple,
) -> AsyncIterator[Monitor]:
    """Connect to the group's monitor; where none serves, start one.

    `new_journal` creates the next epoch's journal and returns its descriptor; None forbids
    starting (MonitorGone if none serves). `arguments` are the monitor's: the cgroup directories
    that it joins (which are made by the call) and, behind "--", the command that settles.
    """
    sock = await _connect_or_spawn(layout, group_id, new_journal, arguments)
    monitor = Monitor(sock, group_id)
    # Shielded: who waits for an answer in a shield of its own must get it.
    reading = trio.CancelScope(shield=True)

    async def read() -> None:
        with reading:
            await monitor.read_replies()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                await monitor.hello()
                yield monitor
            finally:
                reading.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
    finally:
        sock.close()


async def _connect_or_spawn(
    layout: Layout,
    group_id: str,
    new_journal: Callable[[], int] | None,
    arguments: Callable[[], Sequence[str]],
) -> socket.socket:
    run_dir = layout.group_run(group_id)
    if new_journal is not None:
        os.makedirs(f"{run_dir}/shm", mode=0o700, exist_ok=True)
    deadline = trio.current_time() + _TAKEOVER_S
    spawned = 0
    while trio.current_time() < deadline:
        sock = await _connect(run_dir)
        if sock is not None:
            return sock
        if new_journal is None:
            break
        lock_fd = os.open(f"{run_dir}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if spawned < _SPAWNS and try_lock(lock_fd):
                spawned += 1
                _spawn(run_dir, group_id, lock_fd, new_journal, arguments)
                continue
        finally:
            os.close(lock_fd)
        await trio.sleep(_TAKEOVER_POLL_S)
    raise MonitorGone(f"no monitor serves {group_id[:12]}")


async def _connect(run_dir: str) -> socket.socket | None:
    try:
        dir_fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        # sun_path holds 107 bytes, fewer than a run directory with a 64-digit ID needs.
        sock.connect(f"/proc/self/fd/{dir_fd}/m")
        # An ending monitor may still have the connection queued; only an answer proves it serves.
        sock.send(wire.encode(Message(Kind.HELLO)))
        await _readable(sock)
        if sock.recv(wire.MAX_MESSAGE):
            return sock
    except (FileNotFoundError, ConnectionError, BlockingIOError):
        pass
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(dir_fd)
    sock.close()
    return None


async def _readable(sock: socket.socket) -> None:
    with trio.move_on_after(_TAKEOVER_S) as scope:
        await trio.lowlevel.wait_readable(sock)
    if scope.cancelled_caught:
        raise MonitorGone("a monitor does not answer")


def _spawn(
    run_dir: str,
    group_id: str,
    lock_fd: int,
    new_journal: Callable[[], int],
    arguments: Callable[[], Sequence[str]],
) -> None:
    """Start a monitor that takes over the held lock; its first process ends at once (it forks)."""
    with contextlib.ExitStack() as stack:

        def keep(fd: int) -> int:
            moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_FDS)
            stack.callback(os.close, moved)
            return moved

        journal_fd = new_journal()
        stack.callback(os.close, journal_fd)
        dir_fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, dir_fd)
        listener = stack.enter_context(_listen(dir_fd))
        binary_fd = mounts.readonly_clone(monitor_binary())
        stack.callback(os.close, binary_fd)
        targets = (
            (keep(lock_fd), _LOCK_FD),
            (keep(listener.fileno()), _LISTEN_FD),
            (keep(journal_fd), _JOURNAL_FD),
            (keep(dir_fd), _RUN_FD),
        )
        path = f"/proc/self/fd/{keep(binary_fd)}"
        argv = ["podrt-monitor", group_id, *arguments()]
        with limits_as_found():
            pid = os.posix_spawn(
                path,
                argv,
                {},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                    (os.POSIX_SPAWN_DUP2, 0, 1),
                    (os.POSIX_SPAWN_DUP2, 0, 2),
                    *((os.POSIX_SPAWN_DUP2, source, target) for source, target in targets),
                ],
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise EngineFailed("monitor", 0, f"{monitor_binary()} ended with {code}")


def _listen(dir_fd: int) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink("m", dir_fd=dir_fd)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    listener.bind(f"/proc/self/fd/{dir_fd}/m")
    os.chmod("m", 0o600, dir_fd=dir_fd)
    listener.listen(_BACKLOG)
    return listener
