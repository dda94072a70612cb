from __future__ import annotations

import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from doubles.states import check_indexes, container, content, pod
from podrt.store.records import MetaRecord, put
from podrt.store.snapshot import list_snapshots, snapshot_path
from podrt.store.turns import HURRIED, Turns, in_order
from podrt.store.wal import Store


@given(
    st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 9)), max_size=40), st.integers(1, 99)
)
def test_in_order_sorts_as_sorting_in_one_piece_does(
    items: list[tuple[bytes, int]], times: int
) -> None:
    many = items * times
    expected = sorted(many)
    assert list(in_order(many, HURRIED)) == expected


def test_in_order_of_many_that_are_all_different_or_all_equal_sorts_them() -> None:
    mixed = [(str(number * 7919 % 10_007), number) for number in range(10_007)]
    assert list(in_order(list(mixed), HURRIED)) == sorted(mixed)
    equal = [("x", number) for number in range(5000, 0, -1)]
    assert list(in_order(list(equal), HURRIED)) == sorted(equal)


def test_turns_let_another_thread_run_until_somebody_waits_for_the_end() -> None:
    turns = Turns()
    has_run = threading.Event()
    thread = threading.Thread(target=has_run.set)
    thread.start()
    while not has_run.is_set():
        turns.give()
    thread.join()
    turns.is_hurried = True
    turns.give()


def test_a_snapshot_of_several_pieces_holds_what_the_log_did(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    with Store.open(folder, segment_bytes=4 << 20) as store:
        for number in range(40):
            text = MetaRecord(id=f"m{number}é", value="x" * (number * 9000))
            ops = [put(text), *(put(pod(number * 50 + n)) for n in range(50))]
            ops += [put(container(number * 50 + n, number)) for n in range(50)]
            seq = store.transact(lambda _, ops=ops: ops)
        store.wait_compacted()
        assert store.durable > 0
        store.flush_blocking(seq)
        expected = content(store.tables)
    [newest] = list_snapshots(folder)
    assert Path(snapshot_path(folder, newest)).stat().st_size > 3 << 20
    with Store.open(folder, readonly=True) as reader:
        assert content(reader.tables) == expected
        check_indexes(reader.tables)
