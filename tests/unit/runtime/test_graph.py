"""Dependency graphs: order, cycles, and walking them."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from podrt.errors import InvalidConfig, InvalidState, PodrtError
from podrt.runtime.graph import Graph, build_graph, check_graph, find_cycle
from podrt.runtime.walk import walk


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, list[str]]:
    """Up to 60 nodes; every edge leads to an earlier node, so there is no cycle."""
    count = draw(st.integers(1, 60))
    names = [f"n{number}" for number in range(count)]
    seed = draw(st.integers(0, 2**32))
    density = draw(st.floats(0, 0.4))
    chance = random.Random(seed)
    return {
        name: [need for need in names[:at] if chance.random() < density]
        for at, name in enumerate(names)
    }


def test_reversed_graph_turns_every_edge_round() -> None:
    graph = build_graph({"a": [], "b": ["a"], "c": ["a", "b"]})
    assert graph.reversed().needs == {"a": ("b", "c"), "b": ("c",), "c": ()}
    assert graph.reversed().reversed() == graph


def test_restrict_graph_drops_edges_to_others() -> None:
    graph = build_graph({"a": [], "b": ["a"], "c": ["b"]})
    assert graph.restricted(["a", "c"]).needs == {"a": (), "c": ()}


@given(acyclic())
def test_find_cycle_in_acyclic_graph_finds_none(needs: dict[str, list[str]]) -> None:
    assert find_cycle(build_graph(needs)) == []


@given(acyclic(), st.integers(0, 2**32))
def test_find_cycle_after_closing_one_names_a_real_cycle(
    needs: dict[str, list[str]], seed: int
) -> None:
    chance = random.Random(seed)
    names = list(needs)
    last = chance.choice(names)
    # A path from `last` downwards, closed by an edge back.
    first = last
    while needs[first] and chance.random() < 0.8:
        first = chance.choice(needs[first])
    needs[first] = [*needs[first], last]
    cycle = find_cycle(build_graph(needs))
    assert cycle[0] == cycle[-1]
    for node, need in itertools.pairwise(cycle):
        assert need in needs[node]


def test_check_graph_with_a_cycle_names_it() -> None:
    graph = build_graph({"1": ["2"], "2": ["3"], "3": ["1"]})
    with pytest.raises(InvalidConfig, match="web -> db -> cache -> web"):
        check_graph(graph, {"1": "web", "2": "db", "3": "cache"}, "shop")


async def run_walk(
    graph: Graph, broken: set[str], *, goes_on: bool
) -> tuple[list[str], dict[str, PodrtError | None]]:
    """Walk with actions that take a random number of steps; what ended, in order."""
    ended: list[str] = []
    started: set[str] = set()
    chance = random.Random(len(graph.needs))

    async def act(node: str) -> None:
        assert node not in started
        started.add(node)
        for need in graph.needs[node]:
            assert need in ended, f"{node} before {need}"
        for _ in range(chance.randrange(4)):
            await trio.lowlevel.checkpoint()
        ended.append(node)
        if node in broken:
            raise InvalidState("start", node, "broken")

    outcomes = await walk(
        graph,
        act,
        limiter=trio.CapacityLimiter(8),
        on_failed_need=None if goes_on else lambda node, failed: InvalidState("x", node, "need"),
    )
    return ended, outcomes


@given(acyclic(), st.integers(0, 2**32))
def test_walk_with_failures_marks_exactly_the_dependents(
    needs: dict[str, list[str]], seed: int
) -> None:
    graph = build_graph(needs)
    broken = {node for node in needs if random.Random(f"{seed}{node}").random() < 0.1}
    ended, outcomes = trio.run(lambda: run_walk(graph, broken, goes_on=False))
    failed: set[str] = set()
    for node in needs:  # in an order in which needs come first
        if node in broken or any(need in failed for need in needs[node]):
            failed.add(node)
    assert {node for node, error in outcomes.items() if error is not None} == failed
    assert set(ended) == {node for node in needs if not any(need in failed for need in needs[node])}


@given(acyclic())
def test_walk_that_goes_on_past_failures_acts_on_every_node(needs: dict[str, list[str]]) -> None:
    graph = build_graph(needs).reversed()
    ended, outcomes = trio.run(lambda: run_walk(graph, set(needs), goes_on=True))
    assert sorted(ended) == sorted(needs)
    assert all(error is not None for error in outcomes.values())


async def test_walk_of_independent_nodes_acts_at_once() -> None:
    waiting = 0
    everybody = trio.Event()

    async def act(_: str) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 10:
            everybody.set()
        await everybody.wait()

    graph = build_graph({str(number): [] for number in range(10)})
    with trio.fail_after(5):
        await walk(graph, act, limiter=trio.CapacityLimiter(10), on_failed_need=None)
