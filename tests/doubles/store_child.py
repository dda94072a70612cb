"""Programs that tests run as processes of their own, to be killed while they use the store.

python -m doubles.store_child killed            reads orders, one JSON object a line
python -m doubles.store_child counter FOLDER ID COUNT ACKS
"""

from __future__ import annotations

import gc
import json
import logging
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from doubles import tracer
from doubles.disks import KillingDisk
from doubles.store_work import AFTER, WORKS, Acks, Plan, open_store, write
from podrt._fast import frames
from podrt.store import control
from podrt.store.records import GroupRecord, Op, put
from podrt.store.tables import Tables
from podrt.store.wal import Store


class KillingWords:
    """The shared words; the process kills itself around the `at`th change of one."""

    at = 0
    when = ""
    count = 0

    def __init__(self, buffer: memoryview) -> None:
        self._words = frames.Words(buffer)
        self.load = self._words.load

    def store(self, index: int, value: int) -> None:
        self._around(lambda: self._words.store(index, value))

    def raise_to(self, index: int, value: int) -> None:
        self._around(lambda: self._words.raise_to(index, value))

    def _around(self, change: Callable[[], object]) -> None:
        KillingWords.count += 1
        is_last = KillingWords.count == KillingWords.at
        if is_last and KillingWords.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        change()
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)


def run_around_words(work: Callable[[], None], at: int, when: str, acks: Acks) -> tracer.Outcome:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            KillingWords.at, KillingWords.when, KillingWords.count = at, when, 0
            control.Words = KillingWords  # type: ignore[assignment, misc]
            work()
            acks[2] = KillingWords.count
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return tracer.Outcome(os.waitstatus_to_exitcode(status), acks[2], f"word {when}")


def run_with_torn_writes(folder: str, plan: Plan, acks: Acks, at: int) -> tracer.Outcome:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open_store(folder, KillingDisk(at)) as store:
                write(store, plan, acks, range(AFTER))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return tracer.Outcome(os.waitstatus_to_exitcode(status), 0, "amid a write")


def obey(order: dict[str, Any], acks: Acks) -> tracer.Outcome:
    folder, at, how = order["folder"], order["at"], order["how"]
    work = WORKS[order["work"]]
    plan = Plan(work, order["seed"])

    def run() -> None:
        with work.around():
            work.run(folder, plan, acks)

    if how == "call":
        return tracer.run(run, at)
    if how == "amid":
        return run_with_torn_writes(folder, plan, acks, at)
    return run_around_words(run, at, how, acks)


def serve_killed() -> None:
    # What a child would import is there, no collection of garbage moves a call, and the memory
    # that the children have in common is not copied.
    control.boot_id()
    logging.getLogger()
    gc.freeze()
    gc.disable()
    with mmap.mmap(-1, 4096) as memory, memoryview(memory) as view, view.cast("Q") as acks:
        for line in sys.stdin:
            for place in range(3):
                acks[place] = 0
            outcome = obey(json.loads(line), acks)
            answer = {**outcome._asdict(), "written": acks[0], "durable": acks[1]}
            print(json.dumps(answer), flush=True)


def count_up(folder: str, key: str, count: int, acks_path: str) -> None:
    """Count a group's epoch up, one transaction each; acknowledge to a file."""
    acks = os.open(acks_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def step(tables: Tables) -> list[Op]:
        own = tables.get(GroupRecord, key) or GroupRecord(id=key)
        total = tables.get(GroupRecord, "total") or GroupRecord(id="total")
        return [
            put(GroupRecord(id=key, epoch=own.epoch + 1)),
            put(GroupRecord(id="total", epoch=total.epoch + 1)),
        ]

    with Store.open(folder, segment_bytes=20_000) as store:
        for number in range(count):
            seq = store.transact(step)
            own = store.tables.get(GroupRecord, key)
            assert own is not None
            if number % 3 == 0:
                store.flush_blocking(seq)
            os.write(acks, f"{own.epoch}\n".encode())


if __name__ == "__main__":
    if sys.argv[1] == "killed":
        serve_killed()
    else:
        count_up(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
