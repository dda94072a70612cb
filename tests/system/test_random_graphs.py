"""Random graphs on the real engine: what fails and what dies is blamed on nobody else.

The same as unit/runtime/test_start_walk.py says of every interleaving, for those that the kernel
makes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from doubles.agreement import check_kernel
from doubles.commands import BUSYBOX
from doubles.places import SLEEP, Place, open_place
from podrt.errors import PodrtError, WalkFailed
from podrt.model.container import ContainerConfig, Dependency
from podrt.model.pod import PodConfig
from podrt.model.states import ContainerState
from podrt.runtime.pod import Pod
from podrt.store.journal import Kind, read_journal

pytestmark = [
    pytest.mark.skipif(not BUSYBOX, reason="needs busybox"),
    pytest.mark.timeout(1800),
]

Needs = Mapping[int, list[int]]
# What a container runs, by what becomes of it.
PROGRAMS = {"lives": SLEEP, "fails": ("/bin/none",), "dies": ("/bin/false",)}


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


def random_pod(count: int, seed: int) -> tuple[Needs, dict[int, str]]:
    """Each node's needs, and what becomes of it."""
    chance = random.Random(seed)
    density = chance.choice((0.5, 1, 2)) / count
    needs = {n: [need for need in range(n) if chance.random() < density] for n in range(count)}
    fates = chance.choices(list(PROGRAMS), weights=(90, 5, 5), k=count)
    return needs, dict(enumerate(fates))


async def make(place: Place, needs: Needs, fates: Mapping[int, str]) -> Pod:
    config = PodConfig(name="shop", cgroup_parent=place.cgroup_parent)
    members = [
        ContainerConfig(
            name=f"c{node}",
            image="base",
            command=PROGRAMS[fates[node]],
            requires=tuple(Dependency(f"c{need}") for need in wanted),
            stop_timeout_s=0,
        )
        for node, wanted in needs.items()
    ]
    return await place.runtime.create_pod(config, members)


async def start(pod: Pod) -> dict[int, PodrtError | None]:
    try:
        outcomes = await pod.start()
    except WalkFailed as exc:
        outcomes = exc.outcomes
    names = {one.id: one.name for one in pod.containers()}
    assert outcomes.keys() == names.keys()
    infra = next(one for one in names if names[one].endswith("-infra"))
    assert outcomes.pop(infra) is None
    return {int(names[one][1:]): error for one, error in outcomes.items()}


def check_errors(
    needs: Needs, fates: Mapping[int, str], found: Mapping[int, PodrtError | None]
) -> set[int]:
    """Everybody has the outcome that its needs and its program give it; who must run."""
    running = set()
    for node, wanted in needs.items():
        told = str(found[node] or "")
        failed = [f"c{need}" for need in wanted if found[need] is not None]
        dead = {f"c{need}" for need in wanted if fates[need] == "dies"}
        if failed:
            blamed = ", ".join(failed)
            assert told == f"a dependency of container c{node} failed to start: {blamed}"
        elif "not running" in told:
            # It was dead before this one's turn came; it need not have been.
            assert set(told.rpartition(": ")[2].split(", ")) <= dead
        elif fates[node] == "fails":
            assert f"cannot start container c{node}: exec" in told
        else:
            assert not told
            if fates[node] == "lives":
                running.add(node)
    return running


def check_started(place: Place, pod: Pod, needs: Needs) -> None:
    """Nobody was started twice, and everybody after all that it needs."""
    journal = f"{place.runtime.settings.layout.journal_dir}/{pod.id}.1"
    started = [one for one in read_journal(journal) if one.kind == Kind.STARTED]
    assert Counter(one.id for one in started).most_common(1)[0][1] == 1
    order = {one.id: one.seq for one in started}
    ids = {one.name: one.id for one in pod.containers()}
    for node, wanted in needs.items():
        at = order.get(ids[f"c{node}"])
        if at is not None:
            assert all(order[ids[f"c{need}"]] < at for need in wanted)


@pytest.mark.parametrize("seed", range(5))
async def test_random_graph_with_what_fails_and_dies_starts_and_stops_in_order(
    place: Place, seed: int, rounds: Callable[[int, int], int]
) -> None:
    needs, fates = random_pod(rounds(40 if seed < 2 else 12, 200), seed)
    pod = await make(place, needs, fates)
    running = check_errors(needs, fates, await start(pod))
    check_started(place, pod, needs)
    for node, fate in fates.items():
        if fate == "dies" and place.facts(f"c{node}").pid:
            await place.runtime.container(f"c{node}").wait()
    states = place.states()
    assert {n for n in needs if states[f"c{n}"] == ContainerState.RUNNING} == running
    check_kernel(place.runtime.settings, place.cgroup_parent)
    await pod.stop()
    for node in running:
        for need in needs[node]:
            if need in running:
                ended, later = (place.facts(f"c{one}").finished_at_ns for one in (node, need))
                assert 0 < ended <= later, f"{need} was stopped before {node}, which needs it"
    check_kernel(place.runtime.settings, place.cgroup_parent)
