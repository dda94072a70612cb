"""Processes that die with the lock table in their hands."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import podrt
from doubles.lock_peer import Peer
from podrt._fast.lockfile import CHUNK_ENTRIES
from podrt._fast.locktable import LockTable

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "src/podrt/_fast"
OLD, NEW, FILLER = b"o" * 32, b"n" * 32, b"f" * 32
KILLED = -9

# The full counts take minutes each.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def folder() -> Iterator[str]:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="podrt_test_locks_", dir=base)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lock_steps(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program that dies before its N-th write."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    program = str(tmp_path_factory.mktemp("lock_steps") / "lock_steps")
    source = str(HERE / "lock_steps.c")
    subprocess.run(
        [compiler, "-std=gnu11", "-O1", f"-I{HEADERS}", source, "-o", program], check=True
    )
    return program


def prepare(path: str, allocated: int) -> int:
    """A table with `allocated` locks of OLD; the last one's index."""
    table = LockTable.open(path)
    for _ in range(allocated):
        index = table.allocate(OLD)
    table.close()
    return index


def check_whole(path: str) -> None:
    """Everything a survivor may rely on, whatever died in the table before."""
    looking = LockTable.look(path)
    assert looking is not None
    torn = [entry for entry in looking.entries() if entry.is_torn]
    assert {entry.state for entry in torn} <= {"allocating", "freeing"}
    table = LockTable.open(path)
    assert table.repair() >= len(torn)
    assert not [entry for entry in looking.entries() if entry.is_torn]
    looking.close()
    entries = list(table.entries())
    assert {entry.state for entry in entries if entry.owner_id != bytes(32)} <= {"allocated"}
    assert not [entry for entry in entries if entry.state in ("allocating", "freeing")]
    assert sum(entry.owner_id == NEW for entry in entries) <= 1
    allocated = {entry.lock for entry in entries if entry.state == "allocated"}
    free = table.capacity - 1 - len(allocated)
    capacity = table.capacity
    added = {table.allocate(FILLER) for _ in range(free)}
    assert len(added) == free
    assert not added & allocated
    assert table.capacity == capacity, "a free lock was lost: the table grew before it was full"
    assert all(table.acquire_nowait(index) for index in range(1, capacity))
    table.close()


@pytest.mark.parametrize(
    ("verb", "allocated"),
    [("allocate", 5), ("allocate", 64), ("allocate", CHUNK_ENTRIES - 1), ("free", 5), ("hold", 5)],
)
def test_dying_before_any_write_leaves_a_table_that_can_be_made_whole(
    folder: str, lock_steps: str, verb: str, allocated: int
) -> None:
    pristine, path = f"{folder}/pristine", f"{folder}/locks"
    index = prepare(pristine, allocated)
    deaths = 0
    for step in range(1, 1000):
        shutil.copyfile(pristine, path)
        ran = subprocess.run([lock_steps, path, str(step), verb, str(index)], check=False)
        if ran.returncode == 0:
            break
        assert ran.returncode == KILLED
        deaths += 1
        check_whole(path)
    assert deaths >= 10
    check_whole(path)


def test_dying_before_any_write_of_attaching_costs_no_slot_for_good(
    folder: str, lock_steps: str
) -> None:
    path = f"{folder}/locks"
    prepare(path, 5)
    for step in range(1, 14):
        subprocess.run([lock_steps, path, str(step), "hold", "3"], check=False)
    tables = [LockTable.open(path) for _ in range(4095)]
    for table in tables:
        table.close()


GUARD = """
import mmap, os, sys
from podrt._fast.locktable import LockTable
table = LockTable.open(sys.argv[1])
index = int(sys.argv[2])
with open(sys.argv[3], "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
    me = os.getpid().to_bytes(8, "little")
    print("up", flush=True)
    while not memory[0]:
        got = table.acquire(index, 60_000)
        if got == 0:
            sys.exit("waited for a minute")
        inside = memory[8:16]
        if got == 1 and inside != bytes(8):
            sys.exit(f"{int.from_bytes(inside, 'little')} is inside and alive")
        memory[8:16] = me
        value = int.from_bytes(memory[16:24], "little")
        for _ in range(20):
            pass
        if memory[8:16] != me or int.from_bytes(memory[16:24], "little") != value:
            sys.exit("somebody else came in")
        memory[16:24] = (value + 1).to_bytes(8, "little")
        memory[8:16] = bytes(8)
        table.release(index)
"""


def start_guard(path: str, index: int, memory: str) -> subprocess.Popen[str]:
    source = str(Path(podrt.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", GUARD, path, str(index), memory],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def reap(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=90)
    return process.returncode, errors


def test_killing_holders_at_random_never_lets_two_inside(
    folder: str, rounds: Callable[[int, int], int]
) -> None:
    path, memory = f"{folder}/locks", f"{folder}/memory"
    index = prepare(path, 3)
    Path(memory).write_bytes(bytes(4096))
    rng = random.Random(11)
    guards = [start_guard(path, index, memory) for _ in range(3)]
    try:
        for _ in range(rounds(20, 1500)):
            time.sleep(rng.random() * 0.01)
            victim = guards.pop(rng.randrange(3))
            victim.kill()
            assert reap(victim) == (KILLED, "")
            guards.append(start_guard(path, index, memory))
        with open(memory, "r+b") as file:
            file.write(b"\x01")
        assert [reap(guard) for guard in guards] == [(0, "")] * 3
    finally:
        for guard in guards:
            guard.kill()
            with contextlib.suppress(ValueError):
                reap(guard)
    assert int.from_bytes(Path(memory).read_bytes()[16:24], "little") > 0


def test_killing_allocators_at_random_loses_no_lock(
    folder: str, rounds: Callable[[int, int], int]
) -> None:
    path = f"{folder}/locks"
    prepare(path, 3)
    rng = random.Random(12)
    for _ in range(rounds(6, 500)):
        with Peer(path) as first, Peer(path) as second:
            first.send("churn", (b"1" * 32).hex(), 10_000_000)
            second.send("churn", (b"2" * 32).hex(), 10_000_000)
            time.sleep(rng.random() * 0.02)
            first.kill()
            second.kill()
        table = LockTable.open(path)
        table.repair()
        for entry in list(table.entries()):
            if entry.owner_id[:1] in b"12":
                assert table.free(entry.lock, entry.owner_id)
        table.close()
    check_whole(path)
