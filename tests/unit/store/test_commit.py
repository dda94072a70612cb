from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
import trio

from doubles.disks import FailingDisk
from doubles.states import pod
from podrt.errors import StoreFailed
from podrt.store.commit import wait_durable
from podrt.store.disk import Disk
from podrt.store.records import put
from podrt.store.wal import Store


class SlowDisk(Disk):
    """Holds every sync until it is let go."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.is_held = False
        self.syncs = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        if self.is_held:
            self.began.release()
            self.go_on.acquire()
        super().sync(fd)


async def test_wait_durable_of_many_tasks_shares_few_syncs(tmp_path: Path) -> None:
    disk = SlowDisk()
    with Store.open(str(tmp_path / "state"), disk=disk) as store:
        before = disk.syncs

        async def write(number: int) -> None:
            seq = store.transact(lambda _: [put(pod(number))])
            await wait_durable(store, seq)
            assert store.durable >= seq

        async with trio.open_nursery() as nursery:
            for number in range(1, 101):
                nursery.start_soon(write, number)
        assert disk.syncs - before <= 10


async def test_wait_durable_when_the_sync_fails_raises_for_everybody(tmp_path: Path) -> None:
    disk = FailingDisk()
    with Store.open(str(tmp_path / "state"), disk=disk) as store:
        disk.fails = {"sync": errno.EIO}
        failures = 0

        async def write(number: int) -> None:
            nonlocal failures
            seq = store.transact(lambda _: [put(pod(number))])
            await trio.lowlevel.checkpoint()
            with pytest.raises(StoreFailed):
                await wait_durable(store, seq)
            failures += 1

        async with trio.open_nursery() as nursery:
            for number in range(1, 6):
                nursery.start_soon(write, number)
        assert failures == 5


async def test_wait_durable_of_what_is_durable_returns_at_once(tmp_path: Path) -> None:
    disk = SlowDisk()
    with Store.open(str(tmp_path / "state"), disk=disk) as store:
        seq = store.transact(lambda _: [put(pod(1))])
        await wait_durable(store, seq)
        syncs = disk.syncs
        await wait_durable(store, seq)
        assert disk.syncs == syncs


async def test_wait_durable_cancelled_in_the_leader_lets_the_others_go_on(tmp_path: Path) -> None:
    disk = SlowDisk()
    with Store.open(str(tmp_path / "state"), disk=disk) as store:
        seq = store.transact(lambda _: [put(pod(1))])
        disk.is_held = True
        scope = trio.CancelScope()
        was_cancelled = trio.Event()

        async def lead() -> None:
            with scope:
                await wait_durable(store, seq)
            was_cancelled.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lead)
            await trio.to_thread.run_sync(disk.began.acquire)
            scope.cancel()
            await was_cancelled.wait()
            assert scope.cancelled_caught
            nursery.start_soon(wait_durable, store, seq)
            disk.is_held = False
            disk.go_on.release()
        assert store.durable >= seq
