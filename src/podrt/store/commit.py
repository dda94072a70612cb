"""Waiting for the disk under Trio: whoever comes first leads, everybody else is carried along."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import trio

from .wal import Store


class _Group:
    """Who waits for one store's disk in this process."""

    def __init__(self) -> None:
        self.has_leader = False
        self.turn = trio.Event()
        self.limiter = trio.CapacityLimiter(4)


_groups: WeakKeyDictionary[Store, _Group] = WeakKeyDictionary()


async def wait_durable(store: Store, seq: int) -> None:
    """Return once everything up to `seq` is on disk. One thread hop serves all who wait.

    May be cancelled; the write goes on to the disk all the same.
    Raises: StoreFailed when the disk refused, in this process or in another.
    """
    await trio.lowlevel.checkpoint()
    group = _groups.get(store)
    if group is None:
        group = _groups[store] = _Group()
    while store.durable < seq:
        store.check()
        if group.has_leader:
            await group.turn.wait()
        else:
            await _lead(store, group, seq)


async def _lead(store: Store, group: _Group, seq: int) -> None:
    group.has_leader = True
    try:
        # Abandoned when cancelled: a disk may take seconds, and the next leader's thread
        # queues behind this one.
        await trio.to_thread.run_sync(
            store.flush_blocking, seq, abandon_on_cancel=True, limiter=group.limiter
        )
    finally:
        group.has_leader = False
        turn, group.turn = group.turn, trio.Event()
        turn.set()
