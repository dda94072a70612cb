"""Whether a group's monitor lives, without Trio: the reading path asks this."""

from __future__ import annotations

import errno
import fcntl
import os

from podrt.layout import Layout


def has_monitor(layout: Layout, group_id: str) -> bool:
    """Whether a monitor of the group lives: it holds its lock for life."""
    try:
        fd = os.open(f"{layout.group_run(group_id)}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two readers that probe at once must not take each other for a monitor.
        return not try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def try_lock(fd: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock behind `fd` if it is free."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise
    return True
