"""From what was journaled of a container to the events it stands for: pure functions.

An event is a step from one phase to another, so that a record which says again what is known
(a monitor that took over a process) is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from podrt.model.event import Action, Event, EventType
from podrt.model.states import LIVE_PHASES, Facts, Phase

from .journal import JournalRecord
from .records import ContainerRecord, EventRecord, PodRecord


def event_of(
    record: PodRecord | ContainerRecord, action: Action, at_ns: int, *, exit_code: int | None = None
) -> Event:
    """The event that `action` happened to a pod or container."""
    is_pod = isinstance(record, PodRecord)
    return Event(
        at_ns=at_ns,
        type=EventType.POD if is_pod else EventType.CONTAINER,
        action=action,
        id=record.id,
        name=record.config.name,
        pod_id="" if isinstance(record, PodRecord) else record.pod_id,
        image="" if isinstance(record, PodRecord) else record.config.image,
        labels=record.config.labels,
        exit_code=exit_code,
        namespace=record.namespace,
    )


def keyed(event: Event, source: str, number: int = 0) -> EventRecord:
    """The record of an event: its key sorts by time, then by `number` within its source."""
    return EventRecord(id=f"{event.at_ns:020d}.{number:010d}.{source}.{event.id[:12]}", event=event)


def journaled(
    container: ContainerRecord, steps: Iterable[tuple[JournalRecord, Facts]], epoch: int
) -> Iterator[EventRecord]:
    """The events of what is not folded yet of `container`, whose record is as the log has it."""
    before = container.facts
    for record, after in steps:
        for number, action in enumerate(_actions(before, after)):
            code = after.exit_code if action is Action.DIED else None
            event = event_of(container, action, record.at_ns, exit_code=code)
            yield keyed(event, str(epoch), record.seq * 8 + number)
        before = after


def unseen_end(container: ContainerRecord, after: Facts, at_ns: int) -> Event | None:
    """The event of an end that nobody journaled; `at_ns` is when it was found to have come."""
    before = container.facts
    if before.phase not in LIVE_PHASES or after.phase is not Phase.EXITED:
        return None
    if before.run != after.run or not after.code_unknown:
        return None
    return event_of(container, Action.DIED, at_ns, exit_code=after.exit_code)


_OVER = frozenset({Phase.EXITED, Phase.BACK_OFF})
"""A run that has ended has died, whether or not another follows it."""


def _actions(before: Facts, after: Facts) -> Iterator[Action]:
    """What a step from `before` to `after` is called; another run begins from nothing."""
    was = before.phase if before.run == after.run else Phase.NONE
    now = after.phase
    if now is was:
        return
    if now in (Phase.STARTING, Phase.HELD, Phase.RUNNING) and was not in LIVE_PHASES:
        yield Action.INIT
    if now is Phase.RUNNING:
        yield Action.UNPAUSE if was is Phase.PAUSED else Action.START
    if now is Phase.PAUSED:
        yield Action.PAUSE
    if now in _OVER and was not in _OVER:
        if after.oom_killed:
            yield Action.OOM
        if was is Phase.STOPPING:
            yield Action.STOP
        yield Action.DIED
