"""The one thread of a process that sleeps on the table's words, on behalf of its tasks."""

from __future__ import annotations

import abc
import threading
import time

import outcome
import trio

from podrt._fast.locktable import LIVENESS_MS, LockTable
from podrt.errors import RuntimeClosed

# A release that woke another process's sleeper lets that one go first: a local task, which needs
# no waking, would win every time. If the woken one has not come by then, it is not coming.
_YIELD_S = 0.002
_YIELD_STEP_US = 200
_IDLE_US = 1_000_000
_MAIL_ONLY_US = 60_000_000


class Wait(abc.ABC):
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


class Yield:
    """Another process's sleeper was woken: it goes first, if it comes soon."""

    __slots__ = ("_ticket", "_until")

    def __init__(self, ticket: int) -> None:
        self._ticket = ticket
        self._until = time.monotonic() + _YIELD_S

    def lasts(self, table: LockTable, index: int) -> bool:
        """False once somebody has taken the lock, or the time is over."""
        return table.ticket(index) == self._ticket and time.monotonic() < self._until


class LockWait(Wait):
    """Waits for a lock; `first` is whom it lets go first. Its answer is `acquire_waited`'s."""

    def __init__(self, index: int, first: Yield | None) -> None:
        super().__init__(index)
        self._first = first

    def yields(self, table: LockTable) -> bool:
        """True while the one that was woken may still come."""
        if self._first is not None and not self._first.lasts(table, self.index):
            self._first = None
        return self._first is not None

    def poll(self, table: LockTable, look: bool) -> int:
        """1 taken, 2 taken from a dead owner."""
        return table.acquire_waited(self.index, look)

    def undo(self, table: LockTable) -> None:
        """Releases it."""
        table.release(self.index)


class ClaimEnd(Wait):
    """Waits until claim `token` has ended or its owner is dead."""

    def __init__(self, index: int, token: int) -> None:
        super().__init__(index)
        self.token = token

    def poll(self, table: LockTable, look: bool) -> int:
        """1 once it has ended."""
        return 0 if table.claim_stands(self.index, self.token, look) else 1

    def undo(self, table: LockTable) -> None:
        """Does nothing: who sees an end takes nothing."""


class Watch(abc.ABC):
    """Somebody who wants to know when claim `token` of lock `index` is pre-empted."""

    index: int
    token: int

    @abc.abstractmethod
    def set_preempted(self, verb: int) -> None:
        """Called in the loop, once."""


class Waiter:
    """The one thread of this process that sleeps on the table's words."""

    def __init__(self, table: LockTable) -> None:
        self._table = table
        self._mutex = threading.Lock()
        self._waits: dict[Wait, trio.lowlevel.TrioToken] = {}
        self._watches: dict[Watch, trio.lowlevel.TrioToken] = {}
        self._thread: threading.Thread | None = None
        self._closing = False

    async def wait(self, wait: Wait) -> int:
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

    def watch(self, claim: Watch) -> None:
        """Sets the claim's event once another verb pre-empts it.

        Needs no poke, as the thread always sleeps on the mail; what came before is the caller's.
        """
        with self._mutex:
            self._ensure_thread()
            self._watches[claim] = trio.lowlevel.current_trio_token()

    def unwatch(self, claim: Watch) -> None:
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

    def _sleep(self, waits: list[Wait], mail: int, timeout_us: int) -> None:
        locks: list[int] = []
        claims: list[int] = []
        for wait in waits:
            if wait.yields(self._table):
                timeout_us = min(timeout_us, _YIELD_STEP_US)
                continue
            timeout_us = min(timeout_us, LIVENESS_MS * 1000)
            (locks if isinstance(wait, LockWait) else claims).append(wait.index)
        self._table.wait_any(locks, claims, mail, timeout_us)

    def _answer(self, wait: Wait, look: bool) -> bool:
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

    def _deliver(self, wait: Wait, answer: outcome.Outcome[int]) -> None:
        task, wait.task = wait.task, None
        if task is None:
            self._undo(wait, answer)
        else:
            trio.lowlevel.reschedule(task, answer)

    def _undo(self, wait: Wait, answer: outcome.Outcome[int]) -> None:
        if isinstance(answer, outcome.Value):
            wait.undo(self._table)

    def _notify(self, claim: Watch) -> None:
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
