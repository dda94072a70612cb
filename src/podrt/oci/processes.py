"""Processes by descriptor: signals that cannot hit another one, and waiting for an end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator

from podrt.errors import InvalidState
from podrt.linux.process import Process

_KILL_S = 10.0


def open_process(process: Process) -> int:
    """A descriptor of this very process, -1 when it is gone. The caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except (ProcessLookupError, ValueError, OSError):
        return -1
    # Looked at again through its number, now that the descriptor holds it.
    if process.is_alive:
        return fd
    os.close(fd)
    return -1


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """A descriptor that is closed behind."""
    try:
        yield fd
    finally:
        os.close(fd)


def send(process: Process, number: int) -> bool:
    """Send a signal; whether the process was there."""
    fd = open_process(process)
    if fd < 0:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def kill(process: Process) -> None:
    """SIGKILL, and wait for the end. Raises: InvalidState when it does not come."""
    fd = open_process(process)
    if fd < 0:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        if not ended(fd, _KILL_S):
            reason = f"it is still there {_KILL_S:.0f} s after SIGKILL"
            raise InvalidState("kill", f"process {process.pid}", reason)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def ended(pidfd: int, seconds: float) -> bool:
    """Whether the process of `pidfd` has ended, within `seconds`."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
