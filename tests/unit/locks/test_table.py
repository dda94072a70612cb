from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from podrt._fast import lockfile
from podrt._fast.locktable import LockTable
from podrt.errors import InternalError, NotFound, RuntimeClosed, StoreCorrupt, StoreFailed

OWNER = b"a" * 32
OTHER = b"b" * 32


def test_allocate_hands_out_rising_locks_and_never_zero(table: LockTable) -> None:
    assert [table.allocate(OWNER) for _ in range(5)] == [1, 2, 3, 4, 5]


def test_free_gives_the_lowest_back_first(table: LockTable) -> None:
    for _ in range(200):
        table.allocate(OWNER)
    assert table.free(150, OWNER)
    assert table.free(3, OWNER)
    assert [table.allocate(OTHER) for _ in range(3)] == [3, 150, 201]


def test_free_for_another_owner_is_refused(table: LockTable) -> None:
    index = table.allocate(OWNER)
    assert not table.free(index, OTHER)
    assert table.free(index, OWNER)
    assert not table.free(index, OWNER)


def test_acquire_is_not_recursive(table: LockTable) -> None:
    index = table.allocate(OWNER)
    assert table.acquire_nowait(index) == 1
    assert table.acquire_nowait(index) == 0
    assert table.release(index) is False
    assert table.acquire_nowait(index) == 1


def test_release_of_a_lock_not_held_raises(table: LockTable, table_path: str) -> None:
    index = table.allocate(OWNER)
    with pytest.raises(InternalError):
        table.release(index)
    other = LockTable.open(table_path)
    assert other.acquire_nowait(index) == 1
    with pytest.raises(InternalError):
        table.release(index)
    other.close()


def test_holder_names_the_process(table: LockTable) -> None:
    index = table.allocate(OWNER)
    assert table.holder(index) is None
    table.acquire_nowait(index)
    holder = table.holder(index)
    assert holder is not None
    assert (holder.pid, holder.alive) == (os.getpid(), True)
    stat = Path("/proc/self/stat").read_text()
    assert holder.start_ticks == int(stat.rpartition(")")[2].split()[19])


def test_lock_outside_the_table_is_not_found(table: LockTable) -> None:
    for index in (0, -1, table.capacity, 1 << 40):
        with pytest.raises(NotFound):
            table.acquire_nowait(index)


def test_bad_owner_ids_are_refused(table: LockTable) -> None:
    for owner in (b"", b"a" * 31, b"a" * 33, bytes(32)):
        with pytest.raises(InternalError):
            table.allocate(owner)


def test_closed_table_refuses_everything(table: LockTable) -> None:
    index = table.allocate(OWNER)
    table.close()
    table.close()
    for call in (
        lambda: table.allocate(OWNER),
        lambda: table.acquire_nowait(index),
        lambda: table.release(index),
        lambda: table.read_claim(index),
        lambda: table.mail(),
        lambda: list(table.entries()),
    ):
        with pytest.raises(RuntimeClosed):
            call()


def test_closing_abandons_what_is_held(table: LockTable, table_path: str) -> None:
    index = table.allocate(OWNER)
    other = LockTable.open(table_path)
    other.acquire_nowait(index)
    other.close()
    assert table.acquire_nowait(index) == 2


def test_growing_keeps_what_others_hold(table: LockTable, table_path: str) -> None:
    held = table.allocate(OWNER)
    table.acquire_nowait(held)
    other = LockTable.open(table_path)
    many = [other.allocate(OTHER) for _ in range(3 * lockfile.CHUNK_ENTRIES)]
    assert len(set(many)) == len(many)
    assert table.acquire_nowait(many[-1]) == 1, "the older mapping reaches the new chunk"
    assert other.acquire_nowait(many[-1]) == 0
    assert other.acquire_nowait(held) == 0
    assert table.holds(held)
    assert table.capacity == other.capacity == 4 * lockfile.CHUNK_ENTRIES
    other.close()


def test_very_many_locks_are_distinct_and_come_back(
    table: LockTable, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(100_000, 1_000_000)
    locks = [table.allocate(OWNER) for _ in range(count)]
    assert locks == list(range(1, count + 1))
    assert all(table.acquire_nowait(index) == 1 for index in locks)
    assert sum(1 for _ in table.entries()) == count
    capacity = table.capacity
    order = locks.copy()
    random.Random(7).shuffle(order)
    for index in order:
        table.release(index)
        assert table.free(index, OWNER)
    assert list(table.entries()) == []
    assert sorted(table.allocate(OTHER) for _ in range(count)) == locks
    assert table.capacity == capacity


def test_entries_tell_owner_holder_and_claim(table: LockTable) -> None:
    plain, held = table.allocate(OWNER), table.allocate(OTHER)
    table.acquire_nowait(held)
    token = table.claim(held, 9)
    first, second = table.entries()
    assert first == (plain, "allocated", OWNER, None, None, False, False)
    assert second[:3] == (held, "allocated", OTHER)
    assert second.holder is not None
    assert second.claim is not None
    assert (second.claim.verb, second.claim.token) == (9, token)


def test_looking_shows_the_same_and_touches_nothing(table: LockTable) -> None:
    index, free = table.allocate(OWNER), table.allocate(OTHER)
    table.acquire_nowait(index)
    token = table.claim(index, 9)
    before = Path(table.path).read_bytes()
    looking = LockTable.look(table.path)
    assert looking is not None
    assert list(looking.entries()) == list(table.entries())
    assert looking.entry(index) == table.entry(index)
    assert looking.holder(index) == table.holder(index)
    assert looking.read_claim(index) == table.read_claim(index)
    assert (looking.waiters(index), looking.claim_waiters(index)) == ([], [])
    assert looking.capacity == table.capacity
    for act in (
        lambda: looking.acquire_nowait(free),
        lambda: looking.acquire(free, 1),
        lambda: looking.release(index),
        lambda: looking.wait(index, 1),
        lambda: looking.claim(index, 9),
        lambda: looking.drop_claim(index, token),
        lambda: looking.preempt(index, token, 9),
        lambda: looking.allocate(OWNER),
        lambda: looking.free(index, OWNER),
        lambda: looking.repair(),
        lambda: looking.poke(),
        lambda: looking.wait_any([], [], looking.mail(), 1),
    ):
        with pytest.raises(InternalError, match="not acted on"):
            act()
    assert Path(table.path).read_bytes() == before
    looking.close()
    with pytest.raises(RuntimeClosed):
        looking.entry(index)


def test_looking_follows_a_growing_table(table: LockTable) -> None:
    looking = LockTable.look(table.path)
    assert looking is not None
    many = [table.allocate(OWNER) for _ in range(2 * lockfile.CHUNK_ENTRIES)]
    assert [entry.lock for entry in looking.entries()] == many
    looking.close()


def test_looking_for_no_table_or_one_of_another_boot_finds_none(table_path: str) -> None:
    assert LockTable.look(table_path) is None
    assert not os.path.exists(table_path)
    LockTable.open(table_path).close()
    with open(table_path, "r+b") as file:
        file.write(lockfile.pack_header(b"another boot....")[:64])
    assert LockTable.look(table_path) is None
    assert os.path.exists(table_path), "to replace it is for who acts"


def test_looking_at_a_damaged_table_refuses(table_path: str) -> None:
    LockTable.open(table_path).close()
    os.truncate(table_path, 4096)
    with pytest.raises(StoreCorrupt, match="too short"):
        LockTable.look(table_path)
    Path(table_path).write_bytes(b"no table at all" * 10)
    with pytest.raises(StoreCorrupt, match="not a lock table"):
        LockTable.look(table_path)


def test_free_leaves_a_held_lock_held(table: LockTable) -> None:
    index = table.allocate(OWNER)
    table.acquire_nowait(index)
    table.free(index, OWNER)
    entry = table.entry(index)
    assert entry is not None
    assert entry.state == "free"
    table.release(index)
    assert table.entry(index) is None


def test_slots_of_many_short_users_come_round(table: LockTable, table_path: str) -> None:
    index = table.allocate(OWNER)
    for _ in range(2 * lockfile.SLOTS):
        other = LockTable.open(table_path)
        assert other.acquire_nowait(index) == 1
        other.release(index)
        other.close()
    assert table.acquire_nowait(index) == 1


def test_dead_identity_stays_dead_when_its_slot_is_used_again(
    table: LockTable, table_path: str
) -> None:
    index = table.allocate(OWNER)
    other = LockTable.open(table_path)
    other.acquire_nowait(index)
    other.close()
    for _ in range(lockfile.SLOTS):
        LockTable.open(table_path).close()
    holder = table.holder(index)
    assert holder is not None
    assert not holder.alive
    assert table.acquire_nowait(index) == 2


def test_repair_of_a_healthy_table_finds_nothing(table: LockTable) -> None:
    locks = [table.allocate(OWNER) for _ in range(100)]
    table.free(locks[7], OWNER)
    assert table.repair() == 0


def test_repair_brings_a_lost_hint_back(table: LockTable, table_path: str) -> None:
    for _ in range(100):
        table.allocate(OWNER)
    table.free(50, OWNER)
    with open(table_path, "r+b") as file:
        file.seek(lockfile.CHUNKS_AT)
        file.write(bytes(512))
    assert table.repair() == lockfile.CHUNK_ENTRIES - 100
    assert table.allocate(OTHER) == 50


def test_table_of_another_boot_is_replaced_by_an_empty_one(table_path: str) -> None:
    table = LockTable.open(table_path)
    table.allocate(OWNER)
    table.close()
    with open(table_path, "r+b") as file:
        file.write(lockfile.pack_header(b"another boot....")[:64])
    table = LockTable.open(table_path)
    assert list(table.entries()) == []
    assert os.listdir(os.path.dirname(table_path)) == ["locks"]
    table.close()


def test_open_in_a_missing_folder_says_so() -> None:
    with pytest.raises(StoreFailed, match="No such file"):
        LockTable.open("/nonexistent/podrt/locks")


def test_file_is_private_and_of_fixed_layout(table: LockTable) -> None:
    data = Path(table.path).read_bytes()
    assert os.stat(table.path).st_mode & 0o7777 == 0o600
    assert len(data) == 4096 + 64 * 4096 + 4096 + 64 * 4096
    assert struct.unpack_from("<8s6I", data) == (b"podrtlk1", 1, 4096, 4096, 64, 4096, 64)
    table.allocate(OWNER)
    entry = lockfile.CHUNKS_AT + lockfile.PAGE + 64
    with open(table.path, "rb") as file:
        assert os.pread(file.fileno(), 64, entry)[16:48] == OWNER


FORKING = """
import os, sys
from podrt._fast.locktable import LockTable
from podrt.errors import InternalError
table = LockTable.open(sys.argv[1])
index, other = table.allocate(b"a" * 32), table.allocate(b"b" * 32)
assert table.acquire_nowait(index) == 1
child = os.fork()
if child == 0:
    try:
        table.release(index)
    except InternalError:
        pass
    else:
        os._exit(3)
    if table.acquire_nowait(index) != 0 or table.acquire_nowait(other) != 1:
        os._exit(4)
    if table.holder(other).pid != os.getpid() or table.holder(index).pid != os.getppid():
        os._exit(5)
    os._exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, status
assert table.holds(index)
assert table.acquire_nowait(other) == 2
quiet = os.fork()
if quiet == 0:
    table.close()
    os._exit(0)
os.waitpid(quiet, 0)
assert table.holds(index) and table.holder(index).alive
table.release(index)
print("good")
"""


def test_forked_child_owns_nothing_of_its_parent(table_path: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKING), table_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (ran.stdout, ran.returncode) == ("good\n", 0), ran.stderr
