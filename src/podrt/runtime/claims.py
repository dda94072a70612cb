"""What two verbs on one pod do to each other.

A verb that changes a pod (or a container outside one) holds its operation claim while it works,
not its lock: readers ignore claims, a second verb waits, and some verbs end others early. A dead
owner's claim is void. Source: architecture.md decision 13.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import AsyncIterator

import trio

from podrt._fast.locktable import ClaimInfo
from podrt.errors import Busy, Removed
from podrt.locks import Reaction
from podrt.store.records import ContainerRecord, PodRecord

from .context import Context


class Verb(enum.IntEnum):
    """The verbs that take a claim; the number stands in the lock table."""

    CREATE = 1
    START = 2
    STOP = 3
    RESTART = 4
    KILL = 5
    REMOVE = 6
    FORCE_REMOVE = 7
    PAUSE = 8
    SETTLE = 9


PREEMPTS: dict[Verb, frozenset[Verb]] = {
    Verb.CREATE: frozenset(),
    Verb.START: frozenset(),
    Verb.STOP: frozenset({Verb.START}),
    Verb.RESTART: frozenset(),
    Verb.KILL: frozenset({Verb.START, Verb.RESTART}),
    Verb.REMOVE: frozenset(),
    Verb.FORCE_REMOVE: frozenset(Verb) - {Verb.REMOVE, Verb.FORCE_REMOVE},
    Verb.PAUSE: frozenset(),
    Verb.SETTLE: frozenset(),
}
"""Which running verbs a new one ends early; it waits for all others."""


def group_lock(ctx: Context, group_id: str) -> int:
    """The lock of a group: its pod's, or that of the container that is its own group.

    Raises: Removed.
    """
    tables = ctx.store.tables
    pod = tables.get(PodRecord, group_id)
    if pod is not None:
        return pod.lock
    container = tables.get(ContainerRecord, group_id)
    if container is None:
        raise Removed("container", group_id[:12])
    return container.lock


@contextlib.asynccontextmanager
async def claim(ctx: Context, group_id: str, verb: Verb) -> AsyncIterator[None]:
    """Work as `verb` on a group: wait for (or end) whoever works on it, keep others waiting.

    Raises: Removed; Busy in the body's stead when a stronger verb ended this one.
    """
    index = group_lock(ctx, group_id)

    def react(standing: ClaimInfo) -> Reaction:
        # While we waited the group may have been removed and its lock been given to another.
        ctx.view.refresh()
        if group_lock(ctx, group_id) != index:
            raise Busy(_describe(ctx, group_id), "its lock was renewed")
        is_weaker = standing.verb in PREEMPTS[verb]
        return Reaction.PREEMPT if is_weaker else Reaction.WAIT

    async with ctx.locks.claim(index, verb, react=react) as held:
        with trio.CancelScope() as scope:
            held.cancel_when_preempted(scope)
            yield
        if scope.cancelled_caught:
            name = Verb(held.preempted_by).name.lower().replace("_", " ")
            raise Busy(_describe(ctx, group_id), f"ended by a {name} of it")


def preempt_starts(ctx: Context, group_id: str) -> None:
    """End a start of the group that is under way: `kill` waits for nobody."""
    index = group_lock(ctx, group_id)
    standing = ctx.locks.table.read_claim(index)
    if standing is not None and standing.verb in PREEMPTS[Verb.KILL]:
        ctx.locks.table.preempt(index, standing.token, Verb.KILL)


def _describe(ctx: Context, group_id: str) -> str:
    pod = ctx.store.tables.get(PodRecord, group_id)
    if pod is not None:
        return f"pod {pod.config.name}"
    container = ctx.store.tables.get(ContainerRecord, group_id)
    return f"container {container.config.name}" if container is not None else group_id[:12]
