"""The walk of a start over random graphs, in many interleavings, with what fails and what dies.

Graph, order, walk and what a container's turn does are the real ones; only the process itself is
played. Trio's schedule is a function of a seed here, so that every interleaving can be repeated.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio._core import _run as trio_run

from podrt.errors import EngineFailed, PodrtError
from podrt.model.container import ContainerConfig, Dependency
from podrt.model.ids import new_id
from podrt.model.states import ContainerState
from podrt.runtime.order import member_graph
from podrt.runtime.start import Starter
from podrt.runtime.walk import Outcomes, walk
from podrt.store.records import ContainerRecord

SCHEDULES = 3
LIMIT = 16
# An example is several starts of up to 200 containers.
fewer = settings(max_examples=settings.default.max_examples // 3)


class Pod(NamedTuple):
    """A graph: each node's needs, which all are earlier nodes; who fails, who dies at once."""

    needs: dict[int, list[int]]
    failing: frozenset[int]
    dying: frozenset[int]


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    count = draw(st.integers(1, 200))
    chance = random.Random(draw(st.integers(0, 2**32)))
    # Up to four edges a node: more of them make long chains of everything.
    density = draw(st.floats(0, 4)) / count
    fails, dies = draw(st.floats(0, 0.1)), draw(st.floats(0, 0.1))
    return Pod(
        {
            node: [need for need in range(node) if chance.random() < density]
            for node in range(count)
        },
        frozenset(node for node in range(count) if chance.random() < fails),
        frozenset(node for node in range(count) if chance.random() < dies),
    )


class World:
    """What a start works with, and the processes it plays."""

    def __init__(self, pod: Pod, chance: random.Random) -> None:
        self.pod = pod
        self.chance = chance
        self.ids = {node: new_id() for node in pod.needs}
        self.numbers = {one: node for node, one in self.ids.items()}
        self.records = {
            self.ids[node]: ContainerRecord(
                id=self.ids[node],
                config=ContainerConfig(
                    name=f"c{node}",
                    image="base",
                    requires=tuple(Dependency(self.ids[need]) for need in needs),
                ),
                run=1,
            )
            for node, needs in pod.needs.items()
        }
        self.states = dict.fromkeys(self.records, ContainerState.CONFIGURED)
        self.started: list[int] = []
        self.at_work = 0
        self.most_at_work = 0

    def context(self) -> Any:
        """As much of a context as a container's turn looks at."""
        tables = SimpleNamespace(get=lambda kind, one: self.records.get(one))
        view = SimpleNamespace(
            refresh=lambda: None,
            state=lambda record: self.states[record.id],
            facts=lambda record: SimpleNamespace(run=0, phase=None),
        )
        return SimpleNamespace(
            store=SimpleNamespace(tables=tables), view=view, locks=SimpleNamespace(hold=held)
        )


@contextlib.asynccontextmanager
async def held(_: object) -> AsyncIterator[None]:
    await trio.lowlevel.checkpoint()
    yield


class PlayedStarter(Starter):
    """A starter whose processes take some steps to start, fail, or die as they begin."""

    def __init__(self, world: World) -> None:
        names = {record.id: record.config.name for record in world.records.values()}
        super().__init__(world.context(), SimpleNamespace(), None, names)  # type: ignore[arg-type]
        self._world = world

    async def _start_process(self, record: ContainerRecord) -> bool:
        world = self._world
        node = world.numbers[record.id]
        assert node not in world.started, f"{node} is started twice"
        world.started.append(node)
        missing = [need for need in world.pod.needs[node] if need not in world.started]
        assert not missing, f"{node} before {missing}"
        world.at_work += 1
        world.most_at_work = max(world.most_at_work, world.at_work)
        for _ in range(world.chance.randrange(4)):
            await trio.lowlevel.checkpoint()
        world.at_work -= 1
        if node in world.pod.failing:
            raise EngineFailed("exec", 2, f"/bin/c{node}")
        is_dead = node in world.pod.dying
        world.states[record.id] = ContainerState.STOPPED if is_dead else ContainerState.RUNNING
        return True


@contextlib.contextmanager
def schedule(seed: int) -> Iterator[None]:
    """Let Trio take tasks that are ready in an order that `seed` decides."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        trio_run._r.setstate(before[1])


async def start(world: World) -> Outcomes:
    starter = PlayedStarter(world)
    graph = member_graph(list(world.records.values()))
    return await walk(
        graph,
        starter.act,
        limiter=trio.CapacityLimiter(LIMIT),
        on_failed_need=starter.failed_need,
    )


def words(world: World, outcomes: Mapping[str, PodrtError | None]) -> dict[int, str]:
    return {world.numbers[one]: str(error or "") for one, error in outcomes.items()}


def expected(pod: Pod) -> dict[int, str]:
    """What must come out, told one after the other: nodes come behind all that they need."""
    found: dict[int, str] = {}
    for node, needs in pod.needs.items():
        failed = [f"c{need}" for need in needs if found[need]]
        dead = [f"c{need}" for need in needs if need in pod.dying]
        if failed:
            told = f"a dependency of container c{node} failed to start: {', '.join(failed)}"
        elif dead:
            told = (
                f"cannot start container c{node}: "
                f"the following dependencies are not running: {', '.join(dead)}"
            )
        elif node in pod.failing:
            told = str(EngineFailed("exec", 2, f"/bin/c{node}"))
        else:
            told = ""
        found[node] = told
    return found


@fewer
@given(pods(), st.integers(0, 2**32))
def test_start_of_any_graph_ends_the_same_in_every_interleaving(pod: Pod, seed: int) -> None:
    wanted = expected(pod)
    running = {node for node, error in wanted.items() if not error and node not in pod.dying}
    tried = {node for node, error in wanted.items() if not error or node in pod.failing}
    for number in range(SCHEDULES):
        world = World(pod, random.Random(seed + number))
        with schedule(seed + number):
            outcomes = trio.run(start, world)
        assert words(world, outcomes) == wanted
        assert list(words(world, outcomes)) != [] and outcomes.keys() == world.records.keys()
        states = {world.numbers[one]: state for one, state in world.states.items()}
        assert {n for n, state in states.items() if state is ContainerState.RUNNING} == running
        assert running <= set(world.started) <= tried
        assert len(world.started) == len(set(world.started))
        assert world.most_at_work <= LIMIT


@fewer
@given(pods(), st.integers(0, 2**32))
def test_start_beside_deaths_at_any_moment_blames_the_dead_and_spares_who_needs_none(
    pod: Pod, seed: int
) -> None:
    pod = pod._replace(dying=frozenset())
    world = World(pod, random.Random(seed))
    killed: set[int] = set()

    async def kill_some() -> None:
        for _ in range(len(pod.needs) // 4 + 1):
            for _ in range(world.chance.randrange(6)):
                await trio.lowlevel.checkpoint()
            alive = [one for one, s in world.states.items() if s is ContainerState.RUNNING]
            if alive:
                victim = world.chance.choice(sorted(alive, key=world.numbers.__getitem__))
                world.states[victim] = ContainerState.STOPPED
                killed.add(world.numbers[victim])

    async def both() -> Outcomes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_some)
            return await start(world)

    with schedule(seed):
        outcomes = words(world, trio.run(both))
    bad: set[int] = set()
    for node, needs in pod.needs.items():
        error = outcomes[node]
        if "not running" in error:
            assert {f"c{need}" for need in needs if need in killed} >= set(
                error.rpartition(": ")[2].split(", ")
            )
        elif "a dependency of" in error:
            assert any(outcomes[need] for need in needs)
        elif error:
            assert node in pod.failing
        if error or node in killed or any(need in bad for need in needs):
            bad.add(node)
        else:
            assert world.states[world.ids[node]] is ContainerState.RUNNING


def test_schedules_of_two_seeds_differ_and_of_one_do_not() -> None:
    """Else the tests above would look at one interleaving only."""
    pod = Pod({node: [] for node in range(20)}, frozenset(), frozenset())
    orders = []
    for seed in (1, 1, 2):
        world = World(pod, random.Random(0))
        with schedule(seed):
            trio.run(start, world)
        orders.append(world.started)
    assert orders[0] == orders[1] != orders[2]
