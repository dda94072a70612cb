"""A child that is stepped from system call to system call, and killed at one of them.

Every entry and every exit of a call that reaches files is a point; calls that only move memory
about are none, because nobody else can tell whether they happened. Source: ptrace(2).
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

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_SYSGOOD, _TRACECLONE, _EXITKILL = 1, 8, 0x100000
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
    _ptrace(_SETOPTIONS, child, 0, _SYSGOOD | _TRACECLONE | _EXITKILL)
    return _Steps(child, at).run()


class _Steps:
    def __init__(self, child: int, at: int) -> None:
        self.child = child
        self.at = at
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
            number = self._take(thread, status >> 8)
            if self.points == self.at and self.at:
                return self._kill()
            self._go_on(thread, number)

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
