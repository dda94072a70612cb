"""Power is cut at any moment: what was not synced is dropped, torn and reordered."""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.disks import PowerCut, RecordingDisk
from doubles.states import Model, apply, check_indexes, content, random_ops
from doubles.store_work import without_snapshots
from podrt.errors import StoreFailed
from podrt.store import control
from podrt.store.wal import Store

GENERATIONS = 3
SEGMENT_BYTES = 700


class Course:
    """What two processes do to one store, what it held at each sequence, and what was promised.

    The processes are two `Store` objects: everything they share lies in files and shared words.
    """

    def __init__(self, folder: Path, rng: random.Random, states: dict[int, Model]) -> None:
        self.folder = folder
        self.rng = rng
        self.disk = RecordingDisk(folder)
        # The states of sequences that are lost stay possible until somebody writes over them.
        self.states = dict(states)
        self.promises: list[tuple[int, int]] = []
        self.stores: list[Store] = []
        self.seq = 0

    def run(self) -> None:
        piled = self.rng.random() < 0.4
        with contextlib.ExitStack() as stack:
            if piled:
                stack.enter_context(without_snapshots(str(self.folder)))
            stack.callback(self.close)
            self.begin()
            flushes = self.rng.choice([0.05, 0.3])
            # A poisoned store is written anew, and that waits for a snapshot.
            poisons = 0.0 if piled else 0.03
            for _ in range(self.rng.randrange(5, 40)):
                chance = self.rng.random()
                if chance < flushes:
                    self.flush()
                elif chance < flushes + poisons:
                    self.heal()
                elif chance < flushes + poisons + 0.05:
                    self.reopen()
                else:
                    self.transact()
                self.promises.append((len(self.disk.events), self.stores[0].durable))

    def begin(self) -> None:
        store = self.open()
        self.stores.append(store)
        self.seq = store.seq
        assert content(store.tables) == self.states[self.seq]
        # What was found is on the disk, and no repair may lose it again.
        self.promises.append((0, self.seq))
        if self.rng.random() < 0.6:
            self.stores.append(self.open())

    def open(self) -> Store:
        return Store.open(
            str(self.folder),
            disk=self.disk,
            segment_bytes=SEGMENT_BYTES,
            compact_in_background=False,
        )

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.stores.clear()

    def transact(self) -> None:
        ops = random_ops(self.rng)
        before = self.states[self.seq]
        after = apply(before, ops)
        seq = self.rng.choice(self.stores).transact(lambda _: ops)
        # The frame that seals a segment takes a sequence, and changes nothing.
        for number in range(self.seq + 1, seq + 1):
            self.states[number] = after
        self.seq = seq

    def flush(self) -> None:
        store = self.rng.choice(self.stores)
        store.flush_blocking(store.seq)
        assert store.durable >= store.seq

    def reopen(self) -> None:
        self.stores.pop(self.rng.randrange(len(self.stores))).close()
        self.stores.append(self.open())

    def heal(self) -> None:
        words = control.attach(f"{self.folder}/shared")
        assert words is not None
        words.set_poison(errno.EIO)
        for store in self.stores:
            with pytest.raises(StoreFailed):
                store.transact(lambda _: random_ops(self.rng))
        healed = self.open()
        self.close()
        self.stores.append(healed)
        assert content(healed.tables) == self.states[self.seq]
        assert healed.durable >= self.seq

    def cut(self, left: Path) -> int:
        """Leave what the disk may hold after the power went; gives the sequence promised."""
        count = self.rng.randrange(len(self.disk.events) + 1)
        PowerCut(self.disk, count, self.rng).leave(left)
        with contextlib.suppress(FileNotFoundError), open(left / "shared", "r+b") as file:
            # The words are of another boot then, and what else the page holds is anything.
            file.seek(16)
            file.write(self.rng.randbytes(16 + 48))
            file.truncate(self.rng.choice([control.SIZE] * 5 + [100]))
        return max((seq for at, seq in self.promises if at <= count), default=0)


def run_schedule(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    states: dict[int, Model] = {0: {}}
    (folder / "0").mkdir(parents=True)
    for generation in range(GENERATIONS):
        course = Course(folder / str(generation), rng, states)
        course.run()
        left = folder / str(generation + 1)
        promised = course.cut(left)
        states = course.states
        with Store.open(str(left), readonly=True) as reader:
            assert reader.seq >= promised, "something acknowledged is lost"
            assert content(reader.tables) == states[reader.seq]
            check_indexes(reader.tables)
    with Store.open(str(left)) as store:
        assert store.seq == reader.seq
        assert content(store.tables) == states[store.seq]
        check_indexes(store.tables)
        store.flush_blocking(store.transact(lambda _: random_ops(rng)))


def test_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    first = random.SystemRandom().randrange(1 << 32)
    for seed in range(first, first + rounds(150, 10_000)):
        try:
            run_schedule(tmp_path / "s", seed)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        shutil.rmtree(tmp_path / "s")


@pytest.mark.parametrize("seed", range(20))
def test_power_cut_of_known_schedules_loses_nothing(tmp_path: Path, seed: int) -> None:
    run_schedule(tmp_path / "s", seed)
