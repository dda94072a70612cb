"""Who a process is: its number together with its start time, since numbers are used again."""

from __future__ import annotations

import os
import signal

import msgspec

from podrt._fast import calls

_ENDED = frozenset("ZXx")


class Process(msgspec.Struct, frozen=True):
    """A process by number and start time (in ticks since boot). Source: proc_pid_stat(5)."""

    pid: int
    start_ticks: int

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs; a zombie does not. Raises: OSError."""
        return alive(self.pid, self.start_ticks)


def identify(pid: int) -> Process | None:
    """The process that has the number `pid` now, None when there is none. Raises: OSError."""
    ticks = calls.start_ticks(pid)
    return Process(pid, ticks) if ticks else None


def myself() -> Process:
    """This process."""
    pid = os.getpid()
    return Process(pid, calls.start_ticks(pid))


def alive(pid: int, start_ticks: int) -> bool:
    """Whether `pid` still is the process that started at `start_ticks`. Raises: OSError."""
    if pid <= 0:
        return False
    state, ticks = calls.process_stat(pid)
    return ticks == start_ticks and ticks != 0 and state not in _ENDED


def kill(pid: int, start_ticks: int) -> bool:
    """Send SIGKILL to this very process; False when it is gone. Raises: OSError."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # Looked at while the descriptor holds the number.
        if not alive(pid, start_ticks):
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def command_name(pid: int) -> str:
    """What `ps` calls the process, "" when there is none. Source: proc_pid_comm(5)."""
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
