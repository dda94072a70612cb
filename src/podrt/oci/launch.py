"""Starting a container's process without a monitor: `podrt-monitor launch`, and letting it go on.

Source: _native/standalone.c, which says what goes over which descriptor.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import podrt
from podrt.engines import wire
from podrt.engines.plan_ops import OpCode, stage_name
from podrt.engines.wire import Kind, Message
from podrt.errors import EngineFailed, InternalError, InvalidState
from podrt.linux import mounts
from podrt.linux.process import Process, identify

PROGRAM = "podrt-monitor"
START = "start"
"""The socket beside a container's state on which its process waits for `start`."""

_BACKLOG = 4
_MASTER_BYTES = array.array("i").itemsize
_ADD_SEALS, _ALL_SEALS = 1033, 0xF  # fcntl(2): F_ADD_SEALS; seal, shrink, grow, write


def launcher() -> str:
    """The launcher's file."""
    return os.path.join(os.path.dirname(podrt.__file__), "_native", "bin", PROGRAM)


class Launch:
    """A process on its way; messages come in the order of the methods here."""

    def __init__(self, sync: socket.socket) -> None:
        self._sync = sync
        self._master = -1

    def wait_made(self) -> Process:
        """Wait until the process stands before its root is switched. Raises: EngineFailed."""
        message = self._wait(Kind.OK)
        found = identify(message.a)
        if found is None:
            raise EngineFailed("clone", 0, "the process was killed while it was set up")
        return found

    def go_on(self) -> None:
        """Let it switch its root."""
        self._sync.send(wire.encode(Message(Kind.RELEASE)))

    def wait_created(self) -> Process:
        """Wait until only `start` is missing. Raises: EngineFailed."""
        message = self._wait(Kind.CREATED)
        return Process(message.a, message.b)

    def wait_started(self) -> Process:
        """Wait until it has become its program. Raises: EngineFailed."""
        message = self._wait(Kind.STARTED)
        return Process(message.a, message.b)

    def take_master(self) -> int:
        """The terminal's master, which the caller closes; -1 when it has none."""
        master, self._master = self._master, -1
        return master

    def close(self) -> None:
        """Close what nobody took."""
        self._sync.close()
        if self._master >= 0:
            os.close(self.take_master())

    def _wait(self, kind: Kind) -> Message:
        while True:
            message = self._receive()
            if message.kind == kind:
                return message
            if message.kind == Kind.FAILED:
                raise failure(message)
            if message.kind != Kind.TERMINAL:
                raise InternalError(f"the launcher says {message.kind}, not {kind.name}")

    def _receive(self) -> Message:
        room = socket.CMSG_SPACE(_MASTER_BYTES)
        flags = socket.MSG_CMSG_CLOEXEC
        data, ancillary, _, _ = self._sync.recvmsg(wire.MAX_MESSAGE, room, flags)
        for level, what, passed in ancillary:
            if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
                self._master = array.array("i", passed[:_MASTER_BYTES])[0]
        if not data:
            raise EngineFailed("launch", 0, "the launcher was killed")
        return wire.decode(data)


def failure(message: Message) -> EngineFailed:
    """The error that a FAILED message is about."""
    return EngineFailed(
        stage_name(message.a), message.arg, message.body.decode("utf-8", "surrogateescape")
    )


def is_hook(error: EngineFailed) -> bool:
    """Whether it was a hook inside the container that failed."""
    return error.stage == stage_name(OpCode.HOOKS)


@contextmanager
def launched(
    plan: bytes, dirs: Sequence[str], *, folder: str = "", keep_fds: int = 0
) -> Iterator[Launch]:
    """Start the process of `plan` in the cgroup directories `dirs`.

    With `folder` it stops before exec and listens there for `release`; without, it goes on to
    the end. It inherits this process's standard streams, and `keep_fds` descriptors from 3 on.
    Raises: EngineFailed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    launch = Launch(ours)
    pid = 0
    try:
        with ExitStack() as stack:
            stack.enter_context(theirs)
            pid = _spawn(stack, plan, dirs, theirs.fileno(), (folder, 3 + keep_fds))
        yield launch
    finally:
        # The launcher ends after its last word, or because nobody listens any more.
        launch.close()
        if pid:
            os.waitpid(pid, 0)


def _spawn(
    stack: ExitStack, plan: bytes, dirs: Sequence[str], sync: int, how: tuple[str, int]
) -> int:
    folder, above = how

    def passed(fd: int) -> str:
        """A copy that the launcher inherits, out of the way of what the container keeps."""
        copy = fcntl.fcntl(fd, fcntl.F_DUPFD, above)
        stack.callback(os.close, copy)
        return str(copy)

    plan_fd = _sealed(plan)
    stack.callback(os.close, plan_fd)
    binary_fd = mounts.readonly_clone(launcher())
    stack.callback(os.close, binary_fd)
    argv = [PROGRAM, "launch", passed(plan_fd), passed(sync)]
    if folder:
        listener = stack.enter_context(_listen(folder))
        argv.append(passed(listener.fileno()))
    else:
        argv.append("-")
    return os.posix_spawn(
        f"/proc/self/fd/{binary_fd}",
        [*argv, *dirs],
        {},
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )


def _sealed(plan: bytes) -> int:
    fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(plan)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, _ADD_SEALS, _ALL_SEALS)
    return fd


@contextmanager
def _in_folder(folder: str) -> Iterator[str]:
    """The address of the start socket: through a descriptor, since it holds 107 bytes only."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{START}"
    finally:
        os.close(fd)


def _listen(folder: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        with _in_folder(folder) as address:
            listener.bind(address)
            os.chmod(f"{folder}/{START}", 0o600)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def release(folder: str, container_id: str) -> None:
    """Let the process that waits in `folder` become its program; returns when it has.

    Raises: InvalidState when nobody waits; EngineFailed from a startContainer hook or exec.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        try:
            with _in_folder(folder) as address:
                sock.connect(address)
            sock.send(wire.encode(Message(Kind.RELEASE)))
            data = sock.recv(wire.MAX_MESSAGE)
        except (ConnectionError, FileNotFoundError) as exc:
            reason = "its process does not wait for that"
            raise InvalidState("start", f"container {container_id}", reason) from exc
    if data:
        raise failure(wire.decode(data))
