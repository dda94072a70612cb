"""Processes that use the store are killed: nothing written is lost, nothing is half there."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import podrt
from doubles.states import Model, apply, check_indexes, content, pod
from doubles.store_child import transactions
from podrt.errors import StoreFailed
from podrt.store.records import GroupRecord, PodRecord, put
from podrt.store.wal import Store

TESTS = Path(__file__).parent.parent
SOURCES = Path(podrt.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{SOURCES}:{TESTS}"}
COMMAND = [sys.executable, "-m", "doubles.store_child"]
SIGKILLED = -9


@pytest.fixture(scope="module")
def killed() -> Iterator[Callable[..., int]]:
    """Runs the workload in a process that kills itself; gives its exit code."""
    with subprocess.Popen(
        [*COMMAND, "killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(folder: Path, seed: int, at: int, when: str) -> int:
            print(folder, seed, at, when, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield run
        process.stdin.close()


def models(seed: int) -> list[Model]:
    found: list[Model] = [{}]
    for ops, _ in transactions(seed):
        found.append(apply(found[-1], ops))
    return found


def acknowledged(folder: Path) -> int:
    acks = Path(f"{folder}.acks")
    lines = acks.read_text().split("\n") if acks.exists() else []
    return max((int(line[2:]) for line in lines if line[:1] in ("w", "d") and line), default=0)


def test_a_writer_killed_at_any_call_leaves_all_it_acknowledged_and_nothing_half(
    tmp_path: Path, killed: Callable[..., int], rounds: Callable[[int, int], int]
) -> None:
    rng = random.SystemRandom()
    for _ in range(rounds(120, 2500)):
        seed, at = rng.randrange(1000), rng.randrange(1, 120)
        when = rng.choice(["before", "amid", "after"])
        folder = tmp_path / "state"
        code = killed(folder, seed, at, when)
        where = f"seed {seed}, call {at}, {when}"
        assert code in (SIGKILLED, 0), where
        known = models(seed)
        with Store.open(str(folder)) as store:
            found = content(store.tables)
            written = acknowledged(folder)
            # The transaction at work may or may not have made it.
            assert found in known[written : written + 2], where
            check_indexes(store.tables)
            store.flush_blocking(store.transact(lambda _: [put(GroupRecord(id="after"))]))
        shutil.rmtree(folder)
        os.unlink(f"{folder}.acks")


def start_counter(folder: Path, key: str, count: int) -> subprocess.Popen[bytes]:
    arguments = ["counter", str(folder), key, str(count), f"{folder}.{key}"]
    return subprocess.Popen([*COMMAND, *arguments], env=ENVIRONMENT)


def epoch(store: Store, key: str) -> int:
    record = store.tables.get(GroupRecord, key)
    return record.epoch if record is not None else 0


def test_many_processes_appending_at_once_lose_no_transaction(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    keys = ["a", "b", "c", "d"]
    running = [start_counter(folder, key, 400) for key in keys]
    assert [process.wait(60) for process in running] == [0] * len(keys)
    with Store.open(str(folder)) as store:
        assert [epoch(store, key) for key in keys] == [400] * len(keys)
        assert epoch(store, "total") == 400 * len(keys)


def test_processes_killed_while_others_append_lose_nothing(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    folder = tmp_path / "state"
    rng = random.Random(3)
    keys = ["a", "b", "c"]
    running = {key: start_counter(folder, key, 1_000_000) for key in keys}
    try:
        with Store.open(str(folder), segment_bytes=20_000) as store:
            for _ in range(rounds(10, 200)):
                deadline = time.monotonic() + rng.uniform(0.05, 0.25)
                while time.monotonic() < deadline:
                    store.catch_up()
                    total = sum(epoch(store, key) for key in keys)
                    assert epoch(store, "total") == total
                victim = rng.choice(keys)
                running[victim].kill()
                running[victim].wait()
                running[victim] = start_counter(folder, victim, 1_000_000)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    with Store.open(str(folder)) as store:
        for key in keys:
            acks = Path(f"{folder}.{key}")
            lines = acks.read_text().split() if acks.exists() else []
            assert epoch(store, key) >= max(map(int, lines), default=0)
        assert epoch(store, "total") == sum(epoch(store, key) for key in keys)


FULL_DISK = """
import errno, os, subprocess, sys
options = "size=256k,mode=700"
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", sys.argv[1]], check=True)
from doubles.states import content, pod
from podrt.errors import StoreFailed
from podrt.store.records import PodRecord, put
from podrt.store.wal import Store
folder = sys.argv[1] + "/state"
count = 0
with Store.open(folder, segment_bytes=100_000, compact_in_background=False) as store:
    try:
        while True:
            seq = store.transact(lambda _: [put(pod(count + 1))])
            store.flush_blocking(seq)
            count += 1
    except StoreFailed as error:
        assert error.errno == errno.ENOSPC, error
    assert count > 100, count
    before = content(store.tables)
with Store.open(folder, readonly=True) as reader:
    assert {record.id for record in reader.tables.all(type(pod(1)))} >= {
        pod(n).id for n in range(1, count + 1)}
subprocess.run(["mount", "-o", "remount,size=2m", sys.argv[1]], check=True)
with Store.open(folder) as store:
    assert content(store.tables) == before
    store.flush_blocking(store.transact(lambda _: [put(pod(100_000))]))
print("done")
"""


def test_a_disk_that_is_full_refuses_and_loses_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    result = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_a_failed_sync_in_one_process_stops_acknowledgements_in_all(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    failing = (
        "import errno, sys\n"
        "from doubles.disks import FailingDisk\n"
        "from doubles.states import pod\n"
        "from podrt.store.records import put\n"
        "from podrt.store.wal import Store\n"
        "disk = FailingDisk()\n"
        "store = Store.open(sys.argv[1], disk=disk)\n"
        "disk.fails = {'sync': errno.EIO}\n"
        "store.flush_blocking(store.transact(lambda _: [put(pod(1))]))\n"
    )
    with Store.open(str(folder)) as store:
        result = subprocess.run(
            [sys.executable, "-c", failing, str(folder)],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        assert "StoreFailed" in result.stderr
        with pytest.raises(StoreFailed):
            store.transact(lambda _: [put(pod(2))])
    with Store.open(str(folder)) as store:
        store.flush_blocking(store.transact(lambda _: [put(pod(2))]))
        assert store.tables.get(PodRecord, pod(2).id) == pod(2)
