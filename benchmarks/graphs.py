"""P5: what the walk adds to the start of containers that wait for each other.

The floor knows no order: for the chain it starts the same number one after the other, for tree and
layers all at once. So the difference holds everything podrt does, not the walk alone; the same
number of containers without a dependency shows how much of it the walk is.
"""

from __future__ import annotations

from podrt import ContainerConfig, PodConfig
from podrt.model.container import Dependency

from .harness import Contender, Row, Target
from .limit import Floor
from .stage import Stage
from .subject import IMAGE, SLEEP, Podrt

ISOLATION = "mnt, pid and cgroup namespaces each; net, ipc and uts of the pod; overlay root"
MOST_MS_A_NODE, AIM_MS_A_NODE = 0.3, 0.1

Needs = dict[int, list[int]]
"""Shape: for each node those it waits for."""


def chain(length: int) -> Needs:
    return {node: [node - 1] if node else [] for node in range(length)}


def binary_tree(nodes: int) -> Needs:
    return {node: [(node - 1) // 2] if node else [] for node in range(nodes)}


def layers(depth: int, width: int) -> Needs:
    """Every node of a layer waits for every node of the one below."""
    return {
        layer * width + place: [
            (layer - 1) * width + below for below in range(width if layer else 0)
        ]
        for layer in range(depth)
        for place in range(width)
    }


def create_graph(podrt: Podrt, name: str, needs: Needs) -> None:
    """A pod whose containers wait for each other as `needs` says."""
    members = [
        ContainerConfig(
            image=IMAGE,
            name=f"{name}-{node}",
            command=SLEEP,
            requires=tuple(Dependency(f"{name}-{need}") for need in needs[node]),
        )
        for node in needs
    ]
    config = PodConfig(name=name, cgroup_parent=podrt.parent)
    podrt.call(lambda runtime: runtime.create_pod(config, members))


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P5" not in wanted:
        return []
    podrt = stage.keep(Podrt(stage.folder / "podrt-graphs"))
    podrt.import_image(stage.archive)
    shapes = {
        "chain": chain(10 if stage.is_quick else 50),
        "tree": binary_tree(15 if stage.is_quick else 127),
        "layers": layers(3, 5) if stage.is_quick else layers(10, 10),
    }
    return [graph_row(stage, podrt, name, needs) for name, needs in shapes.items()]


def graph_row(stage: Stage, podrt: Podrt, name: str, needs: Needs) -> Row:
    count = len(needs)
    floor = Floor(stage.folder / f"floor-{name}", stage.rootfs, count=count)
    create_graph(podrt, name, needs)
    free = f"{name}-free"
    podrt.create_pod(free, count)
    is_serial = name == "chain"
    subject = f"podrt pod.start(), {name}"
    limit = f"floor, {'serial' if is_serial else 'pipelined'}"
    return Row(
        key=f"P5 {name}",
        work=f"{count} containers, {sum(map(len, needs.values()))} dependencies: until all run",
        isolation=ISOLATION,
        contenders=[
            Contender(subject, lambda: podrt.start_by_call(name), lambda: podrt.settle(name)),
            Contender(limit, floor.measure_serial if is_serial else floor.measure),
            Contender(
                "podrt pod.start(), no dependencies",
                lambda: podrt.start_by_call(free),
                lambda: podrt.settle(free),
            ),
        ],
        targets=[
            Target(subject, limit, most, f"{words}at most {most} ms a node over the floor", True)
            for most, words in ((MOST_MS_A_NODE, ""), (AIM_MS_A_NODE, "aim: "))
        ],
        divide_by=count,
    )
