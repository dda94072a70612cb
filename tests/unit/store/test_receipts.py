"""A receipt of a start: the process may run although nobody wrote that it does."""

from __future__ import annotations

from podrt.model.states import Facts, Phase
from podrt.store.facts import RECEIPT_OF_START, apply
from podrt.store.journal import JournalRecord, Kind

KEY = "ab" * 32


def record(kind: Kind, seq: int, *, code: int = 0, pid: int = 7) -> JournalRecord:
    return JournalRecord("b" * 32, kind, 0, seq, seq * 100, KEY, 1, pid, 50, code, 0, 0, 0)


def test_receipt_of_a_start_names_the_process() -> None:
    facts = apply(Facts(run=1), record(Kind.RECEIPT, 1, code=RECEIPT_OF_START))
    assert (facts.phase, facts.pid, facts.start_ticks) == (Phase.STARTING, 7, 50)


def test_receipt_of_something_else_changes_nothing() -> None:
    assert apply(Facts(run=1), record(Kind.RECEIPT, 1, code=8)) == Facts(run=1)


def test_start_and_failure_after_a_receipt_count() -> None:
    facts = apply(Facts(run=1), record(Kind.RECEIPT, 1, code=RECEIPT_OF_START))
    assert apply(facts, record(Kind.STARTED, 2)).phase is Phase.RUNNING
    assert apply(facts, record(Kind.START_FAILED, 2)).phase is Phase.FAILED
    assert apply(facts, record(Kind.CREATED, 2)).phase is Phase.HELD


def test_receipt_read_again_after_the_end_changes_nothing() -> None:
    facts = apply(Facts(run=1), record(Kind.RECEIPT, 1, code=RECEIPT_OF_START))
    ended = apply(apply(facts, record(Kind.STARTED, 2)), record(Kind.EXITED, 3))
    assert apply(ended, record(Kind.RECEIPT, 1, code=RECEIPT_OF_START)) == ended
