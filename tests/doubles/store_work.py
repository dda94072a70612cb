"""What a process does to a store while it is killed, and what may be found there afterwards.

A work has a folder prepared for it, which is spoiled after other processes have opened it; then
it runs. `Plan.states[n]` is what the store holds when `n` of the work's own transactions were
written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from typing import Any, NamedTuple
from unittest import mock

from doubles.disks import FailingDisk
from doubles.states import Model, apply, random_ops
from podrt.errors import StoreFailed
from podrt.store import control, records, upgrade
from podrt.store.compact import LOCK_NAME
from podrt.store.disk import REAL_DISK, Disk
from podrt.store.records import MetaRecord
from podrt.store.repair import repair
from podrt.store.segments import segment_path
from podrt.store.wal import Store

BEFORE, AFTER = 12, 12
SEGMENT_BYTES = 900
DAMAGED = 8
"""The transaction that is damaged before a repair."""

Acks = MutableSequence[int]
"""How many transactions were written, and how many of them are on the disk."""


class Plan:
    """The transactions of a seed: those there before, and the work's own."""

    def __init__(self, work: Work, seed: int) -> None:
        rng = random.Random(seed)
        self.before = [random_ops(rng) for _ in range(BEFORE)] if work.has_past else []
        self.own = [random_ops(rng) for _ in range(AFTER)]
        self.flushed = [rng.random() < 0.4 for _ in self.own]
        base: Model = {}
        for number, ops in enumerate(self.before, 1):
            if not (work.is_damaged and number == DAMAGED):
                base = apply(base, ops)
        self.states = [work.seen(base)]
        for ops in self.own:
            self.states.append(apply(self.states[-1], ops))


def _same(model: Model) -> Model:
    return model


class Work(NamedTuple):
    """One course of events; `may_refuse` ones leave others with a store they must reopen."""

    run: Callable[[str, Plan, Acks], None]
    has_past: bool = True
    may_refuse: bool = False
    is_damaged: bool = False
    is_piled: bool = False
    may_have_peer: bool = True
    spoil: Callable[[str], None] = lambda folder: None
    seen: Callable[[Model], Model] = _same
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    segment_bytes: int = SEGMENT_BYTES

    def prepare(self, folder: str, plan: Plan) -> None:
        """Write what is there before."""
        if not plan.before:
            return
        with (
            without_snapshots(folder) if self.is_piled else contextlib.nullcontext(),
            Store.open(
                folder, segment_bytes=self.segment_bytes, compact_in_background=False
            ) as store,
        ):
            for number, ops in enumerate(plan.before):
                seq = store.transact(lambda _, ops=ops: ops)
                if self.is_damaged or number % 5 == 4:
                    store.flush_blocking(seq)


@contextlib.contextmanager
def without_snapshots(folder: str) -> Iterator[None]:
    """Hold what a snapshot needs, so that sealed segments pile up."""
    os.makedirs(folder, exist_ok=True)
    fd = os.open(f"{folder}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def open_store(folder: str, disk: Disk = REAL_DISK, *, in_background: bool = False) -> Store:
    return Store.open(
        folder, disk=disk, segment_bytes=SEGMENT_BYTES, compact_in_background=in_background
    )


def write(store: Store, plan: Plan, acks: Acks, numbers: range) -> None:
    for number in numbers:
        seq = store.transact(lambda _, number=number: plan.own[number])
        acks[0] = number + 1
        if plan.flushed[number]:
            store.flush_blocking(seq)
            acks[1] = number + 1


def go_on(folder: str, plan: Plan, acks: Acks) -> None:
    with open_store(folder) as store:
        write(store, plan, acks, range(AFTER))


def go_on_with_threads(folder: str, plan: Plan, acks: Acks) -> None:
    with open_store(folder, in_background=True) as store:
        write(store, plan, acks, range(AFTER))


def is_refused(call: Callable[[], object], number: int) -> bool:
    try:
        call()
    except StoreFailed as error:
        return error.errno == number
    return False


def meet_a_full_disk(folder: str, plan: Plan, acks: Acks) -> None:
    disk = FailingDisk()
    with open_store(folder, disk) as store:
        write(store, plan, acks, range(3))
        disk.fails, disk.partial = {"write": errno.ENOSPC}, 20
        for _ in range(2):
            assert is_refused(lambda: store.transact(lambda _: plan.own[3]), errno.ENOSPC)
            disk.fails = {}
        open_store(folder).close()
        write(store, plan, acks, range(3, 5))
    with open_store(folder) as store:
        write(store, plan, acks, range(5, AFTER))


def meet_a_failed_sync(folder: str, plan: Plan, acks: Acks) -> None:
    disk = FailingDisk()
    # A snapshot taken just then would have made the transaction durable.
    with Store.open(folder, disk=disk) as store:
        write(store, plan, acks, range(3))
        seq = store.transact(lambda _: plan.own[3])
        acks[0] = 4
        disk.fails = {"sync": errno.EIO}
        assert is_refused(lambda: store.flush_blocking(seq), errno.EIO)
        disk.fails = {}
        assert is_refused(lambda: store.transact(lambda _: plan.own[3]), errno.EIO)
    with open_store(folder) as store:
        acks[1] = 4
        write(store, plan, acks, range(4, AFTER))


def repair_first(folder: str, plan: Plan, acks: Acks) -> None:
    repair(folder)
    go_on(folder, plan, acks)


def poison(folder: str) -> None:
    words = control.attach(f"{folder}/shared")
    assert words is not None
    words.set_poison(errno.EIO)


def tear(folder: str) -> None:
    """Leave half a frame at the end, as a writer that was killed does."""
    newest = max(name for name in os.listdir(folder) if name.startswith("log."))
    with open(f"{folder}/{newest}", "ab") as file:
        file.write(b"\x5a" * 77)


def reboot(folder: str) -> None:
    """Leave the shared words of another boot."""
    with open(f"{folder}/shared", "r+b") as file:
        file.seek(16)
        file.write(bytes(16))


def damage(folder: str) -> None:
    """Break the payload of transaction DAMAGED, which is on the disk."""
    path = segment_path(folder, 1)
    with open(path, "r+b") as file:
        data = file.read()
        at = 64
        for _ in range(DAMAGED - 1):
            at += 40 + (int.from_bytes(data[at + 8 : at + 12], "little") + 7 & ~7)
        file.seek(at + 40)
        file.write(bytes([data[at + 40] ^ 0x40]))


@contextlib.contextmanager
def schema_with(*marks: str) -> Iterator[None]:
    """A podrt whose records are as many schemas newer: each step puts a mark behind META values."""
    old = records.SCHEMA

    def step_of(mark: str) -> upgrade.Step:
        def step(table: int, value: dict[str, Any]) -> dict[str, Any]:
            if table != records.Table.META:
                return value
            return {**value, "value": value.get("value", "") + mark}

        return step

    steps = {old + number: step_of(mark) for number, mark in enumerate(marks)}
    with contextlib.ExitStack() as stack:
        for module in ("records", "upgrade", "segments", "snapshot", "tables", "wal"):
            stack.enter_context(mock.patch(f"podrt.store.{module}.SCHEMA", old + len(marks)))
        stack.enter_context(mock.patch.object(upgrade, "STEPS", {**upgrade.STEPS, **steps}))
        yield


def upgraded(model: Model) -> Model:
    return {
        key: MetaRecord(id=record.id, value=record.value + "+")
        if isinstance(record, MetaRecord)
        else record
        for key, record in model.items()
    }


WORKS: Mapping[str, Work] = {
    "first": Work(go_on, has_past=False, may_have_peer=False),
    "again": Work(go_on),
    "torn": Work(go_on, spoil=tear),
    "sealed": Work(go_on, is_piled=True),
    "threads": Work(go_on_with_threads),
    "reboot": Work(go_on, spoil=reboot, may_have_peer=False),
    "poisoned": Work(go_on, spoil=poison, may_refuse=True),
    "full": Work(meet_a_full_disk, may_refuse=True),
    "failing": Work(meet_a_failed_sync, may_refuse=True),
    "upgrade": Work(go_on, seen=upgraded, around=lambda: schema_with("+"), may_refuse=True),
    "repair": Work(
        repair_first, spoil=damage, is_damaged=True, may_refuse=True, segment_bytes=1 << 20
    ),
}
