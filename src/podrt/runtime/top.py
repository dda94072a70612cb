"""The processes of running containers, as they look from inside.

Synchronous and free of Trio; it takes no lock. Numbers come from /proc and the container's
cgroup, names of users from the container's own passwd.
"""

from __future__ import annotations

import os
import stat

import msgspec

from podrt.cgroups.base import CgroupManager
from podrt.errors import InvalidState
from podrt.linux import files, proc
from podrt.linux.proc import ProcessInfo
from podrt.model.states import ContainerState
from podrt.spec.accounts import Accounts, parse_accounts
from podrt.store.records import ContainerRecord

from .view import View

# A container must not make its host read without end.
_MAX_ACCOUNTS_BYTES = 1 << 20


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One process: what /proc tells, its numbers and its users' names inside the container."""

    info: ProcessInfo
    pid: int
    ppid: int
    pgid: int
    accounts: Accounts
    host_accounts: Accounts


def processes_of(view: View, cgroups: CgroupManager, record: ContainerRecord) -> list[Task]:
    """The processes of a running container, its first one first.

    Raises: InvalidState when it does not run.
    """
    if view.state(record) is not ContainerState.RUNNING or not record.config.has_program:
        raise InvalidState(
            "top",
            f"container {record.config.name}",
            "top can only be used on running containers",
        )
    main = view.facts(record).pid
    first = proc.read_process(main)
    if first is None:
        return []
    pids = cgroups.procs(record.cgroup_path) if record.cgroup_path else proc.descendants(main)
    found = {main: first}
    for pid in sorted(pids):
        info = proc.read_process(pid) if pid != main else None
        if info is not None:
            found[pid] = info
    return _tasks(found, level=len(first.ns_pids) - 1, accounts=_accounts_of(main))


def _tasks(found: dict[int, ProcessInfo], *, level: int, accounts: Accounts) -> list[Task]:
    """`level` is how many PID namespaces deep the container is; some may be deeper still."""
    host = _host_accounts()

    def inside(pid: int) -> int:
        """A number as the container has it, 0 for who is outside."""
        info = found.get(pid)
        numbers = info.ns_pids if info is not None else ()
        return numbers[level] if len(numbers) > level else 0

    return [
        Task(
            info=info,
            pid=inside(info.pid),
            ppid=inside(info.ppid),
            pgid=inside(info.pgid),
            accounts=accounts,
            host_accounts=host,
        )
        for info in found.values()
    ]


def _accounts_of(pid: int) -> Accounts:
    """The users and groups that a process's root has; none if they cannot be read."""
    try:
        root_fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Accounts()
    try:
        return parse_accounts(_text(root_fd, "etc/passwd"), _text(root_fd, "etc/group"))
    finally:
        os.close(root_fd)


def _text(root_fd: int, path: str) -> str:
    """A regular file below a root that somebody else may change while we look; "" for others.

    It is looked at before it is opened: opening a pipe or a device could wait, or do something.
    """
    try:
        fd = files.open_inside(root_fd, path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            return file.read(_MAX_ACCOUNTS_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _host_accounts() -> Accounts:
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return parse_accounts(_text(root_fd, "etc/passwd"), _text(root_fd, "etc/group"))
    finally:
        os.close(root_fd)
