"""From journal records to what is known of a container: pure functions.

The rules: a record of an older run changes nothing; within a run nothing follows its end; reading
a record a second time changes nothing. So folding may be repeated, and a message that comes late
never brings a dead process back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from podrt.model.states import ALIVE, UNKNOWN_EXIT_CODE, Facts, Phase

from .journal import Flag, JournalReader, JournalRecord, Kind
from .records import ContainerRecord, GroupRecord

# `b` of a record about one run: how many restarts that is after a start by hand and, of an end,
# the stage at which the start failed.
_COUNT = 0xFFFFFFFF
_STAGE_SHIFT = 32
_COUNTING = frozenset({int(Kind.RECEIPT), int(Kind.CREATED), int(Kind.STARTED), int(Kind.EXITED)})

RECEIPT_OF_START = 3
"""The `code` of a RECEIPT that is for a START: the request's number on the wire."""

_OVER = frozenset({Phase.EXITED, Phase.FAILED, Phase.BACK_OFF})
_MOVING = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.STOPPING})

assert len(_MOVING) == len(ALIVE)


def apply(facts: Facts, record: JournalRecord) -> Facts:
    """What is known after `record`, which is about the container that `facts` is of."""
    change = _CHANGES.get(record.kind)
    if change is None or (record.run and record.run < facts.run):
        return facts
    if not record.run or record.run == facts.run:
        return change(facts, record)
    restarts = record.b & _COUNT if record.kind in _COUNTING else 0
    return change(Facts(run=record.run, restarts=restarts), record)


def fold(
    facts: Facts, records: Iterable[JournalRecord], key: str, group_id: str = "", *, epoch: int = 0
) -> Facts:
    """`facts` of the container `key` after all `records` of its group's journal `epoch`."""
    known = facts
    for _, known in steps(facts, records, key, group_id, epoch=epoch):  # noqa: B007
        pass
    return known


def steps(
    facts: Facts, records: Iterable[JournalRecord], key: str, group_id: str = "", *, epoch: int = 0
) -> Iterator[tuple[JournalRecord, Facts]]:
    """As `fold`: each record that is about the container, and what is known after it."""
    for record in records:
        if record.id == key:
            facts = apply(facts, record)
            is_watched = record.kind in _BY_ITS_MONITOR and record.pid == facts.pid
            if is_watched or (record.kind == Kind.EXITED and facts.phase is Phase.BACK_OFF):
                facts = msgspec.structs.replace(facts, epoch=epoch)
            yield record, facts
        elif record.id == group_id and record.kind in _OF_GROUP:
            facts = apply(facts, record)
            yield record, facts


class JournalTail:
    """A group's newest journal, followed from where the log has folded it.

    Every look costs one fstat and a read of what is new; what is folded meanwhile is let go.
    """

    def __init__(self, path: str, group: GroupRecord) -> None:
        self.epoch = group.epoch
        self._folded = group.folded_seq
        self._reader = JournalReader(path, seq=group.folded_seq, bytes_read=group.folded_bytes)
        self._records: dict[str, list[JournalRecord]] = {}

    def facts(self, container: ContainerRecord, group: GroupRecord) -> Facts:
        """What is known of `container` of `group` now. Raises: StoreFailed, StoreCorrupt."""
        own = self._own(container, group)
        return fold(container.facts, own, container.id, group.id, epoch=self.epoch)

    def steps(
        self, container: ContainerRecord, group: GroupRecord
    ) -> Iterator[tuple[JournalRecord, Facts]]:
        """What is not folded yet: each record about `container`, and its facts after it."""
        own = self._own(container, group)
        return steps(container.facts, own, container.id, group.id, epoch=self.epoch)

    def _own(self, container: ContainerRecord, group: GroupRecord) -> list[JournalRecord]:
        self._read(group)
        own = self._records.get(container.id, [])
        if group.id in self._records and group.id != container.id:
            own = sorted((*own, *self._records[group.id]), key=lambda record: record.seq)
        return own

    def unfolded(self, group: GroupRecord) -> set[str]:
        """Whom the records are about that the log has not folded yet."""
        self._read(group)
        return set(self._records)

    @property
    def position(self) -> tuple[int, int]:
        """(sequence, byte) up to which this tail has read."""
        return self._reader.seq, self._reader.bytes_read

    def _read(self, group: GroupRecord) -> None:
        for record in self._reader.read():
            if record.seq > group.folded_seq and _tells_something(record, group.id):
                self._records.setdefault(record.id, []).append(record)
        if group.folded_seq > self._folded:
            self._folded = group.folded_seq
            for key, records in list(self._records.items()):
                left = [record for record in records if record.seq > group.folded_seq]
                if left:
                    self._records[key] = left
                else:
                    del self._records[key]

    def close(self) -> None:
        """Let the journal go."""
        self._reader.close()


def _tells_something(record: JournalRecord, group_id: str) -> bool:
    """Whether it can change anybody's facts."""
    if record.id == group_id and record.kind in _OF_GROUP:
        return True
    return record.kind in _CHANGES


_BY_ITS_MONITOR = frozenset({int(Kind.RECEIPT), int(Kind.CREATED), int(Kind.STARTED)})
"""Only who watches a process writes these about it: it cloned it, or took it over."""


def _same_process(facts: Facts, record: JournalRecord) -> bool:
    return facts.pid == record.pid and facts.start_ticks == record.start_ticks


def _received(facts: Facts, record: JournalRecord) -> Facts:
    """A start that was taken on: from here on its process may be running, whoever dies."""
    if record.code != RECEIPT_OF_START or facts.phase is not Phase.NONE:
        return facts
    return msgspec.structs.replace(
        facts,
        phase=Phase.STARTING,
        pid=record.pid,
        start_ticks=record.start_ticks,
        started_at_ns=record.at_ns,
        boot_id=record.boot_id,
    )


def _created(facts: Facts, record: JournalRecord) -> Facts:
    if facts.phase not in (Phase.NONE, Phase.STARTING):
        return facts
    return msgspec.structs.replace(
        facts,
        phase=Phase.HELD,
        pid=record.pid,
        start_ticks=record.start_ticks,
        boot_id=record.boot_id,
    )


def _started(facts: Facts, record: JournalRecord) -> Facts:
    # A monitor that took over a process says "started" again: it is still paused or stopping,
    # and it did not start now.
    if facts.phase in _OVER or (facts.phase in _MOVING and _same_process(facts, record)):
        return facts
    return msgspec.structs.replace(
        facts,
        phase=Phase.RUNNING,
        pid=record.pid,
        start_ticks=record.start_ticks,
        started_at_ns=record.at_ns,
        boot_id=record.boot_id,
    )


def _exited(facts: Facts, record: JournalRecord) -> Facts:
    """The end of a run: the last one, or its successor is due at `a`.

    An automatic start that failed is such an end, too: then it names error and stage.
    """
    is_unknown = bool(record.flags & Flag.CODE_UNKNOWN)
    if facts.phase is Phase.FAILED:
        return facts
    # What is only believed to have ended takes whatever a monitor says of that.
    is_known = facts.phase is Phase.EXITED and facts.finished_at_ns != 0
    if is_known and (is_unknown or not facts.code_unknown):
        return facts
    return msgspec.structs.replace(
        facts,
        phase=Phase.BACK_OFF if record.a else Phase.EXITED,
        due_at_ns=record.a,
        error=record.error,
        error_stage=record.b >> _STAGE_SHIFT,
        pid=record.pid or facts.pid,
        start_ticks=record.start_ticks or facts.start_ticks,
        exit_code=UNKNOWN_EXIT_CODE if is_unknown else record.code,
        finished_at_ns=record.at_ns,
        by_user=bool(record.flags & Flag.BY_USER),
        oom_killed=bool(record.flags & Flag.OOM_KILLED),
        code_unknown=is_unknown,
        boot_id=record.boot_id,
    )


def _start_failed(facts: Facts, record: JournalRecord) -> Facts:
    if facts.phase not in (Phase.NONE, Phase.STARTING, Phase.HELD):
        return facts
    return msgspec.structs.replace(
        facts,
        phase=Phase.FAILED,
        error=record.error,
        error_stage=record.a,
        finished_at_ns=record.at_ns,
        boot_id=record.boot_id,
    )


def _namespaces_up(facts: Facts, record: JournalRecord) -> Facts:
    """An infra container without a process runs while its monitor holds the namespaces."""
    return Facts(
        run=facts.run,
        phase=Phase.RUNNING,
        started_at_ns=record.at_ns,
        boot_id=record.boot_id,
    )


def _namespaces_down(facts: Facts, record: JournalRecord) -> Facts:
    # Paused: with the whole pod, whose members were killed since.
    if facts.phase not in (Phase.RUNNING, Phase.PAUSED):
        return facts
    return msgspec.structs.replace(facts, phase=Phase.EXITED, finished_at_ns=record.at_ns)


def _move(*, to: Phase, out_of: frozenset[Phase]) -> Callable[[Facts, JournalRecord], Facts]:
    def change(facts: Facts, record: JournalRecord) -> Facts:
        if facts.phase not in out_of:
            return facts
        return msgspec.structs.replace(facts, phase=to)

    return change


_CHANGES: Mapping[int, Callable[[Facts, JournalRecord], Facts]] = {
    Kind.RECEIPT: _received,
    Kind.CREATED: _created,
    Kind.STARTED: _started,
    Kind.EXITED: _exited,
    Kind.START_FAILED: _start_failed,
    Kind.STOPPING: _move(
        to=Phase.STOPPING, out_of=frozenset({Phase.HELD, Phase.RUNNING, Phase.PAUSED})
    ),
    Kind.PAUSED: _move(to=Phase.PAUSED, out_of=frozenset({Phase.RUNNING})),
    Kind.NS_UP: _namespaces_up,
    Kind.NS_DOWN: _namespaces_down,
    Kind.UNPAUSED: _move(to=Phase.RUNNING, out_of=frozenset({Phase.PAUSED})),
}
_OF_GROUP = frozenset({int(Kind.PAUSED), int(Kind.UNPAUSED)})
"""A pod is frozen in one write, and journaled once under the group's ID."""


def refreshed(facts: Facts, boot_id: str) -> Facts:
    """`facts` seen from boot `boot_id`: what lived in another boot ended with it.

    Whose start was only held, or had failed, is as if it had never been started.
    """
    is_settled = facts.phase in (Phase.NONE, Phase.EXITED)
    if is_settled or facts.boot_id in ("", boot_id):
        return facts
    return lost(facts)


def lost(facts: Facts) -> Facts:
    """The facts of a run whose end, or whose successor, nobody saw."""
    if facts.phase is Phase.BACK_OFF:
        return msgspec.structs.replace(facts, phase=Phase.EXITED, due_at_ns=0)
    # One that was started again has run before, whatever became of this start.
    if facts.phase in _MOVING or facts.restarts:
        return msgspec.structs.replace(
            facts, phase=Phase.EXITED, exit_code=UNKNOWN_EXIT_CODE, code_unknown=True
        )
    return Facts(run=facts.run)
