"""`podrt pod graph`: what a pod's containers wait for, and what state they are in."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.model.container import DependencyKind
from podrt.model.states import ENDED
from podrt.runtime.dependencies import Edge, Node, PodGraph, pod_graph
from podrt.runtime.view import open_view

from .flags import Parser
from .output import print_json, print_table
from .shapes import state_word


def graph_flags(parser: Parser) -> None:
    """Flags of `pod graph`."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="name or ID")
    parser.add_argument("--format", default="text", metavar="NAME", help=", ".join(_FORMATS))
    parser.switch("--latest", "-l", help="the newest pod")


def graph(args: argparse.Namespace, settings: Settings) -> int:
    """Show a pod's dependency graph. The arrows of the drawn formats lead to what is needed."""
    show = _FORMATS.get(args.format)
    if show is None:
        raise InvalidConfig("--format", f"{args.format!r} is none of {', '.join(_FORMATS)}")
    with open_view(settings) as view:
        words = args.pods or [pod.id for pod in view.pods()[-1:] if args.latest]
        if len(words) != 1 or (args.pods and args.latest):
            raise InvalidConfig("", "you must provide the name or id of one pod")
        found = pod_graph(view, view.pod(words[0]))
    show(found)
    return 0


def _state(node: Node) -> str:
    word = state_word(node.state)
    return f"{word} ({node.exit_code})" if node.state in ENDED and not node.is_infra else word


def _kind(node: Node) -> str:
    if node.is_infra:
        return "infra"
    return f"init {node.init}" if node.init else ""


def _text(found: PodGraph) -> None:
    kinds = {(edge.user, edge.need): edge.kind for edge in found.edges}
    print(f"pod {found.name}: {found.state}")
    rows = []
    for node in found.nodes:
        needs = [need.name + _condition(kinds[node.id, need.id]) for need in found.needs(node)]
        rows.append((node.name, _state(node), _kind(node), ", ".join(needs)))
    print_table(("CONTAINER", "STATE", "KIND", "NEEDS"), rows, with_heads=True)


def _condition(kind: DependencyKind) -> str:
    return "" if kind is DependencyKind.STARTED else f" ({kind})"


def _dot(found: PodGraph) -> None:
    """The language of Graphviz. Names hold nothing that would have to be escaped."""
    print(f'digraph "{found.name}" {{')
    print(f'  label="pod {found.name}: {found.state}"; rankdir=RL; node [shape=box];')
    for node in found.nodes:
        style = ', style="dashed"' if node.is_infra or node.init else ""
        print(f'  "{node.name}" [label="{node.name}\\n{_state(node)}"{style}];')
    names = {node.id: node.name for node in found.nodes}
    for edge in found.edges:
        label = f' [label="{edge.kind}"]' if edge.kind is not DependencyKind.STARTED else ""
        print(f'  "{names[edge.user]}" -> "{names[edge.need]}"{label};')
    print("}")


def _mermaid(found: PodGraph) -> None:
    """What Markdown pages draw. A name could be a word of the language, so nodes have numbers."""
    numbers = {node.id: f"n{number}" for number, node in enumerate(found.nodes)}
    print("flowchart RL")
    for node in found.nodes:
        print(f'  {numbers[node.id]}["{node.name}<br/>{_state(node)}"]')
    for edge in found.edges:
        label = f"|{edge.kind}|" if edge.kind is not DependencyKind.STARTED else ""
        print(f"  {numbers[edge.user]} -->{label} {numbers[edge.need]}")


def _json(found: PodGraph) -> None:
    print_json(
        {
            "Id": found.id,
            "Name": found.name,
            "State": str(found.state),
            "Containers": [_node_json(node) for node in found.nodes],
            "Edges": [_edge_json(edge) for edge in found.edges],
        }
    )


def _node_json(node: Node) -> dict[str, object]:
    return {
        "Id": node.id,
        "Name": node.name,
        "State": state_word(node.state),
        "ExitCode": node.exit_code,
        "IsInfra": node.is_infra,
        "InitContainer": node.init,
    }


def _edge_json(edge: Edge) -> dict[str, str]:
    return {"From": edge.user, "To": edge.need, "Condition": str(edge.kind)}


_FORMATS: dict[str, Callable[[PodGraph], None]] = {
    "text": _text,
    "dot": _dot,
    "mermaid": _mermaid,
    "json": _json,
}
