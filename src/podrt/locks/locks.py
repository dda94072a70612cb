"""The locks all podrt processes of a run root share, for Trio tasks.

Tasks of one process queue for a lock here, first come first served; only the first of them asks
the table. What is free is taken without leaving the loop. What another process holds is left to
one thread, which sleeps on all wanted words at once, takes the lock on the task's behalf and
tells the loop. The thread starts when it is first needed and ends when it has nothing to do.

A lock is held for moments; for as long as a verb works there are claims (`claim`).

Reading (`podrt.runtime.view`) needs neither, and must not import this room: it imports Trio.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

import trio

from podrt._fast.locktable import LockTable

from .order import Lock, Order
from .waiter import LockWait, Waiter, Yield

# Most yields are used up at once; those of locks that nobody here wants again are few and tiny.
_MAX_YIELDS = 256


class Hold:
    """`async with locks.hold(lock) as owner_died:`; see `Locks.hold`."""

    __slots__ = ("_lock", "_locks")

    def __init__(self, locks: Locks, lock: Lock) -> None:
        self._locks = locks
        self._lock = lock

    async def __aenter__(self) -> bool:
        return await self._locks._enter(self._lock)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locks._leave(self._lock)


class Locks:
    """The run root's locks for the tasks of one Trio run; `async with` closes them.

    With PODRT_DEBUG_LOCKS=1 the order in which tasks take them is asserted (`order`).
    """

    def __init__(self, table: LockTable) -> None:
        self.table = table
        self.waiter = Waiter(table)
        self.order = Order() if os.environ.get("PODRT_DEBUG_LOCKS") == "1" else None
        # Every lock a task here holds or waits for, and the tasks behind that one.
        self._turns: dict[int, trio.lowlevel.ParkingLot | None] = {}
        self._yields: dict[int, Yield] = {}

    @classmethod
    def open(cls, path: str) -> Locks:
        """The locks of the table at `path`, which is made if there is none.

        Raises: StoreCorrupt, StoreFailed, LimitReached.
        """
        return cls(LockTable.open(path))

    def close(self) -> None:
        """Ends the waiter thread and leaves the table; locks still held count as abandoned."""
        self.waiter.close()
        self.table.close()

    async def __aenter__(self) -> Locks:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def allocate(self, owner_id: str) -> int:
        """A lock for the pod or container with this ID (64 hex digits): its index, never 0."""
        return self.table.allocate(bytes.fromhex(owner_id))

    def free(self, index: int, owner_id: str) -> bool:
        """Gives the lock back; False when it is not allocated for that ID (any more)."""
        return self.table.free(index, bytes.fromhex(owner_id))

    def owners(self) -> Iterator[tuple[int, str]]:
        """Every allocated lock and the ID it was allocated for."""
        for entry in self.table.entries():
            if entry.state == "allocated":
                yield entry.lock, entry.owner_id.hex()

    def repair(self) -> int:
        """Finishes what dead processes left half allocated or half freed: how many came back."""
        return self.table.repair()

    def hold(self, lock: Lock) -> Hold:
        """`async with locks.hold(lock) as owner_died:` holds a lock.

        `owner_died` says that the process that held it last died holding it: read the state
        again. Every task must take its locks in rising order.
        """
        return Hold(self, lock)

    async def _enter(self, lock: Lock) -> bool:
        if self.order is not None:
            self.order.enter(lock)
        try:
            await trio.lowlevel.checkpoint()
            await self._wait_turn(lock.number)
            return await self._acquire(lock.number)
        except BaseException:
            if self.order is not None:
                self.order.leave(lock)
            raise

    async def _wait_turn(self, index: int) -> None:
        if index not in self._turns:
            self._turns[index] = None
            return
        lot = self._turns[index]
        if lot is None:
            lot = self._turns[index] = trio.lowlevel.ParkingLot()
        await lot.park()

    async def _acquire(self, index: int) -> bool:
        try:
            first = self._yields.pop(index, None) if self._yields else None
            if first is not None and not first.lasts(self.table, index):
                first = None
            got = 0 if first is not None else self.table.acquire_nowait(index)
            if not got:
                got = await self.waiter.wait(LockWait(index, first))
        except BaseException:
            self._pass_turn(index)
            raise
        return got == 2

    def _leave(self, lock: Lock) -> None:
        if self.order is not None:
            self.order.leave(lock)
        index = lock.number
        try:
            ticket = self.table.ticket(index)
            if self.table.release(index) and len(self._yields) < _MAX_YIELDS:
                self._yields[index] = Yield(ticket)
        finally:
            self._pass_turn(index)

    def _pass_turn(self, index: int) -> None:
        lot = self._turns[index]
        if lot:
            lot.unpark()
        else:
            del self._turns[index]
