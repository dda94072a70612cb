"""The columns of `podrt top`: podman's descriptors, and the AIX ones that ps(1) knows."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from podrt.errors import InvalidConfig
from podrt.linux import caps, proc
from podrt.runtime.top import Task
from podrt.spec.accounts import Accounts

from .output import duration

DEFAULT = ("user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args")

_SECCOMP = ("disabled", "strict", "filter")
# Linux: major numbers of the terminals, Documentation/admin-guide/devices.txt.
_TTY, _CONSOLE, _PTS_FIRST, _PTS_LAST = 4, 5, 136, 143
_KIB = 1 << 10


class Column(NamedTuple):
    """A column's heading and what stands in it for a process."""

    head: str
    cell: Callable[[Task], str]


def _elapsed_s(task: Task) -> float:
    return max(0.0, proc.uptime_s() - task.info.start_ticks / proc.TICKS_PER_S)


def _cpu_s(task: Task) -> float:
    return (task.info.user_ticks + task.info.system_ticks) / proc.TICKS_PER_S


def _cpu_percent(task: Task) -> str:
    elapsed_s = _elapsed_s(task)
    return f"{100 * _cpu_s(task) / elapsed_s if elapsed_s else 0:.3f}"


def _start(task: Task) -> str:
    at_s = time.time() - _elapsed_s(task)
    moment = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


def _terminal(task: Task) -> str:
    device = task.info.tty
    major, minor = device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00
    if not device:
        return "?"
    if _PTS_FIRST <= major <= _PTS_LAST:
        return f"pts/{(major - _PTS_FIRST) * 256 + minor}"
    if major == _TTY:
        return f"tty{minor}"
    return "console" if major == _CONSOLE and minor == 1 else f"{major}:{minor}"


def _user(accounts: Accounts, uid: int) -> str:
    return next((one.name for one in accounts.users if one.uid == uid), str(uid))


def _group(accounts: Accounts, gid: int) -> str:
    return next((one.name for one in accounts.groups if one.gid == gid), str(gid))


def _groups(accounts: Accounts, gids: Sequence[int]) -> str:
    return ",".join(_group(accounts, gid) for gid in gids)


def _caps(mask: int) -> str:
    every = (1 << caps.last_cap() + 1) - 1
    if mask & every == every:
        return "full"
    names = sorted(name.removeprefix("CAP_") for name in caps.names_of(mask))
    return ",".join(names) or "none"


def _label(task: Task) -> str:
    try:
        with open(f"/proc/{task.info.pid}/attr/current", "rb") as file:
            return file.read().rstrip(b"\0\n").decode("utf-8", "replace") or "?"
    except OSError:
        return "?"


def _args(task: Task) -> str:
    words = task.info.arguments or (f"[{task.info.command}]",)
    return " ".join(words).replace("\n", " ")


COLUMNS: dict[str, Column] = {
    "args": Column("COMMAND", _args),
    "capamb": Column("AMBIENT CAPS", lambda task: _caps(task.info.cap_ambient)),
    "capbnd": Column("BOUNDING CAPS", lambda task: _caps(task.info.cap_bounding)),
    "capeff": Column("EFFECTIVE CAPS", lambda task: _caps(task.info.cap_effective)),
    "capinh": Column("INHERITED CAPS", lambda task: _caps(task.info.cap_inheritable)),
    "capprm": Column("PERMITTED CAPS", lambda task: _caps(task.info.cap_permitted)),
    "comm": Column("COMMAND", lambda task: task.info.command),
    "etime": Column("ELAPSED", lambda task: duration(round(_elapsed_s(task) * 1e9))),
    "group": Column("GROUP", lambda task: _group(task.accounts, task.info.gids[1])),
    "groups": Column("GROUPS", lambda task: _groups(task.accounts, task.info.groups)),
    "hgroup": Column("HGROUP", lambda task: _group(task.host_accounts, task.info.gids[1])),
    "hgroups": Column("HGROUPS", lambda task: _groups(task.host_accounts, task.info.groups)),
    "hpid": Column("HPID", lambda task: str(task.info.pid)),
    "huser": Column("HUSER", lambda task: _user(task.host_accounts, task.info.uids[1])),
    "label": Column("LABEL", _label),
    "nice": Column("NI", lambda task: str(task.info.nice)),
    "pcpu": Column("%CPU", _cpu_percent),
    "pgid": Column("PGID", lambda task: str(task.pgid)),
    "pid": Column("PID", lambda task: str(task.pid)),
    "ppid": Column("PPID", lambda task: str(task.ppid)),
    "rgroup": Column("RGROUP", lambda task: _group(task.accounts, task.info.gids[0])),
    "rss": Column("RSS", lambda task: str(task.info.resident_bytes // _KIB)),
    "ruser": Column("RUSER", lambda task: _user(task.accounts, task.info.uids[0])),
    "seccomp": Column("SECCOMP", lambda task: _SECCOMP[task.info.seccomp]),
    "state": Column("STATE", lambda task: task.info.state),
    "stime": Column("STIME", _start),
    "time": Column("TIME", lambda task: duration(round(_cpu_s(task) * 1e9))),
    "tty": Column("TTY", _terminal),
    "user": Column("USER", lambda task: _user(task.accounts, task.info.uids[1])),
    "vsz": Column("VSZ", lambda task: str(task.info.virtual_bytes // _KIB)),
}

AIX = {
    "%C": "pcpu", "%G": "group", "%P": "ppid", "%U": "user", "%a": "args", "%c": "comm",
    "%g": "rgroup", "%n": "nice", "%p": "pid", "%r": "pgid", "%t": "etime", "%u": "ruser",
    "%x": "time", "%y": "tty", "%z": "vsz",
}  # fmt: skip


def find_columns(words: Sequence[str]) -> list[Column]:
    """The columns that `words`, which may hold several separated by commas, ask for.

    Raises: InvalidConfig.
    """
    names = [name for word in words for name in word.split(",") if name] or list(DEFAULT)
    unknown = [name for name in names if AIX.get(name, name) not in COLUMNS]
    if unknown:
        raise InvalidConfig("", f"'{unknown[0]}': unknown descriptor")
    return [COLUMNS[AIX.get(name, name)] for name in names]
