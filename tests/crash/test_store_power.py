"""Power is cut at any moment: what was not synced is dropped, torn and reordered."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles.disks import PowerCut, RecordingDisk
from doubles.states import Model, apply, check_indexes, content, random_ops
from podrt.store.compact import LOCK_NAME
from podrt.store.wal import Store


class History:
    """What was written and what was promised, by sequence."""

    def __init__(self, base: Model, seq: int) -> None:
        self.states: dict[int, Model] = {seq: base}
        self.seq = seq
        self.promises: list[tuple[int, int]] = [(0, seq)]

    def wrote(self, seq: int, state: Model) -> None:
        # The frame that seals a segment takes a sequence and changes nothing.
        before = self.states[self.seq]
        for number in range(self.seq + 1, seq):
            self.states[number] = state if number == self.seq + 1 else before
        self.states[seq] = state
        self.seq = seq

    def promised(self, events: int) -> int:
        """The highest sequence that had been acknowledged after that many events."""
        return max(seq for at, seq in self.promises if at <= events)


@contextlib.contextmanager
def without_snapshots(folder: Path) -> Iterator[None]:
    """Hold what a snapshot needs, so that unsynced segments pile up."""
    folder.mkdir(exist_ok=True)
    fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def work(folder: Path, rng: random.Random, base: Model) -> tuple[RecordingDisk, History]:
    disk = RecordingDisk(folder)
    piled = without_snapshots(folder) if rng.random() < 0.5 else contextlib.nullcontext()
    flushes = rng.choice([0.05, 0.3])
    with (
        piled,
        Store.open(str(folder), disk=disk, segment_bytes=700, compact_in_background=False) as store,
    ):
        assert content(store.tables) == base
        history = History(base, store.seq)
        model = base
        for _ in range(rng.randrange(5, 40)):
            ops = random_ops(rng)
            model = apply(model, ops)
            history.wrote(store.transact(lambda _, ops=ops: ops), model)
            if rng.random() < flushes:
                store.flush_blocking(store.seq)
                history.promises.append((len(disk.events), store.seq))
    return disk, history


def run_schedule(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    base: Model = {}
    for generation in range(3):
        here = folder / str(generation)
        disk, history = work(here, rng, base)
        count = rng.randrange(len(disk.events) + 1)
        left = folder / str(generation + 1)
        PowerCut(disk, count, rng).leave(left)
        with Store.open(str(left), readonly=True) as reader:
            assert content(reader.tables) == history.states[reader.seq]
        with Store.open(str(left)) as store:
            assert store.seq >= history.promised(count), "something acknowledged is lost"
            base = content(store.tables)
            assert base == history.states[store.seq]
            check_indexes(store.tables)
        (left / "shared").unlink()


def test_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    first = random.SystemRandom().randrange(1 << 32)
    for seed in range(first, first + rounds(150, 4000)):
        try:
            run_schedule(tmp_path / "s", seed)
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
        shutil.rmtree(tmp_path / "s")


@pytest.mark.parametrize("seed", range(20))
def test_power_cut_of_known_schedules_loses_nothing(tmp_path: Path, seed: int) -> None:
    run_schedule(tmp_path / "s", seed)
