"""Operation claims: for how long a verb works on a pod.

A claim is taken under the lock, outlives it, and can be pre-empted. Which verb waits for which is
the caller's table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import TracebackType

import trio

from podrt._fast.locktable import ClaimInfo

from .locks import Locks
from .order import Lock
from .waiter import ClaimEnd, Watch


class Reaction(enum.Enum):
    """What a verb does about a claim that another verb holds. (To refuse is to raise.)"""

    WAIT = "wait"
    PREEMPT = "preempt"


class Claim(Watch):
    """`async with Claim(locks, lock, verb, react=...) as claim:` works as `verb` (1-255).

    `react` is asked about each claim in the way: wait for its end, or pre-empt it (its owner is
    told, and then it is waited for); it may raise to give up. Of several verbs that pre-empt one
    claim the greatest is the one that its owner is told of. Inside, `preempted` is set when
    another verb wants this one to end. The lock is not held inside: take it again, catch up, and
    act only if the state still is what was meant.

    `waited` says that another claim stood before, `owner_died` that the lock's last holder died
    holding it: look at the state again. `void_verb` is the verb of a dead process's claim that
    this one replaced (0: none): its work is half done.
    """

    def __init__(
        self, locks: Locks, lock: Lock, verb: int, *, react: Callable[[ClaimInfo], Reaction]
    ) -> None:
        self.index = lock.number
        self.verb = verb
        self.token = 0
        self.waited = False
        self.owner_died = False
        self.void_verb = 0
        self.preempted = trio.Event()
        self.preempted_by = 0
        self._locks = locks
        self._lock = lock
        self._react = react
        self._scopes: list[trio.CancelScope] = []

    def cancel_when_preempted(self, scope: trio.CancelScope) -> None:
        """Cancels `scope` once another verb pre-empts this claim."""
        self._scopes.append(scope)
        if self.preempted.is_set():
            scope.cancel()

    def set_preempted(self, verb: int) -> None:
        """Tells the task that works under this claim (called by the waiter, in the loop)."""
        self.preempted_by = verb
        self.preempted.set()
        for scope in self._scopes:
            scope.cancel()

    async def __aenter__(self) -> Claim:
        order = self._locks.order
        if order is not None:
            order.enter_claim(self._lock)
        try:
            await self._get()
        except BaseException:
            if order is not None:
                order.leave_claim(self._lock)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._locks.order is not None:
            self._locks.order.leave_claim(self._lock)
        self._locks.waiter.unwatch(self)
        self._locks.table.drop_claim(self.index, self.token)

    async def _get(self) -> None:
        while True:
            async with self._locks.hold(self._lock) as owner_died:
                self.owner_died |= owner_died
                stands = self._take()
            if stands is None:
                break
            self.waited = True
            if self._react(stands) is Reaction.PREEMPT:
                self._locks.table.preempt(self.index, stands.token, self.verb)
            await self._locks.waiter.wait(ClaimEnd(self.index, stands.token))
        self._watch()

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
            self._locks.waiter.watch(self)
        except BaseException:
            table.drop_claim(self.index, self.token)
            raise
        verb = table.preempted_by(self.index, self.token)
        if verb:
            self._locks.waiter.unwatch(self)
            self.set_preempted(verb)
