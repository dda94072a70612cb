"""P11: the store against SQLite doing the same rows, and how fast a full one opens.

Volatile: one small put a transaction, one writer. Durable: 64 Trio tasks, each waits for the disk
before its next transaction. SQLite (WAL, synchronous=FULL) writes the same bytes under the same
IDs from one worker thread: once with a commit for every row, which is what its users write, and
once with all queued rows in one commit, which is group commit made by hand. Opening: a state of
100,000 records is opened and one of them looked up by name; then every one of them is decoded.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable
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

from .harness import Contender, Row, Target
from .stage import Stage

TASKS = 64
VOLATILE, QUICK_VOLATILE = 50_000, 10_000
DURABLE, QUICK_DURABLE = 8_000, 2_000
RECORDS, QUICK_RECORDS = 100_000, 20_000
GROWTH = (1_000, 10_000, 100_000)
PER_POD = 9
VOLATILE_GOAL_US = 20.0
OPEN_GOAL_MS = 500.0
SQL = "insert into container values (?, ?) on conflict (id) do update set value = excluded.value"

_encode = msgspec.msgpack.Encoder().encode


def container(number: int, pod_id: str = "") -> ContainerRecord:
    config = ContainerConfig(name=f"container{number}", image="busybox", command=("sleep", "inf"))
    facts = Facts(run=1, phase=Phase.RUNNING, pid=1000 + number, start_ticks=12345)
    return ContainerRecord(
        id=new_id(), config=config, pod_id=pod_id, lock=number, wanted="running", facts=facts
    )


class Bench:
    """A folder that every measurement fills anew."""

    def __init__(self, folder: Path, *, is_quick: bool) -> None:
        self.folder = folder
        one = container(1)
        volatile = QUICK_VOLATILE if is_quick else VOLATILE
        self.transitions = [msgspec.structs.replace(one, run=run) for run in range(volatile)]
        self.containers = [
            container(number) for number in range(QUICK_DURABLE if is_quick else DURABLE)
        ]

    def settle(self) -> None:
        shutil.rmtree(self.folder)

    def open_sqlite(self, synchronous: str) -> sqlite3.Connection:
        self.folder.mkdir()
        db = sqlite3.connect(self.folder / "db", isolation_level=None, check_same_thread=False)
        db.execute("pragma journal_mode=wal")
        db.execute(f"pragma synchronous={synchronous}")
        db.execute("create table container (id text primary key, value blob)")
        return db

    def volatile_ms(self) -> float:
        with Store.open(str(self.folder)) as store:
            start = time.perf_counter()
            for record in self.transitions:
                store.transact(lambda _, record=record: (put(record),))
            return (time.perf_counter() - start) * 1_000

    def volatile_sqlite_ms(self) -> float:
        db = self.open_sqlite("off")
        start = time.perf_counter()
        for record in self.transitions:
            db.execute(SQL, (record.id, _encode(record)))
        spent = time.perf_counter() - start
        db.close()
        return spent * 1_000

    def in_tasks_ms(self, write: Callable[[ContainerRecord], Awaitable[None]]) -> float:
        async def task(first: int) -> None:
            for record in self.containers[first::TASKS]:
                await write(record)

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                for first in range(TASKS):
                    nursery.start_soon(task, first)

        start = time.perf_counter()
        trio.run(run)
        return (time.perf_counter() - start) * 1_000

    def durable_ms(self) -> float:
        with Store.open(str(self.folder)) as store:

            async def write(record: ContainerRecord) -> None:
                await wait_durable(store, store.transact(lambda _: (put(record),)))

            return self.in_tasks_ms(write)

    def durable_sqlite_ms(self) -> float:
        db = self.open_sqlite("full")
        limiter = trio.CapacityLimiter(1)

        async def write(record: ContainerRecord) -> None:
            row = (record.id, _encode(record))
            await trio.to_thread.run_sync(db.execute, SQL, row, limiter=limiter)

        try:
            return self.in_tasks_ms(write)
        finally:
            db.close()

    def grouped_sqlite_ms(self) -> float:
        db = self.open_sqlite("full")
        lock = trio.Lock()
        queue: list[tuple[tuple[str, bytes], trio.Event]] = []

        def commit(rows: list[tuple[str, bytes]]) -> None:
            db.execute("begin immediate")
            db.executemany(SQL, rows)
            db.execute("commit")

        async def write(record: ContainerRecord) -> None:
            done = trio.Event()
            queue.append(((record.id, _encode(record)), done))
            async with lock:
                if done.is_set():
                    return
                batch = queue[:]
                queue.clear()
                await trio.to_thread.run_sync(commit, [row for row, _ in batch])
                for _, event in batch:
                    event.set()

        try:
            return self.in_tasks_ms(write)
        finally:
            db.close()


class Full:
    """A state of many records, opened again and again."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = str(folder)
        self.count = count
        with Store.open(self.folder) as store:
            for first in range(0, count, PER_POD + 1):
                pod = PodRecord(id=new_id(), config=PodConfig(name=f"pod{first}"))
                members = [container(first + n, pod.id) for n in range(PER_POD)]
                store.transact(lambda _, pod=pod, members=members: map(put, (pod, *members)))

    def open_ms(self) -> float:
        start = time.perf_counter()
        with Store.open(self.folder, readonly=True) as store:
            store.tables.find(ContainerRecord, f"container{self.count // 2 + 1}")
            return (time.perf_counter() - start) * 1_000

    def decode_ms(self) -> float:
        start = time.perf_counter()
        with Store.open(self.folder, readonly=True) as store:
            count = sum(1 for kind in (PodRecord, ContainerRecord) for _ in store.tables.all(kind))
        assert count == self.count
        return (time.perf_counter() - start) * 1_000


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file."""
    if "P11" not in wanted:
        return []
    bench = Bench(stage.folder / "store", is_quick=stage.is_quick)
    records = QUICK_RECORDS if stage.is_quick else RECORDS
    counts = [count for count in GROWTH if count < records] + [records]
    states = [Full(stage.folder / f"full{count}", count) for count in counts]
    full = states[-1]
    volatile = len(bench.transitions)
    where = f"none: files on {os.uname().sysname}'s page cache and one disk"
    return [
        Row(
            key="P11 volatile",
            work=f"{volatile} transitions of a container, not waited for",
            isolation=where,
            contenders=[
                Contender("podrt", bench.volatile_ms, bench.settle),
                Contender("SQLite, synchronous=OFF", bench.volatile_sqlite_ms, bench.settle),
                Contender("50,000 a second", lambda: volatile * VOLATILE_GOAL_US / 1_000),
            ],
            targets=[Target("podrt", "50,000 a second", 1.0, "at least 50,000 a second")],
            divide_by=volatile,
        ),
        Row(
            key="P11 durable",
            work=f"{len(bench.containers)} rows from {TASKS} tasks, each on the disk",
            isolation=where,
            contenders=[
                Contender("podrt", bench.durable_ms, bench.settle),
                Contender("SQLite, a commit a row", bench.durable_sqlite_ms, bench.settle),
                Contender("SQLite, grouped by hand", bench.grouped_sqlite_ms, bench.settle),
            ],
            targets=[Target("podrt", "SQLite, a commit a row", 1 / 5, "at least 5 times faster")],
            divide_by=len(bench.containers),
        ),
        Row(
            key="P11 open",
            work=f"open a state of {full.count} records",
            isolation=where,
            contenders=[
                Contender("podrt, one looked up by name", full.open_ms),
                Contender("podrt, all decoded", full.decode_ms),
                Contender("0.5 s", lambda: OPEN_GOAL_MS),
            ],
            targets=[Target("podrt, one looked up by name", "0.5 s", 1.0, "at most 0.5 s")],
        ),
        Row(
            key="P11 growth",
            work="open a state of ever more records, one looked up by name",
            isolation=where,
            contenders=[
                Contender(
                    f"podrt, {state.count} records", state.open_ms, series="podrt", at=state.count
                )
                for state in states
            ],
            targets=[],
            grows_by="records",
        ),
    ]
