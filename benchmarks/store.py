"""P11: the store against SQLite (WAL, synchronous=FULL) doing the same rows.

    python benchmarks/store.py [--rounds N] [--json FILE] [--folder DIR]

Volatile: one small put a transaction, one writer. Durable: 64 Trio tasks, each waits for the
disk before its next transaction; SQLite's tasks share a connection in one worker thread, once
with a commit for every row (what its users write) and once with all queued rows in one commit
(the best that can be made of it). Reopening: a state of 100,000 records, opened, and one of them
looked up by name; then every one of them decoded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from podrt.model.container import ContainerConfig
from podrt.model.ids import new_id
from podrt.model.pod import PodConfig
from podrt.model.states import Facts, Phase
from podrt.store.commit import wait_durable
from podrt.store.records import ContainerRecord, PodRecord, put
from podrt.store.wal import Store

TASKS = 64
VOLATILE = 50_000
DURABLE = 8_000
RECORDS = 100_000
_encode = msgspec.msgpack.Encoder().encode


def sample_container(number: int) -> ContainerRecord:
    config = ContainerConfig(name=f"container{number}", image="busybox", command=("sleep", "inf"))
    facts = Facts(run=1, phase=Phase.RUNNING, pid=1000 + number, start_ticks=12345)
    return ContainerRecord(id=new_id(), config=config, lock=number, wanted="running", facts=facts)


def transitions(container: ContainerRecord, count: int) -> list[ContainerRecord]:
    return [msgspec.structs.replace(container, run=number) for number in range(count)]


def volatile_podrt(folder: str) -> float:
    records = transitions(sample_container(1), VOLATILE)
    with Store.open(folder) as store:
        began = time.perf_counter()
        for record in records:
            store.transact(lambda _, record=record: (put(record),))
        return VOLATILE / (time.perf_counter() - began)


def open_sqlite(folder: str) -> sqlite3.Connection:
    os.makedirs(folder, exist_ok=True)
    db = sqlite3.connect(f"{folder}/db", isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=full")
    db.execute("create table container (id text primary key, value blob)")
    return db


SQL = "insert into container values (?, ?) on conflict (id) do update set value = excluded.value"


def volatile_sqlite(folder: str) -> float:
    records = transitions(sample_container(1), VOLATILE // 5)
    db = open_sqlite(folder)
    db.execute("pragma synchronous=off")
    began = time.perf_counter()
    for record in records:
        db.execute(SQL, (record.id, _encode(record)))
    rate = len(records) / (time.perf_counter() - began)
    db.close()
    return rate


async def in_tasks(write: Callable[[int], object]) -> float:
    began = time.perf_counter()

    async def task(first: int) -> None:
        for number in range(first, DURABLE, TASKS):
            await write(number)  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        for first in range(TASKS):
            nursery.start_soon(task, first)
    return DURABLE / (time.perf_counter() - began)


def durable_podrt(folder: str) -> float:
    records = [sample_container(number) for number in range(DURABLE)]
    with Store.open(folder) as store:

        async def write(number: int) -> None:
            seq = store.transact(lambda _: (put(records[number]),))
            await wait_durable(store, seq)

        return trio.run(in_tasks, write)


def durable_sqlite(folder: str) -> float:
    """A commit for every row."""
    records = [sample_container(number) for number in range(DURABLE)]
    db = open_sqlite(folder)
    limiter = trio.CapacityLimiter(1)

    async def write(number: int) -> None:
        row = (records[number].id, _encode(records[number]))
        await trio.to_thread.run_sync(db.execute, SQL, row, limiter=limiter)

    rate = trio.run(in_tasks, write)
    db.close()
    return rate


def durable_sqlite_grouped(folder: str) -> float:
    """All rows that are queued share one commit: group commit made by hand."""
    records = [sample_container(number) for number in range(DURABLE)]
    db = open_sqlite(folder)
    queue: list[tuple[tuple[str, bytes], trio.Event]] = []
    lock = trio.Lock()

    def commit(rows: list[tuple[str, bytes]]) -> None:
        db.execute("begin immediate")
        db.executemany(SQL, rows)
        db.execute("commit")

    async def write(number: int) -> None:
        done = trio.Event()
        queue.append(((records[number].id, _encode(records[number])), done))
        async with lock:
            if done.is_set():
                return
            batch = list(queue)
            queue.clear()
            await trio.to_thread.run_sync(commit, [row for row, _ in batch])
            for _, event in batch:
                event.set()

    rate = trio.run(in_tasks, write)
    db.close()
    return rate


def fill(folder: str) -> None:
    with Store.open(folder) as store:
        pods = [
            PodRecord(id=new_id(), config=PodConfig(name=f"pod{n}")) for n in range(RECORDS // 10)
        ]
        store.transact(lambda _: [put(pod) for pod in pods])
        for first in range(0, RECORDS - len(pods), 1000):
            members = [
                msgspec.structs.replace(sample_container(n), pod_id=pods[n % len(pods)].id)
                for n in range(first, first + 1000)
            ]
            store.transact(lambda _, members=members: [put(member) for member in members])


def reopen(folder: str) -> tuple[float, float]:
    """Seconds until a record can be looked up, and until every one has been decoded."""
    began = time.perf_counter()
    with Store.open(folder, readonly=True) as store:
        store.tables.find(ContainerRecord, "container77777")
        opened = time.perf_counter() - began
        count = sum(1 for kind in (PodRecord, ContainerRecord) for _ in store.tables.all(kind))
        assert count == RECORDS
        return opened, time.perf_counter() - began


def fsync_floor(folder: str) -> float:
    """Microseconds of an append of 300 bytes and its fdatasync: what the disk here is."""
    fd = os.open(f"{folder}/floor", os.O_WRONLY | os.O_CREAT, 0o600)
    times = []
    for number in range(300):
        began = time.perf_counter()
        os.pwrite(fd, bytes(300), number * 300)
        os.fdatasync(fd)
        times.append(time.perf_counter() - began)
    os.close(fd)
    return statistics.median(times) * 1e6


ROWS: dict[str, Callable[[str], float]] = {
    "volatile podrt": volatile_podrt,
    "volatile sqlite synchronous=off": volatile_sqlite,
    "durable podrt, 64 tasks": durable_podrt,
    "durable sqlite, a commit a row": durable_sqlite,
    "durable sqlite, commits grouped by hand": durable_sqlite_grouped,
}


def run(folder: Path, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for number in range(rounds + 1):
        for name, measure in ROWS.items():
            here = folder / "round"
            rate = measure(str(here / "state"))
            shutil.rmtree(here)
            if number:  # the first round warms up
                found[name].append(rate)
    fill(str(folder / "filled"))
    times = [reopen(str(folder / "filled")) for _ in range(rounds + 1)][1:]
    found["reopen 100,000: look up, s"] = [opened for opened, _ in times]
    found["reopen 100,000: decode all, s"] = [decoded for _, decoded in times]
    found["append + fdatasync, us"] = [fsync_floor(str(folder))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="podrt-bench-") as folder:
        found = run(Path(folder), options.rounds)
    middle = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        print(f"{name:42} {middle[name]:12.4g}   ({min(values):.4g} - {max(values):.4g})")
    podrt = middle["durable podrt, 64 tasks"]
    for name in ("a commit a row", "commits grouped by hand"):
        print(f"durable, against sqlite, {name}: {podrt / middle[f'durable sqlite, {name}']:.1f} x")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
