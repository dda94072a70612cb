from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podrt.runtime.dependencies import in_order
from podrt.runtime.graph import build_graph


def test_order_keeps_the_order_of_creation_where_it_can() -> None:
    graph = build_graph({"a": [], "b": ["d"], "c": ["a"], "d": []})
    assert in_order(graph) == ["a", "d", "c", "b"]


def test_order_of_a_cycle_shows_its_nodes_last() -> None:
    graph = build_graph({"a": ["b"], "b": ["a"], "c": []})
    assert in_order(graph) == ["c", "a", "b"]


@given(st.data())
def test_order_puts_every_need_first(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 30))
    needs = {
        str(node): [
            str(need)
            for need in data.draw(st.sets(st.integers(0, max(node - 1, 0)), max_size=4))
            if need < node
        ]
        for node in range(count)
    }
    shuffled = data.draw(st.permutations(list(needs)))
    graph = build_graph({node: needs[node] for node in shuffled})
    order = in_order(graph)
    assert sorted(order) == sorted(needs)
    place = {node: at for at, node in enumerate(order)}
    assert all(place[need] < place[node] for node in needs for need in needs[node])
