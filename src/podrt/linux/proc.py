"""What /proc tells of a process.

Source: proc_pid_stat(5), proc_pid_status(5), proc_pid_net(5).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import msgspec

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""Clock ticks in a second: the unit of a process's times."""

# What may stand between a name's parentheses hides no more than that in the file.
_MAX_BYTES = 1 << 16


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A process as the kernel shows it.

    Units: `_ticks` clock ticks (starts count from boot), `_bytes`, IDs as the host counts them;
    `ns_pids` are its numbers from this PID namespace down to its own. `uids` and `gids` are real,
    effective, saved, file system; capability sets are masks; `tty` is the device number, 0: none.
    """

    pid: int
    ppid: int
    pgid: int
    command: str
    arguments: tuple[str, ...]
    state: str
    tty: int
    user_ticks: int
    system_ticks: int
    start_ticks: int
    nice: int
    virtual_bytes: int
    resident_bytes: int
    ns_pids: tuple[int, ...]
    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    cap_inheritable: int
    cap_permitted: int
    cap_effective: int
    cap_bounding: int
    cap_ambient: int
    seccomp: int


def read_process(pid: int) -> ProcessInfo | None:
    """The process `pid`; None when there is none (any more)."""
    stat = _read(pid, "stat")
    status = _fields(_read(pid, "status"))
    cmdline = _read(pid, "cmdline")
    if not stat or not status:
        return None
    return parse_process(pid, stat, status, cmdline)


def parse_process(pid: int, stat: str, status: Mapping[str, str], cmdline: str) -> ProcessInfo:
    """A process from the text of its stat and cmdline and the fields of its status."""
    # The name may hold blanks and parentheses; what follows its last one holds none.
    fields = stat[stat.rindex(")") + 2 :].split()
    return ProcessInfo(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        command=stat[stat.index("(") + 1 : stat.rindex(")")],
        arguments=tuple(cmdline.rstrip("\0").split("\0")) if cmdline.rstrip("\0") else (),
        state=fields[0],
        tty=int(fields[4]),
        user_ticks=int(fields[11]),
        system_ticks=int(fields[12]),
        start_ticks=int(fields[19]),
        nice=int(fields[16]),
        virtual_bytes=int(fields[20]),
        # The number in stat is rounded by what each CPU has not told yet.
        resident_bytes=int(status.get("VmRSS", "0").removesuffix("kB")) << 10,
        ns_pids=_numbers(status.get("NSpid", str(pid))),
        uids=_four(status.get("Uid", "")),
        gids=_four(status.get("Gid", "")),
        groups=_numbers(status.get("Groups", "")),
        cap_inheritable=int(status.get("CapInh", "0"), 16),
        cap_permitted=int(status.get("CapPrm", "0"), 16),
        cap_effective=int(status.get("CapEff", "0"), 16),
        cap_bounding=int(status.get("CapBnd", "0"), 16),
        cap_ambient=int(status.get("CapAmb", "0"), 16),
        seccomp=int(status.get("Seccomp", "0")),
    )


def is_killed(pid: int) -> bool:
    """Whether a SIGKILL is pending for a process."""
    status = _fields(_read(pid, "status"))
    pending = int(status.get("ShdPnd", "0"), 16) | int(status.get("SigPnd", "0"), 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1)


def descendants(pid: int) -> tuple[int, ...]:
    """A process and its living children's children."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop(0)
        found.append(one)
        try:
            tasks = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        for task in tasks:
            waiting += _numbers(_read(one, f"task/{task}/children"))
    return tuple(found)


def network_bytes(pid: int) -> tuple[int, int] | None:
    """(received, sent) by the interfaces of a process's network namespace, loopback left out.

    None when there is none but loopback, or no such process.
    """
    found = None
    for line in _read(pid, "net/dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            continue
        numbers = rest.split()
        received, sent = found or (0, 0)
        found = received + int(numbers[0]), sent + int(numbers[8])
    return found


def memory_bytes() -> int:
    """The memory of this host."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def uptime_s() -> float:
    """Seconds since boot, as processes' start times count them."""
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def _read(pid: int, name: str) -> str:
    """A file of a process; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found[name] = value.strip()
    return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split() if word.isdecimal())


def _four(text: str) -> tuple[int, int, int, int]:
    numbers = _numbers(text)
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else (0, 0, 0, 0)
