from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.states import container
from podrt.model.states import NO_FACTS, UNKNOWN_EXIT_CODE, Facts, Phase
from podrt.store.facts import (
    JournalTail,
    apply,
    fold,
    lost,
    refreshed,
)
from podrt.store.journal import Flag, JournalRecord, Kind, encode_header, encode_record
from podrt.store.records import ContainerRecord, GroupRecord

BOOT = "0123456789abcdef0123456789abcdef"
GROUP = "ab" * 32
OTHER = "ef" * 32
CONTAINER = container(1, 0)
KEY = CONTAINER.id


def record(kind: Kind, run: int = 1, *, key: str = KEY, **fields: int) -> JournalRecord:
    values = {"flags": 0, "seq": 1, "at_ns": 7, "pid": 10 * run, "start_ticks": 99}
    values |= {"code": 0, "error": 0, "a": 0, "b": 0} | fields
    return JournalRecord(boot_id=BOOT, kind=int(kind), id=key, run=run, **values)


def after(*records: JournalRecord, facts: Facts = NO_FACTS) -> Facts:
    return fold(facts, records, KEY, GROUP)


@pytest.mark.parametrize(
    ("kinds", "phase"),
    [
        ([Kind.CREATED], Phase.HELD),
        ([Kind.STARTED], Phase.RUNNING),
        ([Kind.CREATED, Kind.STARTED], Phase.RUNNING),
        ([Kind.STARTED, Kind.PAUSED], Phase.PAUSED),
        ([Kind.STARTED, Kind.PAUSED, Kind.UNPAUSED], Phase.RUNNING),
        ([Kind.STARTED, Kind.STOPPING], Phase.STOPPING),
        ([Kind.STARTED, Kind.STOPPING, Kind.PAUSED], Phase.STOPPING),
        ([Kind.STARTED, Kind.STOPPING, Kind.EXITED], Phase.EXITED),
        ([Kind.CREATED, Kind.EXITED], Phase.EXITED),
        ([Kind.START_FAILED], Phase.FAILED),
        ([Kind.CREATED, Kind.START_FAILED], Phase.FAILED),
        ([Kind.EXITED, Kind.STARTED], Phase.EXITED),
        ([Kind.EXITED, Kind.CREATED], Phase.EXITED),
        ([Kind.EXITED, Kind.STOPPING], Phase.EXITED),
        ([Kind.EXITED, Kind.START_FAILED], Phase.EXITED),
        ([Kind.START_FAILED, Kind.STARTED], Phase.FAILED),
        ([Kind.PAUSED], Phase.NONE),
        ([Kind.RECEIPT, Kind.FORGOTTEN, Kind.MONITOR_UP], Phase.NONE),
        ([Kind.NS_UP], Phase.RUNNING),
        ([Kind.NS_UP, Kind.NS_DOWN], Phase.EXITED),
        ([Kind.NS_UP, Kind.NS_DOWN, Kind.NS_UP], Phase.RUNNING),
    ],
)
def test_apply_of_one_run_leads_to_its_phase(kinds: list[Kind], phase: Phase) -> None:
    assert after(*map(record, kinds)).phase is phase


def test_apply_of_a_start_keeps_the_process() -> None:
    facts = after(record(Kind.STARTED, 3, at_ns=55))
    assert facts == Facts(
        run=3, phase=Phase.RUNNING, pid=30, start_ticks=99, started_at_ns=55, boot_id=BOOT
    )


def test_apply_of_an_end_keeps_code_flags_and_start() -> None:
    flags = Flag.BY_USER | Flag.OOM_KILLED
    facts = after(record(Kind.STARTED), record(Kind.EXITED, code=137, at_ns=9, flags=flags))
    assert (facts.exit_code, facts.by_user, facts.oom_killed) == (137, True, True)
    assert (facts.started_at_ns, facts.finished_at_ns) == (7, 9)


def test_apply_of_an_end_nobody_saw_says_so() -> None:
    facts = after(record(Kind.STARTED), record(Kind.EXITED, flags=Flag.CODE_UNKNOWN))
    assert (facts.exit_code, facts.code_unknown) == (UNKNOWN_EXIT_CODE, True)
    known = apply(facts, record(Kind.EXITED, code=3))
    assert (known.exit_code, known.code_unknown) == (3, False)
    assert apply(known, record(Kind.EXITED, flags=Flag.CODE_UNKNOWN)) == known


def test_apply_of_a_failed_start_keeps_errno_and_stage() -> None:
    facts = after(record(Kind.START_FAILED, error=2, a=24))
    assert (facts.error, facts.error_stage) == (2, 24)


@pytest.mark.parametrize("kind", list(Kind))
def test_apply_of_an_older_run_changes_nothing(kind: Kind) -> None:
    facts = after(record(Kind.STARTED, 2), record(Kind.EXITED, 2))
    assert apply(facts, record(kind, 1)) == facts


def test_apply_of_a_newer_run_forgets_the_older() -> None:
    facts = after(record(Kind.STARTED), record(Kind.EXITED, code=9), record(Kind.STARTED, 2))
    assert (facts.run, facts.phase, facts.exit_code, facts.pid) == (2, Phase.RUNNING, 0, 20)


def test_apply_of_a_process_taken_over_keeps_its_start_and_phase() -> None:
    facts = after(record(Kind.STARTED, at_ns=1), record(Kind.PAUSED))
    assert apply(facts, record(Kind.STARTED, at_ns=100)) == facts


def test_fold_of_a_pause_of_the_group_pauses_each_member() -> None:
    paused = record(Kind.PAUSED, 0, key=GROUP)
    assert after(record(Kind.STARTED), paused).phase is Phase.PAUSED
    assert after(record(Kind.STARTED), record(Kind.EXITED, 0, key=GROUP)).phase is Phase.RUNNING
    assert after(record(Kind.STARTED, key=OTHER)) == NO_FACTS


# An infra container without a process has no runs: its namespaces come and go.
kinds = st.sampled_from([kind for kind in Kind if kind not in (Kind.NS_UP, Kind.NS_DOWN)])
histories = st.lists(st.builds(record, kinds, st.integers(1, 3)), max_size=12)


@given(histories)
def test_fold_a_second_time_changes_nothing_once_the_run_has_ended(
    history: list[JournalRecord],
) -> None:
    facts = after(*history)
    again = after(*history, facts=facts)
    assert again.run == facts.run
    if facts.phase in (Phase.EXITED, Phase.FAILED):
        assert again == facts


@given(histories, st.lists(st.integers(0, 12), max_size=3))
def test_journal_folded_bit_by_bit_tells_the_same_as_all_at_once(
    history: list[JournalRecord], stops: list[int]
) -> None:
    history = [each._replace(seq=number) for number, each in enumerate(history, 1)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        path.write_bytes(encode_header(BOOT, GROUP))
        group, folded, written = GroupRecord(id=GROUP, epoch=4), CONTAINER, 0
        long_lived = JournalTail(str(path), group)
        for stop in [*sorted(stops), len(history)]:
            with path.open("ab") as file:
                file.writelines(map(encode_record, history[written:stop]))
            written = max(written, min(stop, len(history)))
            expected = fold(NO_FACTS, history[:written], KEY, GROUP, epoch=4)
            fresh = JournalTail(str(path), group)
            for tail in (fresh, long_lived):
                assert tail.facts(folded, group) == expected
            seq, at = fresh.position
            fresh.close()
            assert seq == written
            folded = ContainerRecord(id=KEY, config=CONTAINER.config, facts=expected)
            group = GroupRecord(id=GROUP, epoch=4, folded_seq=seq, folded_bytes=at)
            assert long_lived.unfolded(group) == set()
        long_lived.close()


@given(histories)
def test_fold_never_leaves_the_newest_run_or_goes_back(history: list[JournalRecord]) -> None:
    facts = NO_FACTS
    for each in history:
        later = apply(facts, each)
        assert later.run >= facts.run
        if later.run == facts.run and facts.phase in (Phase.EXITED, Phase.FAILED):
            assert later.phase is facts.phase
        facts = later


def test_journal_tail_follows_the_file_and_names_who_is_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "j"
    group = GroupRecord(id=GROUP, epoch=4)
    tail = JournalTail(str(path), group)
    try:
        assert tail.facts(CONTAINER, group) == NO_FACTS
        path.write_bytes(encode_header(BOOT, GROUP) + encode_record(record(Kind.STARTED)))
        assert tail.facts(CONTAINER, group).phase is Phase.RUNNING
        assert tail.unfolded(group) == {KEY}
        with path.open("ab") as file:
            file.write(encode_record(record(Kind.PAUSED, 0, key=GROUP, seq=2)))
            file.write(encode_record(record(Kind.MONITOR_DOWN, 0, key=GROUP, seq=3)))
            file.write(encode_record(record(Kind.EXITED, seq=4, code=5)))
        assert tail.facts(CONTAINER, group).exit_code == 5
        assert tail.unfolded(group) == {KEY, GROUP}
        assert tail.position == (4, path.stat().st_size)
    finally:
        tail.close()


def test_process_belongs_to_the_journal_whose_monitor_started_or_took_it_over() -> None:
    started = fold(NO_FACTS, [record(Kind.STARTED)], KEY, GROUP, epoch=2)
    assert started.epoch == 2
    assert fold(started, [record(Kind.STOPPING)], KEY, GROUP, epoch=3).epoch == 2
    taken_over = fold(started, [record(Kind.STARTED)], KEY, GROUP, epoch=3)
    assert (taken_over.epoch, taken_over.phase) == (3, Phase.RUNNING)


def test_refreshed_facts_of_another_boot_have_ended() -> None:
    running = after(record(Kind.STARTED))
    assert refreshed(running, BOOT) == running
    ended = refreshed(running, "f" * 32)
    assert (ended.phase, ended.code_unknown) == (Phase.EXITED, True)
    held = after(record(Kind.CREATED))
    assert refreshed(held, "f" * 32) == Facts(run=1)


def test_apply_of_an_end_that_is_followed_waits_until_it_is_due() -> None:
    facts = after(record(Kind.STARTED, b=2), record(Kind.EXITED, code=3, at_ns=9, a=100, b=2))
    assert facts.phase is Phase.BACK_OFF
    assert (facts.exit_code, facts.finished_at_ns, facts.due_at_ns) == (3, 9, 100)
    following = after(record(Kind.RECEIPT, 2, code=3, b=3), facts=facts)
    assert (following.run, following.phase, following.restarts) == (2, Phase.STARTING, 3)


@pytest.mark.parametrize("kind", [Kind.STARTED, Kind.RECEIPT, Kind.CREATED, Kind.STOPPING])
def test_apply_in_back_off_nothing_brings_the_run_back(kind: Kind) -> None:
    waiting = after(record(Kind.STARTED), record(Kind.EXITED, a=100))
    assert after(record(kind, code=3), facts=waiting).phase is Phase.BACK_OFF


def test_apply_of_a_second_end_calls_the_waiting_off() -> None:
    ends = [record(Kind.EXITED, code=3, at_ns=9, a=100), record(Kind.EXITED, code=3, at_ns=9)]
    facts = after(record(Kind.STARTED), *ends)
    assert (facts.phase, facts.due_at_ns, facts.finished_at_ns) == (Phase.EXITED, 0, 9)
    assert after(*ends, facts=facts).phase is Phase.EXITED


def test_apply_of_a_restart_that_failed_names_its_stage() -> None:
    facts = after(record(Kind.EXITED, 2, code=127, error=2, b=5 << 32 | 1, a=100))
    assert (facts.restarts, facts.error, facts.error_stage) == (1, 2, 5)


def test_apply_of_an_end_nobody_saw_takes_what_a_monitor_makes_of_it() -> None:
    believed = lost(after(record(Kind.STARTED)))
    facts = after(record(Kind.EXITED, flags=Flag.CODE_UNKNOWN, at_ns=9, a=100), facts=believed)
    assert (facts.phase, facts.code_unknown) == (Phase.BACK_OFF, True)


def test_back_off_of_another_boot_is_an_end() -> None:
    waiting = after(record(Kind.STARTED), record(Kind.EXITED, code=3, a=100))
    assert refreshed(waiting, BOOT).phase is Phase.BACK_OFF
    facts = refreshed(waiting, "ff" * 16)
    assert (facts.phase, facts.due_at_ns, facts.exit_code) == (Phase.EXITED, 0, 3)


def test_lost_while_it_was_started_again_is_an_end() -> None:
    starting = after(record(Kind.RECEIPT, 2, code=3, b=1))
    assert (lost(starting).phase, lost(starting).code_unknown) == (Phase.EXITED, True)


def test_fold_of_a_waiting_end_names_the_monitor_that_keeps_it() -> None:
    ends = [record(Kind.EXITED, a=100, pid=0)]
    assert fold(NO_FACTS, ends, KEY, GROUP, epoch=4).epoch == 4
