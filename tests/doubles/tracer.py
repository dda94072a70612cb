"""A child that is stepped from system call to system call, and killed at one of them.

`run` kills the child; `run_signalled` sends it any signal; `run_beside` steps and kills the
monitor that the child works with, or starts, in its stead. Every entry and every exit of a call
that reaches files is a point; calls that only move memory about are none, because nobody else
can tell whether they happened. Source: ptrace(2).
"""

from __future__ import annotations

import csv
import ctypes
import functools
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import podrt.spec

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_SYSGOOD, _TRACEFORK, _TRACEVFORK, _TRACECLONE, _EXITKILL = 1, 2, 4, 8, 0x100000
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000
_CLONE_EVENT = signal.SIGTRAP | 3 << 8
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_NUMBERS = Path(podrt.spec.__file__).parent / "data/syscalls.csv"
_OF_MEMORY = frozenset(
    "brk munmap madvise mprotect mremap futex rt_sigaction rt_sigprocmask sched_yield clone clone3"
    " set_robust_list rseq exit clock_gettime gettid getpid".split()
)


class _Info(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("nr", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    )


class Outcome(NamedTuple):
    """How the child ended, after how many points, and at which call ("pwrite64 entry")."""

    code: int
    points: int
    last: str


@functools.cache
def _names() -> dict[int, str]:
    with open(_NUMBERS, encoding="ascii") as file:
        rows = csv.DictReader(file)
        return {int(row[machine]): row["name"] for row in rows if row[machine]}


machine = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run(work: Callable[[], None], at: int) -> Outcome:
    """Run `work` in a child and kill it with SIGKILL at its `at`th point; 0: let it run.

    The caller has no other children.
    """
    child = _stopped(work)
    _ptrace(_SETOPTIONS, child, 0, _SYSGOOD | _TRACECLONE | _EXITKILL)
    return _Steps(child, at).run()


def run_signalled(work: Callable[[], None], at: int, number: int) -> Outcome:
    """As `run`, with signal `number`, after which the child may go on."""
    child = _stopped(work)
    _ptrace(_SETOPTIONS, child, 0, _SYSGOOD | _TRACECLONE | _EXITKILL)
    return _Steps(child, at, number).run()


def run_beside(work: Callable[[], None], at: int, monitor: int) -> Outcome:
    """Run `work` in a child and kill process `monitor` at its own `at`th point.

    With 0 for `monitor` it is the one that the child starts (a child of its child). To be called
    in a process that ends afterwards: nothing else lets go of a monitor that goes on.
    """
    child = _stopped(work)
    options = _SYSGOOD | _TRACECLONE | (0 if monitor else _TRACEVFORK)
    _ptrace(_SETOPTIONS, child, 0, options)
    steps = _MonitorSteps(child, at)
    if monitor:
        _ptrace(_SEIZE, monitor, 0, _SYSGOOD)
        _ptrace(_INTERRUPT, monitor)
        steps.monitor = monitor
    return steps.run()


def _stopped(work: Callable[[], None]) -> int:
    """A traced child that is about to run `work`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            code = 0
        finally:
            os._exit(code)
    os.waitpid(child, 0)
    return child


class _Steps:
    def __init__(self, child: int, at: int, number: int = signal.SIGKILL) -> None:
        self.child = child
        self.at = at
        self.number = number
        self.points = 0
        self.last = ""
        self._calls: dict[int, str] = {}
        self._seen = {child}
        self._info = _Info()

    def run(self) -> Outcome:
        self._go_on(self.child, 0)
        while True:
            thread, status = os.waitpid(-1, _WALL)
            if not os.WIFSTOPPED(status):
                if thread == self.child:
                    return Outcome(os.waitstatus_to_exitcode(status), self.points, self.last)
                continue
            before = self.points
            number = self._take(thread, status >> 8)
            if before < self.points == self.at and not self._strike():
                return self._kill()
            self._go_on(thread, number)

    def _strike(self) -> bool:
        """Send the signal; whether the child is still to be followed."""
        if self.number == signal.SIGKILL:
            return False
        os.kill(self.child, self.number)
        return True

    def _kill(self) -> Outcome:
        os.kill(self.child, signal.SIGKILL)
        while True:
            # The process ends when its last thread has been waited for.
            thread, status = os.waitpid(-1, _WALL)
            if thread == self.child and not os.WIFSTOPPED(status):
                return Outcome(os.waitstatus_to_exitcode(status), self.points, self.last)

    def _go_on(self, thread: int, number: int) -> None:
        try:
            _ptrace(_SYSCALL, thread, 0, number)
        except ProcessLookupError:
            pass  # it ended with its process

    def _take(self, thread: int, stop: int) -> int:
        """Count a stop; gives the signal that the thread is to get."""
        if stop == _SYSCALL_STOP:
            self._count(thread)
            return 0
        if stop == _CLONE_EVENT:
            return 0
        if thread not in self._seen:
            self._seen.add(thread)
            return 0
        return stop

    def _count(self, thread: int) -> None:
        info = self._info
        size = ctypes.sizeof(info)
        try:
            _ptrace(_GET_SYSCALL_INFO, thread, size, ctypes.byref(info))
        except ProcessLookupError:
            return
        if info.op == _ENTRY:
            name = _names().get(info.nr, str(info.nr))
            is_anonymous = name == "mmap" and ctypes.c_int32(info.args[4] & 0xFFFFFFFF).value < 0
            self._calls[thread] = "" if name in _OF_MEMORY or is_anonymous else name
        name = self._calls.get(thread, "")
        if name:
            self.points += 1
            self.last = f"{name} {'entry' if info.op == _ENTRY else 'exit'}"


class _MonitorSteps(_Steps):
    """Steps of a monitor, while the command that uses it goes on."""

    monitor = 0

    def _strike(self) -> bool:
        os.kill(self.monitor, signal.SIGKILL)
        return True

    def _go_on(self, thread: int, number: int) -> None:
        # Only the monitor is stepped; without it the command runs until the one it starts is met.
        request = _SYSCALL if thread == self.monitor else _CONT
        try:
            _ptrace(request, thread, 0, number)
        except ProcessLookupError:
            pass

    def _take(self, thread: int, stop: int) -> int:
        if thread == self.monitor:
            if stop == _SYSCALL_STOP:
                self._count(thread)
                return 0
            # What stops it to be traced, and what it has stopped for, is none of its own.
            return 0 if stop & 0xFF in (signal.SIGTRAP, signal.SIGSTOP) else stop & 0xFF
        if stop >> 8:
            return 0
        if thread in self._seen:
            return 0 if stop == signal.SIGTRAP else stop
        self._seen.add(thread)
        self._meet(thread)
        return 0

    def _meet(self, thread: int) -> None:
        """A new process: threads of the command, the monitor's first process, the monitor."""
        group = int(_status_of(thread, "Tgid"))
        if self.monitor or group == self.child:
            return
        if int(_status_of(thread, "PPid")) == self.child:
            # It becomes podrt-monitor and forks the one that stays.
            _ptrace(_SETOPTIONS, thread, 0, _SYSGOOD | _TRACEFORK)
            return
        self.monitor = thread
        _ptrace(_SETOPTIONS, thread, 0, _SYSGOOD)


def _status_of(thread: int, field: str) -> str:
    for line in Path(f"/proc/{thread}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise AssertionError(field)
