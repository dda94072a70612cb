"""A pod's dependency graph with the states of its containers, as values to show.

Synchronous and free of Trio; it takes no lock.
"""

from __future__ import annotations

import msgspec

from podrt.model.container import DependencyKind
from podrt.model.states import ContainerState, PodState
from podrt.store.records import ContainerRecord, PodRecord

from .graph import Graph
from .order import member_graph
from .view import View


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A container of the graph; `init` is "once", "always" or "" for one that stays."""

    id: str
    name: str
    state: ContainerState
    exit_code: int
    is_infra: bool
    init: str


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """`user` (an ID) waits until `need` is `kind`."""

    user: str
    need: str
    kind: DependencyKind


class PodGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's containers, each behind all that it needs, and its edges in that order."""

    id: str
    name: str
    state: PodState
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def needs(self, node: Node) -> list[Node]:
        """What a container waits for."""
        by_id = {one.id: one for one in self.nodes}
        return [by_id[edge.need] for edge in self.edges if edge.user == node.id]


def pod_graph(view: View, pod: PodRecord) -> PodGraph:
    """The graph of `pod` as it is now."""
    members = {member.id: member for member in view.members(pod.id)}
    graph = member_graph(list(members.values()))
    order = in_order(graph)
    return PodGraph(
        id=pod.id,
        name=pod.config.name,
        state=view.pod_state(pod),
        nodes=tuple(_node(view, members[one]) for one in order),
        edges=tuple(
            Edge(user=user, need=need, kind=_kind(members[user], need))
            for user in order
            for need in graph.needs[user]
        ),
    )


def in_order(graph: Graph) -> list[str]:
    """Every node behind all it needs, else as created; those of a cycle come last."""
    waiting = {node: len(needs) for node, needs in graph.needs.items()}
    order: list[str] = []
    ready = [node for node, count in waiting.items() if not count]
    while ready:
        node = ready.pop(0)
        order.append(node)
        for user in graph.needed_by[node]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    known = set(order)
    return order + [node for node in graph.needs if node not in known]


def _node(view: View, member: ContainerRecord) -> Node:
    return Node(
        id=member.id,
        name=member.config.name,
        state=view.state(member),
        exit_code=view.facts(member).exit_code,
        is_infra=member.config.is_infra,
        init=str(member.config.init or ""),
    )


def _kind(member: ContainerRecord, need: str) -> DependencyKind:
    """The namespaces that the infra container holds need no more than that it is started."""
    kinds = (edge.kind for edge in member.config.requires if edge.on == need)
    return next(kinds, DependencyKind.STARTED)
