"""Locks and operation claims for Trio tasks, on the table all podrt processes share.

Tasks of one process queue for a lock here, first come first served; only the first of them asks
the table. What is free is taken without leaving the loop. What another process holds is left to
one thread, which sleeps on all wanted words at once, takes the lock on the task's behalf and
tells the loop. The thread starts when it is first needed and ends when it has nothing to do.

A lock is held for moments. A claim says for how long a verb works on a pod: it is taken under
the lock, outlives it, and can be pre-empted. Which verb waits for which is the caller's table.

Reading (`podrt.runtime.view`) needs neither, and must not import this module: it imports Trio.
"""

from __future__ import annotations

import abc
import enum
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import outcome
import trio

from podrt._fast.locktable import LIVENESS_MS, ClaimInfo, LockTable
from podrt.errors import RuntimeClosed

Rank = tuple[int, str]

POD_LEVEL = 0
CONTAINER_LEVEL = 1

# A release that woke another process's sleeper lets that one go first: a local task, which needs
# no waking, would win every time. If the woken one has not come by then, it is not coming.
_YIELD_S = 0.002
_YIELD_STEP_US = 200
# Most yields are used up at once; those of locks that nobody here wants again are few and tiny.
_MAX_YIELDS = 256
_IDLE_US = 1_000_000
_MAIL_ONLY_US = 60_000_000


class Reaction(enum.Enum):
    """What a verb does about a claim that another verb holds. (To refuse is to raise.)"""

    WAIT = "wait"
    PREEMPT = "preempt"


class _Wait(abc.ABC):
    """A task that waits for something in the table; the thread asks `poll` until it answers."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.task: trio.lowlevel.Task | None = None

    def yields(self, table: LockTable) -> bool:
        """True while somebody else is to go first, so that there is nothing to sleep on yet."""
        return False

    @abc.abstractmethod
    def poll(self, table: LockTable, look: bool) -> int:
        """The answer, 0 while there is none; `look` allows asking whether owners live."""

    @abc.abstractmethod
    def undo(self, table: LockTable) -> None:
        """Gives back what `poll` took for a task that no longer wants it."""


class _Yield:
    """Another process's sleeper was woken: it goes first, if it comes soon."""

    __slots__ = ("_ticket", "_until")

    def __init__(self, ticket: int) -> None:
        self._ticket = ticket
        self._until = time.monotonic() + _YIELD_S

    def lasts(self, table: LockTable, index: int) -> bool:
        """False once somebody has taken the lock, or the time is over."""
        return table.ticket(index) == self._ticket and time.monotonic() < self._until


class _LockWait(_Wait):
    def __init__(self, index: int, first: _Yield | None) -> None:
        super().__init__(index)
        self._first = first

    def yields(self, table: LockTable) -> bool:
        if self._first is not None and not self._first.lasts(table, self.index):
            self._first = None
        return self._first is not None

    def poll(self, table: LockTable, look: bool) -> int:
        return table.acquire_waited(self.index, look)

    def undo(self, table: LockTable) -> None:
        table.release(self.index)


class _ClaimEnd(_Wait):
    def __init__(self, index: int, token: int) -> None:
        super().__init__(index)
        self.token = token

    def poll(self, table: LockTable, look: bool) -> int:
        return 0 if table.claim_stands(self.index, self.token, look) else 1

    def undo(self, table: LockTable) -> None:
        """Seeing an end takes nothing."""


class _Waiter:
    """The one thread of this process that sleeps on the table's words."""

    def __init__(self, table: LockTable) -> None:
        self._table = table
        self._mutex = threading.Lock()
        self._waits: dict[_Wait, trio.lowlevel.TrioToken] = {}
        self._watches: dict[Claim, trio.lowlevel.TrioToken] = {}
        self._thread: threading.Thread | None = None
        self._closing = False

    async def wait(self, wait: _Wait) -> int:
        """Waits, cancellably, for what `wait.poll` answers."""
        wait.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            wait.task = None
            with self._mutex:
                self._waits.pop(wait, None)
            # The thread may be asleep on this word, and would use up a wake-up meant for others.
            self._table.poke()
            return trio.lowlevel.Abort.SUCCEEDED

        with self._mutex:
            self._ensure_thread()
            self._waits[wait] = trio.lowlevel.current_trio_token()
        self._table.poke()
        answer: int = await trio.lowlevel.wait_task_rescheduled(abort)
        return answer

    def watch(self, claim: Claim) -> None:
        """Sets the claim's event once another verb pre-empts it.

        Needs no poke, as the thread always sleeps on the mail; what came before is the caller's.
        """
        with self._mutex:
            self._ensure_thread()
            self._watches[claim] = trio.lowlevel.current_trio_token()

    def unwatch(self, claim: Claim) -> None:
        """The claim has ended."""
        with self._mutex:
            self._watches.pop(claim, None)

    def close(self) -> None:
        """Ends the thread; every task that still waits gets RuntimeClosed."""
        with self._mutex:
            self._closing = True
            thread = self._thread
            left, self._waits = self._waits, {}
        if thread is not None and thread.is_alive():
            self._table.poke()
            thread.join()
        for wait in left:
            self._deliver(wait, outcome.Error(RuntimeClosed()))

    def _ensure_thread(self) -> None:
        if self._closing:
            raise RuntimeClosed()
        # A forked child has the object but not the thread.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="podrt-locks", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The table cannot be slept on: who waits is told why; a later wait tries again."""
        with self._mutex:
            self._thread = None
            left, self._waits = self._waits, {}
        for wait, token in left.items():
            try:
                token.run_sync_soon(self._deliver, wait, outcome.Error(error))
            except trio.RunFinishedError:
                continue

    def _serve(self) -> None:
        """Sleeps on everything wanted; the mail moves with each poke and each pre-emption.

        The mail is read before the lists, so whatever is added or pre-empted after that makes
        the sleep return at once.
        """
        next_look = 0.0
        last_mail = -1
        was_idle = False
        while True:
            mail = self._table.mail()
            with self._mutex:
                waits = list(self._waits)
                watches = list(self._watches)
                if self._closing or (was_idle and not waits and not watches):
                    self._thread = None
                    return
            now = time.monotonic()
            look = now >= next_look
            if look:
                next_look = now + LIVENESS_MS / 1000
            for claim in watches if mail != last_mail else ():
                self._notify(claim)
            last_mail = mail
            waits = [wait for wait in waits if not self._answer(wait, look)]
            was_idle = not waits and not watches
            self._sleep(waits, mail, _IDLE_US if was_idle else _MAIL_ONLY_US)

    def _sleep(self, waits: list[_Wait], mail: int, timeout_us: int) -> None:
        locks: list[int] = []
        claims: list[int] = []
        for wait in waits:
            if wait.yields(self._table):
                timeout_us = min(timeout_us, _YIELD_STEP_US)
                continue
            timeout_us = min(timeout_us, LIVENESS_MS * 1000)
            (locks if isinstance(wait, _LockWait) else claims).append(wait.index)
        self._table.wait_any(locks, claims, mail, timeout_us)

    def _answer(self, wait: _Wait, look: bool) -> bool:
        if wait.yields(self._table):
            return False
        answer = outcome.capture(wait.poll, self._table, look)
        if isinstance(answer, outcome.Value) and not answer.value:
            return False
        with self._mutex:
            token = self._waits.pop(wait, None)
        try:
            if token is not None:
                token.run_sync_soon(self._deliver, wait, answer)
                return True
        except trio.RunFinishedError:
            pass
        self._undo(wait, answer)
        return True

    def _deliver(self, wait: _Wait, answer: outcome.Outcome[int]) -> None:
        task, wait.task = wait.task, None
        if task is None:
            self._undo(wait, answer)
        else:
            trio.lowlevel.reschedule(task, answer)

    def _undo(self, wait: _Wait, answer: outcome.Outcome[int]) -> None:
        if isinstance(answer, outcome.Value):
            wait.undo(self._table)

    def _notify(self, claim: Claim) -> None:
        verb = self._table.preempted_by(claim.index, claim.token)
        if not verb:
            return
        with self._mutex:
            token = self._watches.pop(claim, None)
        if token is not None:
            try:
                token.run_sync_soon(claim.set_preempted, verb)
            except trio.RunFinishedError:
                pass


class _Order:
    """Asserts, in a debug build, that every task takes its locks in rising rank."""

    def __init__(self) -> None:
        self._held: dict[trio.lowlevel.Task, list[Rank]] = {}

    def check(self, rank: Rank) -> None:
        """May the task take a lock of `rank`?"""
        held = self._held.get(trio.lowlevel.current_task())
        if held and rank <= max(held):
            raise AssertionError(f"lock order: {rank} is asked for while {max(held)} is held")

    def enter(self, rank: Rank) -> None:
        """The task holds, or waits for, a lock of `rank`."""
        self.check(rank)
        self._held.setdefault(trio.lowlevel.current_task(), []).append(rank)

    def leave(self, rank: Rank) -> None:
        """The task has given it back, or did not get it."""
        task = trio.lowlevel.current_task()
        self._held[task].remove(rank)
        if not self._held[task]:
            del self._held[task]


class Hold:
    """`async with locks.hold(index) as owner_died:`; see `Locks.hold`."""

    __slots__ = ("_index", "_locks", "_rank")

    def __init__(self, locks: Locks, index: int, rank: Rank | None) -> None:
        self._locks = locks
        self._index = index
        self._rank = rank

    async def __aenter__(self) -> bool:
        return await self._locks._enter(self._index, self._rank)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locks._leave(self._index, self._rank)


class Held:
    """A lock that `Locks.try_hold` took: `with held as owner_died:` gives it back at the end."""

    __slots__ = ("_index", "_locks", "_owner_died", "_rank")

    def __init__(self, locks: Locks, index: int, rank: Rank | None, owner_died: bool) -> None:
        self._locks = locks
        self._index = index
        self._rank = rank
        self._owner_died = owner_died

    def __enter__(self) -> bool:
        return self._owner_died

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locks._leave(self._index, self._rank)


class Claim:
    """An operation claim; see `Locks.claim`.

    `waited` says that another claim stood before, `owner_died` that the lock's last holder died
    holding it: look at the state again. `void_verb` is the verb of a dead process's claim that
    this one replaced (0: none): its work is half done.
    """

    def __init__(
        self,
        locks: Locks,
        index: int,
        verb: int,
        *,
        react: Callable[[ClaimInfo], Reaction],
        rank: Rank | None,
    ) -> None:
        self.index = index
        self.verb = verb
        self.token = 0
        self.waited = False
        self.owner_died = False
        self.void_verb = 0
        self.preempted = trio.Event()
        self.preempted_by = 0
        self._locks = locks
        self._react = react
        self._rank = rank
        self._scopes: list[trio.CancelScope] = []

    def cancel_when_preempted(self, scope: trio.CancelScope) -> None:
        """Cancels `scope` once another verb pre-empts this claim."""
        self._scopes.append(scope)
        if self.preempted.is_set():
            scope.cancel()

    def set_preempted(self, verb: int) -> None:
        """Tells the task that works under this claim (called by `Locks`, in the loop)."""
        self.preempted_by = verb
        self.preempted.set()
        for scope in self._scopes:
            scope.cancel()

    async def __aenter__(self) -> Claim:
        while True:
            async with self._locks.hold(self.index, rank=self._rank) as owner_died:
                self.owner_died |= owner_died
                stands = self._take()
            if stands is None:
                break
            self.waited = True
            if self._react(stands) is Reaction.PREEMPT:
                self._locks.table.preempt(self.index, stands.token, self.verb)
            await self._locks._waiter.wait(_ClaimEnd(self.index, stands.token))
        self._watch()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._locks._waiter.unwatch(self)
        self._locks.table.drop_claim(self.index, self.token)

    def _take(self) -> ClaimInfo | None:
        """Takes the claim under the lock; what stands in the way if it cannot."""
        table = self._locks.table
        while True:
            before = table.read_claim(self.index)
            self.token = table.claim(self.index, self.verb)
            if self.token:
                self.void_verb = before.verb if before is not None else 0
                return None
            stands = table.read_claim(self.index)
            if stands is not None:
                return stands

    def _watch(self) -> None:
        table = self._locks.table
        try:
            self._locks._waiter.watch(self)
        except BaseException:
            table.drop_claim(self.index, self.token)
            raise
        verb = table.preempted_by(self.index, self.token)
        if verb:
            self._locks._waiter.unwatch(self)
            self.set_preempted(verb)


class Locks:
    """The run root's locks for the tasks of one Trio run; `async with` closes them."""

    def __init__(self, table: LockTable) -> None:
        self.table = table
        self._waiter = _Waiter(table)
        # Every lock a task here holds or waits for, and the tasks behind that one.
        self._turns: dict[int, trio.lowlevel.ParkingLot | None] = {}
        self._yields: dict[int, _Yield] = {}
        self._order = _Order() if os.environ.get("PODRT_DEBUG_LOCKS") == "1" else None

    @classmethod
    def open(cls, path: str) -> Locks:
        """The locks of the table at `path`, which is made if there is none.

        Raises: StoreCorrupt, StoreFailed, LimitReached.
        """
        return cls(LockTable.open(path))

    def close(self) -> None:
        """Ends the waiter thread and leaves the table; locks still held count as abandoned."""
        self._waiter.close()
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

    def hold(self, index: int, *, rank: Rank | None = None) -> Hold:
        """`async with locks.hold(index) as owner_died:` holds lock `index`.

        `owner_died` says that the process that held it last died holding it: read the state
        again. `rank` is (POD_LEVEL or CONTAINER_LEVEL, ID); with PODRT_DEBUG_LOCKS=1 every task
        must take its locks in rising rank, which is what keeps them free of deadlocks.
        """
        return Hold(self, index, rank)

    def try_hold(self, index: int, *, rank: Rank | None = None) -> Held | None:
        """Takes lock `index` if that needs no waiting: a context manager, else None."""
        if index in self._turns:
            return None
        if self._order is not None and rank is not None:
            self._order.check(rank)
        got = self.table.acquire_nowait(index)
        if not got:
            return None
        self._turns[index] = None
        if self._order is not None and rank is not None:
            self._order.enter(rank)
        return Held(self, index, rank, got == 2)

    def claim(
        self,
        index: int,
        verb: int,
        *,
        react: Callable[[ClaimInfo], Reaction],
        rank: Rank | None = None,
    ) -> Claim:
        """`async with locks.claim(index, verb, react=...) as claim:` works as `verb` (1-255).

        `react` is asked about each claim in the way: wait for its end, or pre-empt it (its owner
        is told, and then it is waited for); it may raise to give up. Inside, `claim.preempted`
        is set when another verb wants this one to end. The lock is not held inside: take it
        again, catch up, and act only if the state still is what was meant.
        """
        return Claim(self, index, verb, react=react, rank=rank)

    async def _enter(self, index: int, rank: Rank | None) -> bool:
        if self._order is not None and rank is not None:
            self._order.enter(rank)
        try:
            await trio.lowlevel.checkpoint()
            await self._wait_turn(index)
            return await self._acquire(index)
        except BaseException:
            if self._order is not None and rank is not None:
                self._order.leave(rank)
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
                got = await self._waiter.wait(_LockWait(index, first))
        except BaseException:
            self._pass_turn(index)
            raise
        return got == 2

    def _leave(self, index: int, rank: Rank | None) -> None:
        if self._order is not None and rank is not None:
            self._order.leave(rank)
        try:
            ticket = self.table.ticket(index)
            if self.table.release(index) and len(self._yields) < _MAX_YIELDS:
                self._yields[index] = _Yield(ticket)
        finally:
            self._pass_turn(index)

    def _pass_turn(self, index: int) -> None:
        lot = self._turns[index]
        if lot:
            lot.unpark()
        else:
            del self._turns[index]
