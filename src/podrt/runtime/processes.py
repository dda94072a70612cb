"""One container's process: stopping and killing it through its monitor."""

from __future__ import annotations

import errno
import signal

from podrt.engines.monitor import Monitor
from podrt.errors import EngineFailed
from podrt.model.container import DEFAULT_STOP_SIGNAL
from podrt.store.records import ContainerRecord


async def stop_process(
    monitor: Monitor, record: ContainerRecord, run: int, timeout_s: int | None
) -> None:
    """Send the stop signal, wait the grace period, kill. A process already gone is no error.

    `run` is the one that lives, which the facts say: a wish for a later one may stand already.
    """
    grace_s = record.config.stop_timeout_s if timeout_s is None else timeout_s
    number = record.config.stop_signal or DEFAULT_STOP_SIGNAL
    try:
        await monitor.stop(record.id, run, number=number, grace_s=grace_s)
    except EngineFailed as exc:
        raise_unless_gone(exc)


async def kill_process(monitor: Monitor, record: ContainerRecord, run: int) -> None:
    """Kill at once and wait for the end. A process already gone is no error."""
    try:
        await monitor.stop(record.id, run, number=signal.SIGKILL, grace_s=0)
    except EngineFailed as exc:
        raise_unless_gone(exc)


def raise_unless_gone(error: EngineFailed) -> None:
    """Raise `error` again unless it only says that the process is gone already."""
    if error.errno != errno.ESRCH:
        raise error
