from __future__ import annotations

from pathlib import Path

import pytest

from doubles.states import container
from podrt.model.event import Action
from podrt.model.states import Facts, Phase
from podrt.store import records
from podrt.store.compact import compact
from podrt.store.disk import Disk
from podrt.store.events import event_of, journaled, keyed, unseen_end
from podrt.store.facts import steps
from podrt.store.journal import Flag, JournalRecord, Kind
from podrt.store.records import EventRecord, put
from podrt.store.wal import Store

WEB = container(1, 0)


def record(kind: Kind, seq: int, *, run: int = 1, flags: int = 0, code: int = 0) -> JournalRecord:
    return JournalRecord("b" * 32, kind, flags, seq, 1000 + seq, WEB.id, run, 5, 9, code, 0, 0, 0)


def told(*journal: JournalRecord) -> list[str]:
    found = list(journaled(WEB, steps(WEB.facts, journal, WEB.id), 1))
    assert [event.id for event in found] == sorted(event.id for event in found)
    return [str(event.event.action) for event in found]


def test_journaled_run_is_told_step_by_step() -> None:
    assert (
        told(
            record(Kind.RECEIPT, 1, code=3),
            record(Kind.STARTED, 2),
            record(Kind.PAUSED, 3),
            record(Kind.UNPAUSED, 4),
            record(Kind.STOPPING, 5),
            record(Kind.EXITED, 6),
            record(Kind.RECEIPT, 7, run=2, code=3),
            record(Kind.STARTED, 8, run=2),
            record(Kind.EXITED, 9, run=2, flags=Flag.OOM_KILLED, code=137),
        )
        == "init start pause unpause stop died init start oom died".split()
    )


def test_journaled_again_by_the_next_monitor_is_no_event() -> None:
    started = record(Kind.STARTED, 1)
    assert told(started, started._replace(seq=2), record(Kind.RECEIPT, 3, code=3)) == [
        "init",
        "start",
    ]


def test_journaled_twice_gives_the_same_records() -> None:
    journal = [record(Kind.RECEIPT, 1, code=3), record(Kind.STARTED, 2)]
    first, second = (list(journaled(WEB, steps(WEB.facts, journal, WEB.id), 1)) for _ in "ab")
    assert first == second


def test_end_that_nobody_saw_is_told_by_who_finds_it() -> None:
    import msgspec

    running = msgspec.structs.replace(WEB, facts=Facts(run=1, phase=Phase.RUNNING, pid=5))
    gone = Facts(run=1, phase=Phase.EXITED, exit_code=255, code_unknown=True)
    event = unseen_end(running, gone, 77)
    assert event is not None and (event.at_ns, event.action) == (77, Action.DIED)
    assert unseen_end(msgspec.structs.replace(WEB, facts=gone), gone, 77) is None


def test_snapshot_takes_over_the_newest_events_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(records.KEPT, records.Table.EVENT, 10)  # type: ignore[arg-type]
    folder = str(tmp_path / "state")
    with Store.open(folder, segment_bytes=2_000, compact_in_background=False) as store:
        for number in range(100):
            event = keyed(event_of(WEB, Action.START, 1000 + number), "log")
            one = container(number, 0)
            store.transact(lambda _, event=event, one=one: [put(event), put(one)])
    compact(folder, Disk(), None)
    with Store.open(folder, readonly=True) as store:
        kept = sorted(event.event.at_ns for event in store.tables.all(EventRecord))
        assert 10 <= len(kept) < 60 and kept == list(range(1100 - len(kept), 1100))
        assert store.tables.count(records.ContainerRecord) == 100
