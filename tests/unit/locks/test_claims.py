from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import trio
import trio.testing

from doubles.lock_peer import Peer
from podrt._fast.locktable import ClaimInfo, LockTable
from podrt.errors import Busy, InternalError
from podrt.locks.claim import Claim, Reaction
from podrt.locks.locks import Locks
from podrt.locks.order import Level, Lock

OWNER = "ab" * 32
START, STOP, KILL = 2, 3, 5
OpenLocks = Callable[[], Locks]
React = Callable[[ClaimInfo], Reaction]


def claiming(locks: Locks, index: int, verb: int, *, react: React) -> Claim:
    return Claim(locks, Lock(Level.POD, OWNER, index), verb, react=react)


def react_wait(claim: ClaimInfo) -> Reaction:
    return Reaction.WAIT


def react_preempt(claim: ClaimInfo) -> Reaction:
    return Reaction.PREEMPT


def test_claim_needs_the_lock_and_a_verb(table: LockTable) -> None:
    index = table.allocate(b"a" * 32)
    with pytest.raises(InternalError):
        table.claim(index, START)
    table.acquire_nowait(index)
    with pytest.raises(InternalError):
        table.claim(index, 0)


def test_claim_outlives_the_lock_and_stands_in_the_way(table: LockTable) -> None:
    other = LockTable.open(table.path)
    index = table.allocate(b"a" * 32)
    table.acquire_nowait(index)
    token = table.claim(index, START)
    table.release(index)
    other.acquire_nowait(index)
    assert other.claim(index, STOP) == 0
    stands = other.read_claim(index)
    assert stands is not None
    assert (stands.verb, stands.token, stands.holder.alive) == (START, token, True)
    assert table.drop_claim(index, token)
    assert not table.drop_claim(index, token)
    assert other.claim(index, STOP) != 0
    other.close()


def test_dead_owners_claim_is_void(table: LockTable, start_peer: Callable[[], Peer]) -> None:
    index = table.allocate(b"a" * 32)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    token = peer.call("claim", index, START)
    peer.call("release", index)
    assert table.claim_stands(index, token)
    peer.kill()
    assert not table.claim_stands(index, token)
    stands = table.read_claim(index)
    assert stands is not None
    assert (stands.verb, stands.holder.alive) == (START, False)
    table.acquire_nowait(index)
    assert table.claim(index, STOP)


def test_preempting_marks_the_claim_but_does_not_end_it(table: LockTable) -> None:
    index = table.allocate(b"a" * 32)
    table.acquire_nowait(index)
    token = table.claim(index, START)
    mail = table.mail()
    assert table.preempt(index, token, STOP)
    assert table.mail() == mail + 1
    assert table.preempted_by(index, token) == STOP
    assert table.claim_stands(index, token)
    assert table.drop_claim(index, token), "the mark does not change whose it is"
    assert not table.preempt(index, token, KILL)
    assert table.preempted_by(index, token) == 0


def test_old_token_does_not_end_a_later_claim(table: LockTable) -> None:
    index = table.allocate(b"a" * 32)
    table.acquire_nowait(index)
    first = table.claim(index, START)
    table.drop_claim(index, first)
    second = table.claim(index, START)
    assert first != second
    assert not table.drop_claim(index, first)
    assert table.claim_stands(index, second)


@pytest.mark.parametrize(
    ("told", "then", "left"), [(STOP, KILL, KILL), (KILL, STOP, KILL), (STOP, STOP, STOP)]
)
def test_weaker_verb_does_not_replace_a_stronger_ones_mark(
    table: LockTable, told: int, then: int, left: int
) -> None:
    index = table.allocate(b"a" * 32)
    table.acquire_nowait(index)
    token = table.claim(index, START)
    assert table.preempt(index, token, told)
    mail = table.mail()
    assert table.preempt(index, token, then)
    assert table.preempted_by(index, token) == left
    assert table.mail() - mail == (told != left), "who was told of that much is not told again"


def test_racing_preemptions_leave_the_strongest_mark(
    table: LockTable, start_peer: Callable[[], Peer], rounds: Callable[[int, int], int]
) -> None:
    index = table.allocate(b"a" * 32)
    table.acquire_nowait(index)
    peers = [start_peer() for _ in range(2)]
    for turn in range(rounds(20, 2000)):
        token = table.claim(index, START)
        verbs = [1 + (turn * 37 + step * 101) % 255 for step in range(20)]
        for number, peer in enumerate(peers):
            peer.send("preempt_by_all", index, token, verbs[number::2])
        for peer in peers:
            peer.result()
        assert table.preempted_by(index, token) == max(verbs)
        table.drop_claim(index, token)


def test_allocating_a_lock_again_ends_its_old_claim(table: LockTable) -> None:
    index = table.allocate(b"a" * 32)
    table.acquire_nowait(index)
    token = table.claim(index, START)
    table.free(index, b"a" * 32)
    assert table.allocate(b"b" * 32) == index
    assert table.read_claim(index) is None
    assert not table.drop_claim(index, token)


async def test_second_verb_waits_and_learns_that_it_waited(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    order: list[str] = []

    async def second(locks: Locks) -> None:
        async with claiming(locks, index, STOP, react=react_wait) as claim:
            order.append("second")
            assert claim.waited

    for locks in (ours, theirs):
        async with trio.open_nursery() as nursery:
            async with claiming(ours, index, START, react=react_wait) as claim:
                nursery.start_soon(second, locks)
                await trio.testing.wait_all_tasks_blocked()
                assert not claim.waited
                assert ours.table.holder(index) is None, "a claim does not hold the lock"
                order.append("first")
    assert order == ["first", "second"] * 2
    assert ours.table.read_claim(index) is None


async def test_stronger_verb_preempts_and_then_waits(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    order: list[str] = []

    async def stop(locks: Locks) -> None:
        async with claiming(locks, index, STOP, react=react_preempt):
            order.append("stop")

    for locks in (ours, theirs):
        async with trio.open_nursery() as nursery:
            async with claiming(ours, index, START, react=react_wait) as claim:
                nursery.start_soon(stop, locks)
                await claim.preempted.wait()
                assert claim.preempted_by == STOP
                order.append("start")
    assert order == ["start", "stop"] * 2


async def test_preempted_claim_cancels_its_scopes(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)

    async def kill() -> None:
        async with claiming(theirs, index, KILL, react=react_preempt):
            pass

    async with trio.open_nursery() as nursery:
        async with claiming(ours, index, START, react=react_wait) as claim:
            with trio.CancelScope() as scope:
                claim.cancel_when_preempted(scope)
                nursery.start_soon(kill)
                await trio.sleep_forever()
            assert scope.cancelled_caught
            with trio.CancelScope() as late:
                claim.cancel_when_preempted(late)
                await trio.sleep_forever()


async def test_claim_of_a_killed_process_is_taken_over_naming_its_verb(
    open_locks: OpenLocks, start_peer: Callable[[], Peer]
) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    peer.call("claim", index, START)
    peer.call("release", index)

    async def kill_soon() -> None:
        while not locks.waiter._waits:
            await trio.lowlevel.checkpoint()
        peer.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_soon)
        async with claiming(locks, index, STOP, react=react_wait) as claim:
            assert (claim.waited, claim.void_verb) == (True, START)


async def test_reaction_may_refuse(open_locks: OpenLocks) -> None:
    locks, theirs = open_locks(), open_locks()
    index = locks.allocate(OWNER)

    def refuse(claim: ClaimInfo) -> Reaction:
        raise Busy("pod shop", f"pid {claim.holder.pid}")

    async with claiming(theirs, index, START, react=react_wait):
        with pytest.raises(Busy, match="pod shop is busy: pid"):
            async with claiming(locks, index, STOP, react=refuse):
                pass
    assert locks.table.holder(index) is None
    assert locks.order is not None
    assert locks.order.is_idle


async def test_waiting_for_a_claim_is_cancellable(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    async with claiming(theirs, index, START, react=react_wait) as claim:
        with trio.move_on_after(0.01) as scope:
            async with claiming(ours, index, STOP, react=react_wait):
                pass
        assert scope.cancelled_caught
        assert theirs.table.claim_stands(index, claim.token)
    async with claiming(ours, index, STOP, react=react_wait):
        pass


async def test_many_verbs_get_their_turn_one_at_a_time(open_locks: OpenLocks) -> None:
    sides = [open_locks(), open_locks()]
    index = sides[0].allocate(OWNER)
    inside = 0
    done = 0

    async def work(locks: Locks) -> None:
        nonlocal inside, done
        async with claiming(locks, index, START, react=react_wait):
            inside += 1
            assert inside == 1
            await trio.lowlevel.checkpoint()
            inside -= 1
            done += 1

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(work, sides[number % 2])
    assert done == 30


async def test_claim_is_not_asked_for_with_a_lock_in_hand(open_locks: OpenLocks) -> None:
    locks = open_locks()
    index, other = locks.allocate(OWNER), locks.allocate(OWNER)
    async with locks.hold(Lock(Level.CONTAINER, OWNER, other)):
        with pytest.raises(AssertionError, match="a claim is asked for"):
            async with claiming(locks, index, START, react=react_wait):
                pass
    async with claiming(locks, other, START, react=react_wait):
        with pytest.raises(AssertionError, match="claim order"):
            async with claiming(locks, index, START, react=react_wait):
                pass
        async with locks.hold(Lock(Level.POD, OWNER, other)):
            pass
    assert locks.order is not None
    assert locks.order.is_idle


async def test_waiting_for_a_claim_shows_who_waits(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)

    async def wait() -> None:
        async with claiming(ours, index, STOP, react=react_wait):
            pass

    async with trio.open_nursery() as nursery:
        async with claiming(theirs, index, START, react=react_wait):
            assert theirs.table.claim_waiters(index) == []
            nursery.start_soon(wait)
            while not theirs.table.claim_waiters(index):
                await trio.lowlevel.checkpoint()
            assert theirs.table.claim_waiters(index) == [os.getpid()]
            assert theirs.table.waiters(index) == []
