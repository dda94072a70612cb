"""What a runtime does when it opens: finish what died half made, renew locks after a boot.

An intent is undone only when its writer is dead, so that commands at work are left alone.
"""

from __future__ import annotations

import os

import msgspec

from podrt.linux import process
from podrt.store.records import (
    ContainerRecord,
    IntentRecord,
    MetaRecord,
    Op,
    PodRecord,
    Put,
)
from podrt.store.tables import Tables

from .context import Context
from .create import undo_creation


def dead_intents(ctx: Context) -> list[IntentRecord]:
    """The intents whose writer is gone."""
    dead = [
        intent
        for intent in ctx.store.tables.all(IntentRecord)
        if intent.verb == "create"
        and (intent.boot_id != ctx.boot_id or not process.alive(intent.pid, intent.start_ticks))
    ]
    if dead:
        # It may have finished and ended since we last looked: only now its word is the last.
        ctx.view.refresh()
    tables = ctx.store.tables
    return [intent for intent in dead if tables.get(IntentRecord, intent.id) is not None]


async def undo_dead_intents(ctx: Context) -> int:
    """Undo what dead makers left half made; how many objects that were."""
    dead = {intent.id: 0 for intent in dead_intents(ctx)}
    if dead:
        # An intent does not say which lock came after it, if any did.
        dead |= {owner: lock for lock, owner in ctx.locks.owners() if owner in dead}
        undo_creation(ctx, dead)
    return len(dead)


def renew_locks(ctx: Context) -> None:
    """Give every object a lock of this lock table, once after each boot.

    The table lives under the run root and is empty after a reboot (or when that directory was
    lost), while the records still name the locks of the former one.
    """
    table_id = _table_id(ctx)
    known = ctx.store.tables.get(MetaRecord, _TABLE)
    if known is not None and known.value == table_id:
        return

    def build(tables: Tables) -> list[Op]:
        known = tables.get(MetaRecord, _TABLE)
        if known is not None and known.value == table_id:
            return []
        ops: list[Op] = [Put(MetaRecord(id=_TABLE, value=table_id))]
        for kind in (PodRecord, ContainerRecord):
            for record in list(tables.all(kind)):
                lock = ctx.locks.allocate(record.id)
                ops.append(Put(msgspec.structs.replace(record, lock=lock)))
        return ops

    ctx.record(build)


_TABLE = "lock table"


def _table_id(ctx: Context) -> str:
    """What tells one lock table from the next: the boot and the file."""
    return f"{ctx.boot_id}:{os.stat(ctx.layout.locks).st_ino}:{ctx.layout.locks}"
