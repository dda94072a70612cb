"""One executor for every verb that walks a pod's graph: start, stop, restart, remove.

One task per node in one nursery; each acts the moment its own last need is met, never level by
level. Stopping walks the same graph reversed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from podrt.errors import PodrtError

from .graph import Graph

Outcomes = dict[str, PodrtError | None]
"""Shape: every node's ID mapped to None (well) or its error."""

Action = Callable[[str], Awaitable[None]]

DEFAULT_LIMIT = 64
"""Actions in flight at once over all pods of a call: enough to keep a monitor's queue full."""


async def walk(
    graph: Graph,
    action: Action,
    *,
    limiter: trio.CapacityLimiter,
    on_failed_need: Callable[[str, Sequence[str]], PodrtError] | None,
) -> Outcomes:
    """Run `action` for every node, each after all its needs; PodrtErrors become outcomes.

    When a need failed, `on_failed_need(node, failed needs)` words the node's error and its
    action is not run; None runs it all the same (stopping goes on past a failure).
    """
    outcomes: Outcomes = {}
    done = {node: trio.Event() for node in graph.needs}

    async def visit(node: str) -> None:
        needs = graph.needs[node]
        for need in needs:
            await done[need].wait()
        failed = [need for need in needs if outcomes[need] is not None]
        if failed and on_failed_need is not None:
            outcomes[node] = on_failed_need(node, failed)
        else:
            outcomes[node] = await _outcome(node, action, limiter)
        done[node].set()

    async with trio.open_nursery() as nursery:
        for node in graph.needs:
            nursery.start_soon(visit, node)
    return outcomes


async def _outcome(node: str, action: Action, limiter: trio.CapacityLimiter) -> PodrtError | None:
    async with limiter:
        try:
            await action(node)
        except PodrtError as exc:
            return exc
    return None
