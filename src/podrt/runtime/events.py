"""Events: which ones a transaction stands for, and all that there are so far.

They lie in the log, written by the transaction that they tell of, or by the one that folds the
journal they come from: no crash loses one or writes it twice. What is not folded yet, readers
take from the journals themselves. Source: semantics.md section 10, architecture.md decision 15.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from podrt.model.event import Action
from podrt.store.events import event_of, keyed, unseen_end
from podrt.store.records import (
    ContainerRecord,
    Delete,
    EventRecord,
    GroupRecord,
    Op,
    PodRecord,
    Put,
)
from podrt.store.tables import Tables

from .view import View

if TYPE_CHECKING:
    from .context import Context

P = ParamSpec("P")
R = TypeVar("R")


def of_changes(view: View, tables: Tables, ops: Sequence[Op]) -> list[Op]:
    """The events of a transaction on `tables`, which are still as they were before it."""
    now_ns = time.time_ns()
    found: list[EventRecord] = []
    for number, op in enumerate(ops):
        kind = op.kind if isinstance(op, Delete) else type(op.record)
        if kind is ContainerRecord or kind is PodRecord:
            found += _of_change(view, tables, op, kind, (now_ns, number))
    return [Put(event) for event in found]


def _of_change(
    view: View,
    tables: Tables,
    op: Op,
    kind: type[PodRecord | ContainerRecord],
    when: tuple[int, int],
) -> Iterator[EventRecord]:
    before = tables.get(kind, op.id if isinstance(op, Delete) else op.record.id)
    after = None if isinstance(op, Delete) else op.record
    now_ns, number = when
    if isinstance(before, ContainerRecord):
        yield from view.unfolded_events(before)
        if isinstance(after, ContainerRecord):
            unseen = unseen_end(before, after.facts, now_ns)
            if unseen is not None:
                yield keyed(unseen, "kernel", number)
            if after.cleaned_run > before.cleaned_run:
                yield keyed(event_of(before, Action.CLEANUP, now_ns), "log", number)
    if before is None and isinstance(after, (PodRecord, ContainerRecord)):
        yield keyed(event_of(after, Action.CREATE, now_ns), "log", number)
    elif before is not None and after is None:
        yield keyed(event_of(before, Action.REMOVE, now_ns), "log", number)


def note(
    ctx: Context, kind: type[PodRecord | ContainerRecord], keys: Iterable[str], action: Action
) -> None:
    """Write down that a verb did its work on pods or containers; on those still there."""

    def build(tables: Tables) -> list[Op]:
        now_ns = time.time_ns()
        records = (tables.get(kind, key) for key in keys)
        return [
            Put(keyed(event_of(record, action, now_ns), "verb", number))
            for number, record in enumerate(records)
            if record is not None
        ]

    ctx.record(build)


def tells(
    kind: type[PodRecord | ContainerRecord], action: Action
) -> Callable[
    [Callable[Concatenate[Context, str, P], Awaitable[R]]],
    Callable[Concatenate[Context, str, P], Awaitable[R]],
]:
    """A verb on one pod or container whose work is an event once it returned."""

    def decorate(
        verb: Callable[Concatenate[Context, str, P], Awaitable[R]],
    ) -> Callable[Concatenate[Context, str, P], Awaitable[R]]:
        async def told(ctx: Context, key: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
            result = await verb(ctx, key, *args, **kwargs)
            note(ctx, kind, (key,), action)
            return result

        functools.update_wrapper(told, verb)
        return told

    return decorate


def read_events(view: View, after: str = "") -> list[EventRecord]:
    """Every event whose key is greater than `after`, oldest first, as of the last refresh."""
    tables = view.store.tables
    found = {key: tables.get(EventRecord, key) for key in tables.ids(EventRecord) if key > after}
    found |= {record.id: record for record in _unfolded(view) if record.id > after}
    return [
        record
        for _, record in sorted(found.items())
        if record is not None and view.namespace in ("", record.event.namespace)
    ]


def _unfolded(view: View) -> Iterator[EventRecord]:
    tables = view.store.tables
    for group in tables.all(GroupRecord):
        for key in view.unfolded(group.id).ids:
            container = tables.get(ContainerRecord, key)
            if container is not None:
                yield from view.unfolded_events(container)
