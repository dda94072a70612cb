from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from doubles.lock_peer import Peer
from podrt.errors import NotFound, RuntimeClosed
from podrt.locks.locks import Locks
from podrt.locks.order import Level, Lock

OWNER = "ab" * 32
OpenLocks = Callable[[], Locks]


def at(index: int) -> Lock:
    """The container lock of that number."""
    return Lock(Level.CONTAINER, OWNER, index)


async def wait_until_waited(locks: Locks, index: int) -> None:
    """Until somebody sleeps on the lock. Nothing tells of that, so look, and let threads run."""
    while not ((entry := locks.table.entry(index)) and entry.waited):
        await trio.sleep(0.0002)


async def test_hold_takes_and_gives_back(open_locks: OpenLocks) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    async with locks.hold(at(index)) as owner_died:
        assert owner_died is False
        assert locks.table.holds(index)
    assert locks.table.holder(index) is None


async def test_hold_gives_back_when_the_body_raises(open_locks: OpenLocks) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    with pytest.raises(ValueError, match="body"):
        async with locks.hold(at(index)):
            raise ValueError("body")
    assert locks.table.holder(index) is None


async def test_hold_is_a_checkpoint(open_locks: OpenLocks) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    with trio.testing.assert_checkpoints():
        async with locks.hold(at(index)):
            pass
    with trio.CancelScope() as scope:
        scope.cancel()
        async with locks.hold(at(index)):
            raise AssertionError("cancelled before it was taken")
    assert locks.table.holder(index) is None


async def test_tasks_of_one_process_are_served_in_order(open_locks: OpenLocks) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    order: list[int] = []
    inside = 0

    async def work(number: int) -> None:
        nonlocal inside
        async with locks.hold(at(index)):
            inside += 1
            assert inside == 1
            await trio.lowlevel.checkpoint()
            order.append(number)
            inside -= 1

    async with trio.open_nursery() as nursery:
        async with locks.hold(at(index)):
            for number in range(200):
                nursery.start_soon(work, number)
                await trio.testing.wait_all_tasks_blocked()
    assert order == list(range(200))
    assert threading.active_count() == 1 or "podrt-locks" not in names_of_threads()


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


async def test_hold_waits_for_another_process(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    events: list[str] = []

    async def wait() -> None:
        async with ours.hold(at(index)) as owner_died:
            events.append(f"ours {owner_died}")

    async with trio.open_nursery() as nursery:
        async with theirs.hold(at(index)):
            nursery.start_soon(wait)
            await wait_until_waited(ours, index)
            assert theirs.table.waiters(index) == [os.getpid()]
            events.append("theirs")
    assert events == ["theirs", "ours False"]
    assert ours.table.holder(index) is None


async def test_many_tasks_of_several_processes_exclude_each_other(
    open_locks: OpenLocks, rounds: Callable[[int, int], int]
) -> None:
    sides = [open_locks(), open_locks(), open_locks()]
    index = sides[0].allocate(OWNER)
    each = rounds(8, 200)
    inside = 0
    order: list[int] = []

    async def work(side: int) -> None:
        nonlocal inside
        async with sides[side].hold(at(index)):
            inside += 1
            assert inside == 1
            await trio.lowlevel.checkpoint()
            inside -= 1
            order.append(side)

    async with trio.open_nursery() as nursery:
        for side in range(3):
            for _ in range(each):
                nursery.start_soon(work, side)
    assert sorted(order) == sorted(side for side in range(3) for _ in range(each))


async def test_process_with_many_tasks_does_not_starve_another(
    open_locks: OpenLocks, start_peer: Callable[[], Peer]
) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    peers = [start_peer(), start_peer()]
    async with locks.hold(at(index)):
        for peer in peers:
            peer.send("hold_many", index, 20)
        while not all(peer.pid in locks.table.waiters(index) for peer in peers):
            await trio.lowlevel.checkpoint()
    turns = sorted((at, number) for number, peer in enumerate(peers) for at in peer.result())
    order = [number for _, number in turns]
    assert len(order) == 40
    assert max(order[:20].count(0), order[:20].count(1)) < 20, order


async def test_killed_holder_hands_over_to_the_waiting_task(
    open_locks: OpenLocks, start_peer: Callable[[], Peer]
) -> None:
    locks = open_locks()
    index = locks.allocate(OWNER)
    peer = start_peer()
    peer.call("acquire_nowait", index)
    seen: list[bool] = []

    async def wait() -> None:
        async with locks.hold(at(index)) as owner_died:
            seen.append(owner_died)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_until_waited(locks, index)
        peer.kill()
    assert seen == [True]


async def test_waiting_is_cancellable_and_leaves_the_lock_alone(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    async with theirs.hold(at(index)):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ours.hold(at(index)).__aenter__)
            await wait_until_waited(ours, index)
            nursery.cancel_scope.cancel()
        assert theirs.table.holds(index)
    async with ours.hold(at(index)):
        pass
    assert ours._turns == {}


async def test_cancelling_the_first_in_line_lets_the_second_go_on(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    got = trio.Event()
    first = trio.CancelScope()

    async def wait_first() -> None:
        with first:
            async with ours.hold(at(index)):
                raise AssertionError("it was cancelled")

    async def wait_second() -> None:
        async with ours.hold(at(index)):
            got.set()

    async with trio.open_nursery() as nursery:
        async with theirs.hold(at(index)):
            nursery.start_soon(wait_first)
            await wait_until_waited(ours, index)
            nursery.start_soon(wait_second)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not got.is_set()
        await got.wait()


async def test_cancelling_at_every_moment_never_loses_the_lock(
    open_locks: OpenLocks, rounds: Callable[[int, int], int]
) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with ours.hold(at(index)):
                pass

    for turn in range(rounds(40, 3000)):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            async with theirs.hold(at(index)):
                nursery.start_soon(wait, scope)
                await wait_until_waited(ours, index)
            for _ in range(turn % 12):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        with trio.fail_after(10):
            async with theirs.hold(at(index)):
                pass
    assert ours._turns == {}


async def test_waiting_blocks_no_loop(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    locks = [ours.allocate(OWNER) for _ in range(300)]
    for index in locks:
        assert theirs.table.acquire_nowait(index) == 1
    turns = 0
    done = trio.Event()

    async def spin() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await trio.lowlevel.checkpoint()

    async def wait(index: int) -> None:
        async with ours.hold(at(index)):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        async with trio.open_nursery() as waiting:
            for index in locks:
                waiting.start_soon(wait, index)
            while len(ours.waiter._waits) < len(locks):
                await trio.lowlevel.checkpoint()
            before = turns
            while turns < before + 100:
                await trio.lowlevel.checkpoint()
            for index in locks:
                theirs.table.release(index)
        done.set()
    assert all(ours.table.holder(index) is None for index in locks)


async def test_close_tells_the_waiting_tasks_and_ends_the_thread(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    raised: list[BaseException] = []

    async def wait() -> None:
        try:
            async with ours.hold(at(index)):
                pass
        except RuntimeClosed as error:
            raised.append(error)

    async with theirs.hold(at(index)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_until_waited(ours, index)
            ours.close()
    assert len(raised) == 1
    assert "podrt-locks" not in names_of_threads()
    with pytest.raises(RuntimeClosed):
        async with ours.hold(at(index)):
            pass


async def test_waiting_ends_with_an_error_when_the_table_goes_away(open_locks: OpenLocks) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)

    async def wait() -> None:
        with pytest.raises(RuntimeClosed):
            async with ours.hold(at(index)):
                pass

    async with theirs.hold(at(index)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_until_waited(ours, index)
            ours.table.close()


async def test_hold_of_no_lock_is_not_found(open_locks: OpenLocks) -> None:
    locks = open_locks()
    for index in (0, 1 << 30):
        with pytest.raises(NotFound):
            async with locks.hold(at(index)):
                pass
    assert locks._turns == {}


async def test_order_of_locking_refuses_a_container_before_its_pod(open_locks: OpenLocks) -> None:
    locks = open_locks()
    assert locks.order is not None, "the suite runs with the debug build's checks"
    numbers = [locks.allocate(OWNER) for _ in range(3)]
    # The greatest number is the pod's: the order is that of the objects.
    first, second = (Lock(Level.CONTAINER, name, numbers.pop(0)) for name in ("a", "b"))
    pod = Lock(Level.POD, "z", numbers[0])
    async with locks.hold(pod), locks.hold(first), locks.hold(second):
        pass
    async with locks.hold(second):
        for lock in (pod, first, second):
            with pytest.raises(AssertionError, match="lock order"):
                async with locks.hold(lock):
                    pass
    assert locks.order.is_idle


async def test_order_of_locking_lets_every_task_hold_its_own(open_locks: OpenLocks) -> None:
    locks = open_locks()
    first, second = (Lock(Level.CONTAINER, OWNER, locks.allocate(OWNER)) for _ in range(2))

    async def hold_first() -> None:
        async with locks.hold(first):
            pass

    async with trio.open_nursery() as nursery:
        async with locks.hold(second):
            nursery.start_soon(hold_first)
            await trio.testing.wait_all_tasks_blocked()
    assert locks.order is not None
    assert locks.order.is_idle


async def test_cancelled_wait_for_a_lock_leaves_the_order_of_locking_idle(
    open_locks: OpenLocks,
) -> None:
    ours, theirs = open_locks(), open_locks()
    index = ours.allocate(OWNER)
    async with theirs.hold(at(index)):
        with trio.move_on_after(0.01):
            async with ours.hold(at(index)):
                pass
    assert ours.order is not None
    assert ours.order.is_idle


async def test_without_the_debug_build_no_order_is_kept(
    open_locks: OpenLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PODRT_DEBUG_LOCKS", "0")
    assert open_locks().order is None


async def test_owners_lists_what_is_allocated(open_locks: OpenLocks) -> None:
    locks = open_locks()
    first, second = locks.allocate("01" * 32), locks.allocate("02" * 32)
    assert list(locks.owners()) == [(first, "01" * 32), (second, "02" * 32)]
    assert locks.free(first, "01" * 32)
    assert list(locks.owners()) == [(second, "02" * 32)]


def deny_futex_waitv() -> None:
    """Makes the call fail with ENOSYS, as on a kernel that lacks it."""
    load, jump, give = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("<HBBI", *line)
        for line in ((load, 0, 0, 0), (jump, 0, 1, 449), (give, 0, 0, 0x00050026),
                     (give, 0, 0, 0x7FFF0000))
    )  # fmt: skip
    code = ctypes.create_string_buffer(program)
    head = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, head, 0, 0) == 0, os.strerror(ctypes.get_errno())


def test_tasks_wait_also_without_futex_waitv() -> None:
    here = os.path.abspath(__file__)
    names = (
        "test_hold_waits_for_another_process",
        "test_killed_holder_hands_over_to_the_waiting_task",
        "test_waiting_is_cancellable_and_leaves_the_lock_alone",
        "test_many_tasks_of_several_processes_exclude_each_other",
    )
    script = (
        "import importlib.util, sys, pytest\n"
        f"spec = importlib.util.spec_from_file_location('held', {here!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module.deny_futex_waitv()\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *(f"{here}::{name}" for name in names)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=os.path.dirname(here),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(names)} passed" in ran.stdout
