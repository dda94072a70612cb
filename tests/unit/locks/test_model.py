"""Random operations of several processes on one table, against a plain dictionary."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any, Protocol

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from doubles.lock_peer import Peer, PeerError
from doubles.plain_locktable import PlainClaim, PlainProcess, PlainTable
from podrt._fast.locktable import LockTable
from podrt.errors import InternalError

OWNERS = st.sampled_from([bytes([65 + number]) * 32 for number in range(4)])
ACTORS = st.integers(min_value=0, max_value=3)
VERBS = st.integers(min_value=1, max_value=255)


class Actor(Protocol):
    """Somebody with the table open."""

    def ask(self, name: str, *args: Any) -> Any: ...

    def die(self, path: str) -> Actor: ...

    def close(self) -> None: ...


class InsideActor:
    """A table of this process's own; it dies by leaving without giving back."""

    def __init__(self, path: str) -> None:
        self._table = LockTable.open(path)

    def ask(self, name: str, *args: Any) -> Any:
        return getattr(self._table, name)(*args)

    def die(self, path: str) -> Actor:
        self._table.close()
        return InsideActor(path)

    def close(self) -> None:
        self._table.close()


class PeerActor:
    """A process; one is kept over many runs, and killed in some."""

    spare: list[Peer] = []  # noqa: RUF012

    def __init__(self, path: str) -> None:
        self._peer = self.spare.pop() if self.spare else Peer(path)
        self._peer.call("reopen", path)

    def ask(self, name: str, *args: Any) -> Any:
        plain = [arg.hex() if isinstance(arg, bytes) else arg for arg in args]
        try:
            return self._peer.call(name, *plain)
        except PeerError as error:
            if error.kind == "InternalError":
                raise InternalError(str(error)) from None
            raise

    def die(self, path: str) -> Actor:
        self._peer.kill()
        return PeerActor(path)

    def close(self) -> None:
        self.spare.append(self._peer)


class LockTableMachine(RuleBasedStateMachine):
    """Two tables of this process and two other processes, on one file."""

    locks = Bundle("locks")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = tempfile.mkdtemp(prefix="podrt_test_locks_", dir=base)
        self.path = f"{self.folder}/locks"
        self.plain = PlainTable()
        self.watcher = LockTable.open(self.path)
        kinds = (InsideActor, InsideActor, PeerActor, PeerActor)
        self.actors: list[Actor] = [kind(self.path) for kind in kinds]
        self.processes = [PlainProcess() for _ in kinds]
        self.kills = 0

    def teardown(self) -> None:
        for actor in self.actors:
            actor.close()
        self.watcher.close()
        shutil.rmtree(self.folder)

    @rule(target=locks, actor=ACTORS, owner=OWNERS)
    def allocate(self, actor: int, owner: bytes) -> int:
        index = self.actors[actor].ask("allocate", owner)
        assert index == self.plain.allocate(owner)
        return int(index)

    @rule(actor=ACTORS, index=locks, owner=OWNERS)
    def free(self, actor: int, index: int, owner: bytes) -> None:
        assert self.actors[actor].ask("free", index, owner) == self.plain.free(index, owner)

    @rule(actor=ACTORS, index=locks)
    def acquire(self, actor: int, index: int) -> None:
        got = self.actors[actor].ask("acquire_nowait", index)
        assert got == self.plain.acquire(self.processes[actor], index)

    @rule(actor=ACTORS, index=locks)
    def release(self, actor: int, index: int) -> None:
        if self.plain.release(self.processes[actor], index):
            assert self.actors[actor].ask("release", index) is False, "nobody sleeps here"
        else:
            with pytest.raises(InternalError):
                self.actors[actor].ask("release", index)

    @rule(target=claims, actor=ACTORS, index=locks, verb=VERBS)
    def claim(self, actor: int, index: int, verb: int) -> tuple[int, int, PlainClaim | None]:
        process = self.processes[actor]
        if self.plain.lock(index).holder is not process:
            with pytest.raises(InternalError):
                self.actors[actor].ask("claim", index, verb)
            return index, 0, None
        token = self.actors[actor].ask("claim", index, verb)
        claim = self.plain.claim(process, index, verb)
        assert bool(token) == (claim is not None)
        return index, token, claim

    @rule(actor=ACTORS, taken=consumes(claims))
    def drop(self, actor: int, taken: tuple[int, int, PlainClaim | None]) -> None:
        index, token, claim = taken
        if claim is not None:
            dropped = self.actors[actor].ask("drop_claim", index, token)
            assert dropped == self.plain.drop(index, claim)

    @rule(actor=ACTORS, taken=claims, verb=VERBS)
    def preempt(self, actor: int, taken: tuple[int, int, PlainClaim | None], verb: int) -> None:
        index, token, claim = taken
        if claim is not None:
            told = self.actors[actor].ask("preempt", index, token, verb)
            assert told == self.plain.preempt(index, claim, verb)

    @rule(actor=ACTORS)
    def die(self, actor: int) -> None:
        if isinstance(self.actors[actor], PeerActor):
            self.kills += 1
            if self.kills > 1:  # starting a process takes as long as everything else together
                return
        self.processes[actor].is_alive = False
        self.processes[actor] = PlainProcess()
        self.actors[actor] = self.actors[actor].die(self.path)

    @rule()
    def repair(self) -> None:
        assert self.watcher.repair() == 0, "every death here was between two calls"

    @invariant()
    def table_shows_what_the_dictionary_holds(self) -> None:
        real = {entry.lock: entry for entry in self.watcher.entries()}
        for index, lock in self.plain.locks.items():
            entry = real.pop(index, None)
            if entry is None:
                assert not lock.owner_id
                assert lock.holder is None
                continue
            assert entry.owner_id == (lock.owner_id or bytes(32))
            holder = entry.holder
            assert (holder is None) == (lock.holder is None)
            if holder is not None and lock.holder is not None:
                assert holder.alive == lock.holder.is_alive
            assert (entry.claim is None) == (lock.claim is None)
            if entry.claim is not None and lock.claim is not None:
                assert entry.claim.verb == lock.claim.verb
                assert entry.claim.preempted_by == lock.claim.preempted_by
                assert entry.claim.holder.alive == lock.claim.owner.is_alive
        assert real == {}


@pytest.mark.timeout(1800)
def test_random_operations_of_several_processes_match_the_dictionary() -> None:
    try:
        run_state_machine_as_test(LockTableMachine)
    finally:
        while PeerActor.spare:
            PeerActor.spare.pop().close()
