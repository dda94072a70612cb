"""Processes that use the store are killed: nothing written is lost, nothing is half there."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import podrt
from doubles.states import apply, check_indexes, content
from doubles.store_work import WORKS, Plan, Work, open_store
from podrt.errors import StoreCorrupt, StoreFailed, Unsupported
from podrt.store.records import GroupRecord, put
from podrt.store.repair import repair
from podrt.store.wal import Store

TESTS = Path(__file__).parent.parent
SOURCES = Path(podrt.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{SOURCES}:{TESTS}"}
COMMAND = [sys.executable, "-m", "doubles.store_child"]
SIGKILLED = -9
PEER = put(GroupRecord(id="peer", epoch=1))
LATER = put(GroupRecord(id="later", epoch=1))


class Point(NamedTuple):
    """Where a child is killed. `how` is "call", "amid", or "before" or "after" of a shared word."""

    work: str
    seed: int
    how: str
    at: int
    has_peer: bool


Order = Callable[[Point, Path], dict[str, Any]]


@pytest.fixture(scope="module")
def order() -> Iterator[Order]:
    """Has the work of a point done by a child that is killed there; what came of it."""
    with subprocess.Popen(
        [*COMMAND, "killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(point: Point, folder: Path) -> dict[str, Any]:
            print(
                json.dumps({**point._asdict(), "folder": str(folder)}),
                file=process.stdin,
                flush=True,
            )
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield run
        process.stdin.close()


class Trial:
    """One child at one point, and what it leaves to its peer and to those who come later."""

    def __init__(self, folder: Path, point: Point, template: Path) -> None:
        self.folder = folder
        self.point = point
        self.work: Work = WORKS[point.work]
        self.plan = Plan(self.work, point.seed)
        if template.exists():
            shutil.copytree(template, folder)

    def run(self, order: Order) -> dict[str, Any]:
        if self.point.has_peer:
            with open_store(str(self.folder)) as peer:
                return self._run(order, peer)
        return self._run(order, None)

    def _run(self, order: Order, peer: Store | None) -> dict[str, Any]:
        self.work.spoil(str(self.folder))
        answer = order(self.point, self.folder)
        assert answer["code"] in (SIGKILLED, 0), answer
        written = answer["written"]
        # The transaction at work may or may not have made it.
        self.allowed = self.plan.states[written : written + 2]
        has_written = peer is not None and self._peer_goes_on(peer)
        if has_written:
            self.allowed = [apply(state, [PEER]) for state in self.allowed]
        with self.work.around():
            self._come_later(peer)
        return answer

    def _peer_goes_on(self, peer: Store) -> bool:
        """Whether the one that had the store open all the time was acknowledged something."""
        try:
            peer.flush_blocking(peer.transact(lambda _: [PEER]))
        except (StoreFailed, Unsupported):
            assert self.work.may_refuse
            return False
        if not self.work.may_refuse:
            assert content(peer.tables) in [apply(state, [PEER]) for state in self.allowed]
            check_indexes(peer.tables)
        return True

    def _come_later(self, peer: Store | None) -> None:
        folder = str(self.folder)
        try:
            store = open_store(folder)
        except StoreCorrupt:
            assert self.work.is_damaged
            repair(folder)
            store = open_store(folder)
        with store:
            found = content(store.tables)
            assert found in self.allowed
            check_indexes(store.tables)
            store.flush_blocking(store.transact(lambda _: [LATER]))
            expected = apply(found, [LATER])
            assert content(store.tables) == expected
            if peer is not None and self.point.work != "upgrade":
                peer.catch_up()
                assert content(peer.tables) == expected
        with Store.open(folder, readonly=True) as reader:
            assert content(reader.tables) == expected
            check_indexes(reader.tables)


class Kills:
    """Runs trials in a folder; says at which point one failed."""

    def __init__(self, folder: Path, order: Order) -> None:
        self.folder = folder
        self.order = order

    def template(self, work: str, seed: int) -> Path:
        path = self.folder / f"{work}.{seed}"
        if not path.exists():
            WORKS[work].prepare(str(path), Plan(WORKS[work], seed))
        return path

    def at(self, point: Point) -> dict[str, Any]:
        folder = self.folder / "state"
        try:
            trial = Trial(folder, point, self.template(point.work, point.seed))
            answer = trial.run(self.order)
        except (Exception, pytest.fail.Exception) as error:
            raise AssertionError(f"{point}: {error!r}") from error
        shutil.rmtree(folder)
        return answer


@pytest.fixture
def kills(tmp_path: Path, order: Order) -> Kills:
    return Kills(tmp_path, order)


def points_of(kills: Kills, work: str, seed: int, how: str) -> list[Point]:
    """All the points of a work, found by letting it run to its end."""
    count = kills.at(Point(work, seed, how, 0, False))["points"]
    rng = random.Random(f"{work}{seed}{how}")
    may = WORKS[work].may_have_peer
    return [Point(work, seed, how, at, may and rng.random() < 0.5) for at in range(1, count + 1)]


def chosen(points: list[Point], count: int, rng: random.Random) -> list[Point]:
    return points if count >= len(points) else rng.sample(points, count)


@pytest.mark.parametrize("work", WORKS)
def test_a_process_killed_at_any_system_call_leaves_all_it_acknowledged_and_nothing_half(
    work: str, kills: Kills, rounds: Callable[[int, int], int]
) -> None:
    rng = random.SystemRandom()
    seed = rng.randrange(1 << 32)
    points = points_of(kills, work, seed, "call")
    # Those that only look at it are points, too: together they are thousands.
    assert len(points) > 200
    calls = set()
    for point in chosen(points, rounds(12, 1 << 20), rng):
        answer = kills.at(point)
        # A course of events with threads is not the same each time, nor one with a peer.
        assert answer["code"] == SIGKILLED or point.has_peer or work == "threads", point
        calls.add(answer["last"])
    assert len(calls) > 1


@pytest.mark.parametrize("work", WORKS)
def test_a_process_killed_around_any_change_of_a_shared_word_leaves_all_it_acknowledged(
    work: str, kills: Kills, rounds: Callable[[int, int], int]
) -> None:
    rng = random.SystemRandom()
    seed = rng.randrange(1 << 32)
    points = points_of(kills, work, seed, "before")
    points += [point._replace(how="after") for point in points]
    assert len(points) > 20
    for point in chosen(points, rounds(4, 1 << 20), rng):
        answer = kills.at(point)
        assert answer["code"] == SIGKILLED or point.has_peer or work == "threads", point


def test_a_process_killed_amid_a_write_leaves_all_it_acknowledged(
    kills: Kills, rounds: Callable[[int, int], int]
) -> None:
    rng = random.SystemRandom()
    for _ in range(rounds(15, 500)):
        seed = rng.randrange(1 << 32)
        kills.at(Point("again", seed, "amid", rng.randrange(1, 30), rng.random() < 0.5))
        shutil.rmtree(kills.template("again", seed))


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
