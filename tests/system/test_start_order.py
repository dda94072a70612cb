"""Parallel start on the real kernel: no edge is violated, and what is independent overlaps."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from doubles.commands import BUSYBOX, busybox_archive
from podrt.config import Settings
from podrt.errors import WalkFailed
from podrt.model.container import ContainerConfig, Dependency, Mount, MountKind
from podrt.model.pod import PodConfig
from podrt.model.states import ContainerState
from podrt.runtime.runtime import Runtime, open_runtime
from podrt.store.journal import Kind, read_journal

pytestmark = pytest.mark.skipif(not BUSYBOX, reason="needs busybox")
SLEEP = ("/bin/sleep", "1000")


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[Runtime]:
    settings = Settings(root=f"{tmp_path}/root", runroot=f"{tmp_path}/run")
    archive = busybox_archive(tmp_path / "busybox.tar")
    async with open_runtime(settings) as opened:
        await opened.import_image(str(archive), "base")
        yield opened
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
            await opened.remove_pods(opened.pods(), force=True, timeout_s=0)


def random_edges(count: int, density: float, seed: int) -> dict[int, list[int]]:
    chance = random.Random(seed)
    return {
        node: [need for need in range(node) if chance.random() < density] for node in range(count)
    }


def members(edges: dict[int, list[int]]) -> list[ContainerConfig]:
    return [
        ContainerConfig(
            image="base",
            name=f"c{node}",
            command=SLEEP,
            requires=tuple(Dependency(f"c{need}") for need in needs),
        )
        for node, needs in edges.items()
    ]


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.mark.parametrize(("count", "density", "seed"), [(40, 0.1, 1), (25, 0.4, 2), (30, 1.0, 3)])
async def test_start_of_a_random_graph_violates_no_edge(
    runtime: Runtime, cgroup_parent: str, count: int, density: float, seed: int
) -> None:
    edges = random_edges(count, density, seed)
    pod = await runtime.create_pod(PodConfig(name="p", cgroup_parent=cgroup_parent), members(edges))
    await pod.start()
    facts = {container.name: container.facts() for container in pod.containers()}
    for node, needs in edges.items():
        own = facts[f"c{node}"]
        assert start_ticks(own.pid) == own.start_ticks
        for need in needs:
            other = facts[f"c{need}"]
            # Exec of the one was confirmed before the other was even cloned.
            assert other.started_at_ns < own.started_at_ns
            assert other.start_ticks <= own.start_ticks


async def overtaken(runtime: Runtime, config: PodConfig, slow: ContainerConfig) -> bool:
    """Start `slow` together with others: whether one that was cloned later ran earlier."""
    quick = [ContainerConfig(image="base", name=f"q{n}", command=SLEEP) for n in range(4)]
    pod = await runtime.create_pod(config, [slow, *quick])
    await pod.start()
    journal = f"{runtime.settings.layout.journal_dir}/{pod.id}.1"
    started = [record for record in read_journal(journal) if record.kind == Kind.STARTED]
    slow_id = next(one.id for one in pod.containers() if one.name == "slow")
    own = next(record for record in started if record.id == slow_id)
    await pod.remove(force=True, timeout_s=0)
    return any(record.pid > own.pid and record.seq < own.seq for record in started)


async def test_start_of_independent_containers_overlaps_in_time(
    runtime: Runtime, cgroup_parent: str, tmp_path: Path
) -> None:
    # A container with many mounts takes longer to set up than one without. If both are set up
    # at the same time, the one cloned later runs first. A busy machine may once happen to do
    # them in order; one after the other would be in order every time.
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    slow = ContainerConfig(
        image="base",
        name="slow",
        command=SLEEP,
        mounts=tuple(
            Mount(kind=MountKind.BIND, source=str(volumes), destination=f"/v{number}")
            for number in range(400)
        ),
    )
    config = PodConfig(name="p", cgroup_parent=cgroup_parent)
    for _ in range(10):
        if await overtaken(runtime, config, slow):
            return
    raise AssertionError("containers were set up one after the other")


async def test_start_with_failures_marks_dependents_and_runs_the_rest(
    runtime: Runtime, cgroup_parent: str
) -> None:
    edges = random_edges(30, 0.08, 7)
    broken = {4, 11}
    configs = [
        ContainerConfig(
            image="base",
            name=config.name,
            command=("/bin/none",) if number in broken else SLEEP,
            requires=config.requires,
        )
        for number, config in enumerate(members(edges))
    ]
    failed: set[int] = set()
    for node, needs in edges.items():
        if node in broken or any(need in failed for need in needs):
            failed.add(node)
    assert broken < failed < set(edges), "the graph must have dependents and others"
    pod = await runtime.create_pod(PodConfig(name="p", cgroup_parent=cgroup_parent), configs)
    with pytest.raises(WalkFailed) as caught:
        await pod.start()
    names = {container.id: container.name for container in pod.containers()}
    outcomes = {names[node]: error for node, error in caught.value.outcomes.items()}
    assert {name for name, error in outcomes.items() if error} == {f"c{node}" for node in failed}
    states = {container.name: container.state() for container in pod.containers()}
    for node in edges:
        expected = ContainerState.CONFIGURED if node in failed else ContainerState.RUNNING
        assert states[f"c{node}"] is expected
    for node in failed - broken:
        assert f"a dependency of container c{node} failed to start" in str(outcomes[f"c{node}"])


async def test_start_of_many_pods_walks_all_graphs_at_once(
    runtime: Runtime, cgroup_parent: str
) -> None:
    pods = []
    for number in range(8):
        config = PodConfig(name=f"p{number}", cgroup_parent=cgroup_parent)
        chain = [
            ContainerConfig(
                image="base",
                name=f"p{number}-{link}",
                command=SLEEP,
                requires=(Dependency(f"p{number}-{link - 1}"),) if link else (),
            )
            for link in range(3)
        ]
        pods.append(await runtime.create_pod(config, chain))
    results = await runtime.start_pods(pods)
    assert set(results) == {pod.id for pod in pods}
    spans = []
    for pod in pods:
        times = [one.facts().started_at_ns for one in pod.containers() if one.facts().pid]
        assert times == sorted(times) and len(times) == 3
        spans.append((times[0], times[-1]))
    # The first links of all chains ran before the last links of most did.
    latest_first = max(first for first, _ in spans)
    assert sum(last > latest_first for _, last in spans) >= len(pods) // 2
