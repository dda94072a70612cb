"""What a reboot leaves to do: once per boot, by the first command that opens the state for writing.

A new boot ID makes a refresh; a run directory that was lost in the same boot is recovered from
instead. Every step may be repeated: what a command that is killed leaves, the next one finishes.
Cgroup paths follow from the IDs and are made, with their limits, by the next start.
Source: semantics.md section 9.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import msgspec

from podrt.errors import PodrtError, Removed
from podrt.model.states import ContainerState
from podrt.store.records import (
    ContainerRecord,
    Delete,
    IntentRecord,
    MetaRecord,
    Op,
    PodRecord,
    Put,
)
from podrt.store.tables import Tables

from .context import Context
from .group import fold
from .teardown import remove_container_verb, remove_pod
from .userns import give_back

_BOOT = "boot"
_logger = logging.getLogger("podrt")


async def refresh(ctx: Context) -> None:
    """Bring the state into this boot if it was last used in another one. Raises: StoreFailed.

    What ran has exited, what was only created is configured again; what was being removed, and
    what was to go with its end, is removed. Locks are not looked at here (`renew_locks`).
    """
    known = ctx.store.tables.get(MetaRecord, _BOOT)
    if known is not None and known.value == ctx.boot_id:
        return
    ctx.record(lambda tables: _refreshed(ctx, tables))
    await _finish_removals(ctx)
    ctx.record(lambda _: [Put(MetaRecord(id=_BOOT, value=ctx.boot_id))])


def _refreshed(ctx: Context, tables: Tables) -> list[Op]:
    """Facts as they are when no process is left, and nothing to clean up behind them."""
    groups: dict[str, list[str]] = {}
    for record in tables.all(ContainerRecord):
        groups.setdefault(record.group_id, []).append(record.id)
    ops: list[Op] = []
    for group_id, ids in groups.items():
        ops += fold(ctx, tables, group_id, dict.fromkeys(ids, lambda one: _ended(ctx, one)))
    for intent in list(tables.all(IntentRecord)):
        if intent.verb == "remove":
            # The cgroups it remembers ended with the boot.
            ops += [Delete(IntentRecord, intent.id), *give_back(tables, [intent.id])]
    return ops


def _ended(ctx: Context, record: ContainerRecord) -> ContainerRecord:
    if record.facts.boot_id in ("", ctx.boot_id):
        return record
    return msgspec.structs.replace(record, cleaned_run=max(record.run, record.facts.run))


async def _finish_removals(ctx: Context) -> None:
    """What cannot be removed is named, and left to `rm` and to `system check`."""
    for pod in [pod for pod in ctx.store.tables.all(PodRecord) if pod.removing]:
        with _said(f"pod {pod.config.name}"):
            await remove_pod(ctx, pod.id, force=True)
    for record in [one for one in ctx.store.tables.all(ContainerRecord) if _goes(ctx, one)]:
        with _said(f"container {record.config.name}"):
            await remove_container_verb(ctx, record.id, force=True)


def _goes(ctx: Context, record: ContainerRecord) -> bool:
    if record.removing:
        return True
    return record.config.auto_remove and ctx.view.state(record) is ContainerState.EXITED


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except Removed:
        pass
    except (PodrtError, OSError) as exc:
        _logger.error("cannot remove %s after the reboot: %s", what, exc)
