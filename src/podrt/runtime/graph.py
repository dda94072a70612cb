"""The dependency graph of a pod's containers: pure values, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from podrt.errors import InvalidConfig


class Graph(NamedTuple):
    """Containers and their edges.

    Shape: `needs[id]` are the IDs that must be up before `id`; `needed_by[id]` the reverse.
    Both hold every node, in creation order.
    """

    needs: Mapping[str, tuple[str, ...]]
    needed_by: Mapping[str, tuple[str, ...]]

    def reversed(self) -> Graph:
        """The same nodes with every edge turned round: the order of stopping."""
        return Graph(self.needed_by, self.needs)

    def restricted(self, nodes: Iterable[str]) -> Graph:
        """The graph of `nodes` only; edges to others are dropped."""
        kept = set(nodes)
        return build_graph(
            {
                node: [need for need in needs if need in kept]
                for node, needs in self.needs.items()
                if node in kept
            }
        )


def build_graph(needs: Mapping[str, Iterable[str]]) -> Graph:
    """A graph from each node's needs; edges to nodes that are not in it must not occur."""
    forward = {node: tuple(dict.fromkeys(edges)) for node, edges in needs.items()}
    backward: dict[str, list[str]] = {node: [] for node in forward}
    for node, edges in forward.items():
        for need in edges:
            backward[need].append(node)
    return Graph(forward, {node: tuple(users) for node, users in backward.items()})


def check_graph(graph: Graph, names: Mapping[str, str], pod: str, field: str = "requires") -> None:
    """Refuse a cycle, naming it. Raises: InvalidConfig."""
    cycle = find_cycle(graph)
    if cycle:
        shown = " -> ".join(names.get(node, node[:12]) for node in cycle)
        raise InvalidConfig(field, f"the containers of pod {pod} depend on each other: {shown}")


def find_cycle(graph: Graph) -> list[str]:
    """One cycle as a path whose first node is repeated at its end; [] when there is none."""
    waiting = {node: len(edges) for node, edges in graph.needs.items()}
    ready = [node for node, count in waiting.items() if not count]
    while ready:
        node = ready.pop()
        del waiting[node]
        for user in graph.needed_by[node]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if not waiting:
        return []
    # Every node left has a need that is left as well, so walking them must meet itself.
    path: list[str] = []
    node = next(iter(waiting))
    while node not in path:
        path.append(node)
        node = next(need for need in graph.needs[node] if need in waiting)
    return [*path[path.index(node) :], node]
