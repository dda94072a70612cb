"""Waiting for a process that belongs to the terminal of whoever called: signals, bytes, its end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Iterator

from podrt._fast import calls
from podrt.errors import PodrtError
from podrt.linux import files
from podrt.linux.process import Process

from . import bundle as bundles
from . import console, processes
from .creation import Making, create, create_from, start
from .lifecycle import Runtime

# Those that people and service managers send; the others are about this process alone.
_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGWINCH,
)
_CHUNK = 64 << 10
_LOST = 255


def run(runtime: Runtime, making: Making, *, detach: bool, keep: bool) -> int:
    """Create and start a container; unless `detach`, wait for its end and delete it.

    The result is the exit code: the program's own, or 128 and the number of a signal.
    Raises: PodrtError.
    """
    if detach:
        create(runtime, making)
        _start(runtime, making)
        return 0
    bundle = bundles.read(making.bundle, making.config)
    is_terminal = bool(bundle.spec.process and bundle.spec.process.terminal)
    with waiting(proxied=is_terminal and not making.console_socket) as wait:
        if making.console_socket:
            container = create(runtime, making)
        else:
            container = create_from(runtime, making, bundle, wait.take_master)
        try:
            _start(runtime, making)
            return wait.for_end(container.process)
        finally:
            if not keep:
                runtime.delete(making.id, force=True)


def _start(runtime: Runtime, making: Making) -> None:
    try:
        start(runtime, making.id)
    except PodrtError:
        runtime.delete(making.id, force=True)
        raise


@contextlib.contextmanager
def waiting(*, proxied: bool) -> Iterator[Wait]:
    """What waits for a process that is to become a child of this one.

    `proxied`: its terminal is shown on this process's standard input and output.
    """
    calls.set_child_subreaper(True)
    wait = Wait(proxied=proxied)
    try:
        yield wait
    finally:
        wait.close()


class Wait:
    """Signals are caught from its making on, so that none is lost while the process is made."""

    def __init__(self, *, proxied: bool) -> None:
        self._master = -1
        self._restore: list[int | list[bytes | int]] | None = None
        self._proxied = proxied
        self._woken, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakes = wakes
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in _FORWARDED:
            signal.signal(number, lambda *_: None)

    def close(self) -> None:
        """Give the terminal back as it was."""
        signal.set_wakeup_fd(-1)
        for number in _FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._wakes)
        os.close(self._woken)
        if self._master >= 0:
            os.close(self._master)
        self._make_cooked()

    def take_master(self, master: int) -> None:
        """The terminal of the process."""
        if not self._proxied:
            console.check(terminal=True, path="")
        self._master = master
        os.set_blocking(master, False)
        self._make_raw()
        self._copy_size()

    def for_end(self, process: Process) -> int:
        """Forward signals and bytes until the process has ended; its exit code."""
        pidfd = processes.open_process(process)
        try:
            if pidfd >= 0:
                self._forward(pidfd)
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        self._drain()
        try:
            _, status = os.waitpid(process.pid, 0)
        except ChildProcessError:
            return _LOST
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _forward(self, pidfd: int) -> None:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        if self._master >= 0:
            poll.register(self._master, select.POLLIN)
            poll.register(0, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == pidfd:
                    return
                if fd == self._woken:
                    self._pass_signals(pidfd)
                elif not self._pass_bytes(fd):
                    poll.unregister(fd)

    def _pass_signals(self, pidfd: int) -> None:
        for number in os.read(self._woken, _CHUNK):
            if number == signal.SIGWINCH and self._master >= 0:
                self._copy_size()
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)

    def _pass_bytes(self, fd: int) -> bool:
        """Copy what is there; False at the end."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # EIO: nobody has the terminal open
            return False
        if not data:
            return False
        with contextlib.suppress(OSError):
            if fd == self._master:
                files.write_all(1, data)
            else:
                _write_patiently(self._master, data)
        return True

    def _drain(self) -> None:
        """What was written right before the end is still in the terminal."""
        while self._master >= 0:
            poll = select.poll()
            poll.register(self._master, select.POLLIN)
            if not any(event & select.POLLIN for _, event in poll.poll(0)):
                return
            if not self._pass_bytes(self._master):
                return

    def _make_raw(self) -> None:
        import termios
        import tty

        if os.isatty(0):
            self._restore = termios.tcgetattr(0)
            tty.setraw(0)

    def _make_cooked(self) -> None:
        if self._restore is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._restore)

    def _copy_size(self) -> None:
        import termios

        if os.isatty(0):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)


def _write_patiently(fd: int, data: bytes) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll.poll()
