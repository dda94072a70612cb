from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from doubles.lock_peer import Peer
from podrt._fast import lockfile
from podrt._fast.locktable import LockTable

OWNER = b"a" * 32
StartPeer = Callable[[], Peer]


def test_lock_held_by_another_process_is_not_taken(table: LockTable, start_peer: StartPeer) -> None:
    index = table.allocate(OWNER)
    peer = start_peer()
    assert peer.call("acquire_nowait", index) == 1
    assert table.acquire_nowait(index) == 0
    holder = table.holder(index)
    assert holder is not None
    assert (holder.pid, holder.alive) == (peer.pid, True)
    peer.call("release", index)
    assert table.acquire_nowait(index) == 1


def test_killed_holder_hands_over_and_says_so(table: LockTable, start_peer: StartPeer) -> None:
    index = table.allocate(OWNER)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    peer.kill()
    holder = table.holder(index)
    assert holder is not None
    assert not holder.alive
    assert table.acquire_nowait(index) == 2
    table.release(index)
    assert table.acquire_nowait(index) == 1


def test_killed_holder_that_nobody_reaped_counts_as_dead(
    table: LockTable, start_peer: StartPeer
) -> None:
    index = table.allocate(OWNER)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    os.kill(peer.pid, 9)
    os.waitid(os.P_PID, peer.pid, os.WEXITED | os.WNOWAIT)
    assert table.acquire_nowait(index) == 2


def test_many_processes_never_hold_one_lock_at_once(
    table: LockTable, start_peer: StartPeer, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    index = table.allocate(OWNER)
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    peers = [start_peer() for _ in range(4)]
    each = rounds(3000, 100_000)
    for peer in peers:
        peer.send("count", index, str(counter), each)
    assert [peer.result() for peer in peers] == [0, 0, 0, 0]
    assert int.from_bytes(counter.read_bytes(), "little") == 4 * each


def test_waiting_process_is_woken_by_the_release(table: LockTable, start_peer: StartPeer) -> None:
    index = table.allocate(OWNER)
    table.acquire_nowait(index)
    peer = start_peer()
    peer.send("acquire", index, 60_000)
    while peer.pid not in waiting_marks(table, index):
        time.sleep(0.001)
    table.release(index)
    assert peer.result() == 1


def waiting_marks(table: LockTable, index: int) -> list[int]:
    """The peer's pid once it has marked the word (a plain `acquire` shows no pid)."""
    entry = table.entry(index)
    assert entry is not None
    return [pid for pid in children() if entry.waited]


def children() -> list[int]:
    text = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    return [int(pid) for pid in text.split()]


def test_waiting_process_takes_over_from_a_killed_one(
    table: LockTable, start_peer: StartPeer
) -> None:
    index = table.allocate(OWNER)
    holder, waiter = start_peer(), start_peer()
    holder.call("acquire_nowait", index)
    waiter.send("acquire", index, 60_000)
    holder.kill()
    assert waiter.result() == 2


def test_wait_gives_up_after_its_time(table: LockTable, start_peer: StartPeer) -> None:
    index = table.allocate(OWNER)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    assert table.wait(index, 10) is False
    assert table.acquire(index, 10) == 0


def test_racing_allocations_hand_no_lock_out_twice(
    table: LockTable, start_peer: StartPeer, rounds: Callable[[int, int], int]
) -> None:
    peers = [start_peer() for _ in range(3)]
    owners = [bytes([65 + number]) * 32 for number in range(3)]
    for peer, owner in zip(peers, owners, strict=True):
        peer.send("churn", owner.hex(), rounds(9000, 300_000))
    held = [peer.result() for peer in peers]
    flat = [index for some in held for index in some]
    assert len(set(flat)) == len(flat)
    for owner, some in zip(owners, held, strict=True):
        assert sorted(some) == [e.lock for e in table.entries() if e.owner_id == owner]
    assert table.repair() == 0
    assert table.capacity > lockfile.CHUNK_ENTRIES


def test_growing_by_many_at_once_loses_nothing(table: LockTable, start_peer: StartPeer) -> None:
    peers = [start_peer() for _ in range(3)]
    for peer in peers:
        peer.send("allocate_many", OWNER.hex(), 6000)
    taken = sorted(index for peer in peers for index in peer.result())
    assert taken == list(range(1, 18_001))


def test_growing_to_very_many_leaves_those_at_work_alone(
    table: LockTable, start_peer: StartPeer, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    contended, waited = table.allocate(OWNER), table.allocate(OWNER)
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    each, turns = rounds(100_000, 499_000), rounds(20_000, 300_000)
    table.acquire_nowait(waited)
    growers, counters, waiter = (
        [start_peer(), start_peer()],
        [start_peer(), start_peer()],
        start_peer(),
    )
    waiter.send("acquire", waited, 600_000)
    for peer in counters:
        peer.send("count", contended, str(counter), turns)
    for number, peer in enumerate(growers):
        peer.send("allocate_count", bytes([66 + number]).hex() * 32, each)
    last = max(peer.result() for peer in growers)
    assert last == 2 + 2 * each
    assert table.acquire_nowait(last) == 1, "seen by one who attached when the table was small"
    table.release(waited)
    assert waiter.result() == 1
    assert [peer.result() for peer in counters] == [0, 0]
    assert int.from_bytes(counter.read_bytes(), "little") == 2 * turns
    owners = [entry.owner_id[0] for entry in table.entries()]
    assert (owners.count(66), owners.count(67)) == (each, each)
    assert table.repair() == 0


def test_slots_of_killed_processes_are_used_again(table: LockTable, start_peer: StartPeer) -> None:
    index = table.allocate(OWNER)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    peer.kill()
    others = [LockTable.open(table.path) for _ in range(lockfile.SLOTS - 2)]
    assert all(other.acquire_nowait(index) in (0, 2) for other in others[:3])
    for other in others:
        other.close()


def test_another_thread_can_wait_while_the_table_closes(table_path: str) -> None:
    first, second = LockTable.open(table_path), LockTable.open(table_path)
    index = first.allocate(OWNER)
    first.acquire_nowait(index)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            second.wait(index, 60_000)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not (entry := first.entry(index)) or not entry.waited:
        time.sleep(0.001)
    second.close()
    thread.join()
    assert [type(error).__name__ for error in raised] == ["RuntimeClosed"]
    first.close()
