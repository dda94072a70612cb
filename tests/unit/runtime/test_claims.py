"""What a verb does to another one on the same pod: every cell of the table, in two processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from doubles.claim_peer import ClaimPeer, context_at
from podrt.errors import Busy
from podrt.locks.order import Level
from podrt.model.container import ContainerConfig
from podrt.model.ids import new_id
from podrt.model.pod import PodConfig
from podrt.model.verbs import PREEMPTS, Verb
from podrt.runtime.claims import claim, group_lock, lock_of
from podrt.runtime.context import Context
from podrt.store.records import ContainerRecord, PodRecord, Put

# Source: semantics.md section 5: a second verb waits, stop pre-empts start, kill and rm --force
# pre-empt all; but on a pod that is being removed only rm works, and nobody ends his own kind.
# A line is the standing verb, a column the coming one: x ends it, . waits for it.
EXPECTED = """
             CREATE START STOP RESTART KILL REMOVE FORCE_REMOVE PAUSE SETTLE UPDATE
CREATE       .      .     .    .       x    .      x            .     .      .
START        .      .     x    .       x    .      x            .     .      .
STOP         .      .     .    .       x    .      x            .     .      .
RESTART      .      .     x    .       x    .      x            .     .      .
KILL         .      .     .    .       .    .      x            .     .      .
REMOVE       .      .     .    .       .    .      x            .     .      .
FORCE_REMOVE .      .     .    .       .    .      .            .     .      .
PAUSE        .      .     .    .       x    .      x            .     .      .
SETTLE       .      .     .    .       x    .      x            .     .      .
UPDATE       .      .     .    .       x    .      x            .     .      .
"""
HEADS, *LINES = (line.split() for line in EXPECTED.strip().splitlines())
CELLS = {
    (Verb[line[0]], Verb[head]): mark == "x"
    for line in LINES
    for head, mark in zip(HEADS, line[1:], strict=True)
}
Pair = tuple[Verb, Verb]

every_cell = pytest.mark.parametrize(
    ("standing", "coming"), list(CELLS), ids=[f"{one.name}-{other.name}" for one, other in CELLS]
)


class Stage:
    """A root with a pod per cell, and a process that works as the standing verb on each."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.pods = {pair: new_id() for pair in CELLS}
        with context_at(folder) as ctx:
            records = [
                PodRecord(
                    id=pod, config=PodConfig(name=self.name(pair)), lock=ctx.locks.allocate(pod)
                )
                for pair, pod in self.pods.items()
            ]
            ctx.record(lambda _: [Put(record) for record in records])

    def name(self, pair: Pair) -> str:
        return "-".join(verb.name.lower() for verb in pair)

    def start_peer(self) -> ClaimPeer:
        return ClaimPeer(self.folder, {pod: pair[0] for pair, pod in self.pods.items()})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(str(tmp_path_factory.mktemp("claims")))


@pytest.fixture(scope="module")
def living(stage: Stage) -> Iterator[ClaimPeer]:
    with stage.start_peer() as peer:
        yield peer


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A stage on which the standing process was killed."""
    stage = Stage(str(tmp_path_factory.mktemp("claims_of_the_dead")))
    with stage.start_peer() as peer:
        peer.kill()
    return stage


def test_every_pair_of_verbs_has_a_cell() -> None:
    assert CELLS.keys() == {(standing, coming) for standing in Verb for coming in Verb}
    assert PREEMPTS.keys() == set(Verb)


def test_numbers_of_preempting_verbs_rise_with_what_they_end() -> None:
    ending = sorted(verb for verb in Verb if PREEMPTS[verb])
    assert ending == [Verb.STOP, Verb.KILL, Verb.FORCE_REMOVE]
    assert all(PREEMPTS[weaker] < PREEMPTS[stronger] for weaker, stronger in pairwise(ending))


@every_cell
async def test_coming_verb_ends_or_awaits_the_standing_one(
    stage: Stage, living: ClaimPeer, standing: Verb, coming: Verb
) -> None:
    pod = stage.pods[standing, coming]
    is_in = trio.Event()

    async def come() -> None:
        async with claim(ctx, pod, coming):
            is_in.set()

    with trio.fail_after(30), context_at(stage.folder) as ctx:
        table, index = ctx.locks.table, group_lock(ctx, pod).number
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            if CELLS[standing, coming]:
                await is_in.wait()
                told = f"pod {stage.name((standing, coming))} is busy: ended by {coming.words}"
                assert living.end_of(pod) == told
                return
            while not table.claim_waiters(index):
                await trio.lowlevel.checkpoint()
            assert not is_in.is_set()
            stands = table.read_claim(index)
            assert stands is not None
            assert (stands.verb, stands.holder.pid, stands.preempted_by) == (
                standing, living.pid, 0
            )  # fmt: skip
            living.finish(pod)
            assert living.end_of(pod) == "done"
            await is_in.wait()


@every_cell
async def test_claim_of_a_killed_process_is_void_to_every_verb(
    dead: Stage, standing: Verb, coming: Verb
) -> None:
    pod = dead.pods[standing, coming]
    with context_at(dead.folder) as ctx:
        before = ctx.locks.table.read_claim(group_lock(ctx, pod).number)
        assert before is not None
        assert (before.verb, before.holder.alive) == (standing, False)
        with trio.fail_after(30):
            async with claim(ctx, pod, coming):
                now = ctx.locks.table.read_claim(group_lock(ctx, pod).number)
    assert now is not None
    assert (now.verb, now.holder.alive) == (coming, True)


async def test_verb_that_two_verbs_want_to_end_ends_once_and_both_follow(tmp_path: Path) -> None:
    order: list[str] = []
    with contextlib.ExitStack() as stack:
        first, second, third = (stack.enter_context(context_at(str(tmp_path))) for _ in range(3))
        pod = PodRecord(
            id=new_id(), config=PodConfig(name="shop"), lock=first.locks.allocate("ab" * 32)
        )
        first.record(lambda _: [Put(pod)])

        async def work(ctx: Context, verb: Verb) -> None:
            ctx.view.refresh()
            async with claim(ctx, pod.id, verb):
                order.append(verb.words)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                with pytest.raises(Busy, match=r"pod shop is busy: ended by (stop|rm --force)"):
                    async with claim(first, pod.id, Verb.START):
                        with trio.CancelScope(shield=True):
                            nursery.start_soon(work, second, Verb.STOP)
                            await until_marked(first, pod, Verb.STOP)
                            nursery.start_soon(work, third, Verb.FORCE_REMOVE)
                            await until_marked(first, pod, Verb.FORCE_REMOVE)
                        await trio.sleep_forever()
    assert sorted(order) == ["rm --force", "stop"]


async def until_marked(ctx: Context, pod: PodRecord, verb: Verb) -> None:
    while (stands := ctx.locks.table.read_claim(pod.lock)) and stands.preempted_by != verb:
        await trio.lowlevel.checkpoint()


def test_locks_of_pods_come_before_those_of_containers() -> None:
    pod = PodRecord(id="f" * 64, config=PodConfig(name="shop"), lock=9)
    container = ContainerRecord(
        id="0" * 64, config=ContainerConfig(name="web", image="base"), lock=3
    )
    assert lock_of(pod) == (Level.POD, pod.id, 9)
    assert lock_of(container) == (Level.CONTAINER, container.id, 3)
    assert sorted([lock_of(container), lock_of(pod)]) == [lock_of(pod), lock_of(container)]
