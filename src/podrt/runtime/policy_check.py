"""Policies that nobody keeps because a monitor was killed: a part of `system check`."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from podrt.engines.liveness import has_monitor
from podrt.model.states import Phase
from podrt.store.records import ContainerRecord

from .context import Context
from .finding import Problem, found
from .group import open_group
from .policies import is_kept, is_left_undone
from .settle import is_removal_due, settle
from .teardown import parent_of


def policy_problems(ctx: Context) -> Iterator[Problem]:
    """Containers that would be started again, or removed, if a monitor knew of them."""
    for record in list(ctx.store.tables.all(ContainerRecord)):
        ctx.view.refresh()
        current = ctx.store.tables.get(ContainerRecord, record.id)
        if current is None or current.removing or has_monitor(ctx.layout, record.group_id):
            continue
        name = record.config.name
        is_waiting = is_kept(ctx, current) and ctx.view.facts(current).phase is Phase.BACK_OFF
        if is_waiting or is_left_undone(ctx, current):
            finding = found("container", name, "no monitor keeps its policies")
            yield finding, functools.partial(_give_monitor, ctx, current)
        elif is_removal_due(ctx, current):
            finding = found("container", name, "it was to be removed at its end")
            yield finding, functools.partial(settle, ctx, record.group_id)


async def _give_monitor(ctx: Context, record: ContainerRecord) -> None:
    async with open_group(ctx, record.group_id, parent_of(ctx, record)):
        """Whoever opens a group hands it what a dead monitor left."""
