"""Operation claims on pods, and on containers outside of pods.

A verb that changes one holds its claim while it works, not its lock: readers ignore claims, a
second verb waits, and some verbs end others early (`podrt.model.verbs`). A dead owner's claim is
void. Source: architecture.md decision 13.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio

from podrt._fast.locktable import ClaimInfo
from podrt.errors import Busy, Removed
from podrt.locks.claim import Claim, Reaction
from podrt.locks.order import Level, Lock
from podrt.model.verbs import PREEMPTS, Verb
from podrt.store.records import ContainerRecord, PodRecord

from .context import Context


def lock_of(record: PodRecord | ContainerRecord) -> Lock:
    """A record's lock, with the place it has in the order of locking."""
    level = Level.POD if isinstance(record, PodRecord) else Level.CONTAINER
    return Lock(level, record.id, record.lock)


def group_lock(ctx: Context, group_id: str) -> Lock:
    """The lock of a group: its pod's, or that of the container that is its own group.

    Raises: Removed.
    """
    tables = ctx.store.tables
    record = tables.get(PodRecord, group_id) or tables.get(ContainerRecord, group_id)
    if record is None:
        raise Removed("container", group_id[:12])
    return lock_of(record)


@contextlib.asynccontextmanager
async def claim(ctx: Context, group_id: str, verb: Verb) -> AsyncIterator[None]:
    """Work as `verb` on a group: wait for (or end) whoever works on it, keep others waiting.

    Raises: Removed; Busy in the body's stead when a stronger verb ended this one.
    """
    lock = group_lock(ctx, group_id)

    def react(standing: ClaimInfo) -> Reaction:
        # While we waited the group may have been removed and its lock been given to another.
        ctx.view.refresh()
        if group_lock(ctx, group_id) != lock:
            raise Busy(_describe(ctx, group_id), "its lock was renewed")
        is_weaker = standing.verb in PREEMPTS[verb]
        return Reaction.PREEMPT if is_weaker else Reaction.WAIT

    async with Claim(ctx.locks, lock, verb, react=react) as held:
        with trio.CancelScope() as scope:
            held.cancel_when_preempted(scope)
            yield
        if scope.cancelled_caught:
            raise Busy(_describe(ctx, group_id), f"ended by {Verb(held.preempted_by).words}")


def _describe(ctx: Context, group_id: str) -> str:
    pod = ctx.store.tables.get(PodRecord, group_id)
    if pod is not None:
        return f"pod {pod.config.name}"
    container = ctx.store.tables.get(ContainerRecord, group_id)
    return f"container {container.config.name}" if container is not None else group_id[:12]
