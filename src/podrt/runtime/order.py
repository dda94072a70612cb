"""A pod's graph from its containers' records."""

from __future__ import annotations

from collections.abc import Sequence

from podrt.store.records import ContainerRecord

from .graph import Graph, build_graph


def member_graph(members: Sequence[ContainerRecord]) -> Graph:
    """The graph of a pod: `requires`, and the infra container for who shares its namespaces."""
    infra = next((member.id for member in members if member.config.is_infra), "")
    known = {member.id for member in members}
    needs = {}
    for member in members:
        edges = [edge.on for edge in member.config.requires if edge.on in known]
        needs[member.id] = [infra, *edges] if infra and member.id != infra else edges
    return build_graph(needs)
