"""P1, P2, P2b: starting one pod of 100 containers that do not depend on each other."""

from __future__ import annotations

from .harness import Contender, Row, Target
from .limit import Floor
from .peers import Crun, Podman
from .stage import Stage
from .subject import Podrt

COUNT = 100
QUICK_COUNT = 20
POD = "bench"
ISOLATION = (
    "mnt, pid and cgroup namespaces each; net, ipc and uts of the pod; overlay root; default "
    "capabilities, seccomp filter, masks and devices; pids limit 2048; logs on"
)


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if not wanted & {"P1", "P2", "P2b"}:
        return []
    count = QUICK_COUNT if stage.is_quick else COUNT
    podrt = stage.keep(Podrt(stage.folder / "podrt-start"))
    podrt.import_image(stage.archive)
    podrt.create_pod(POD, count)
    by_call = Contender(
        "podrt pod.start()", lambda: podrt.start_by_call(POD), lambda: podrt.settle(POD)
    )
    found = []
    if "P1" in wanted:
        found.append(against_floor(stage, by_call, count))
    if wanted & {"P2", "P2b"}:
        podman = stage.keep(Podman(stage.folder / "podman-start"))
        podman.import_image(stage.archive)
        podman.create_pod(POD, count)
        peer = Contender("podman pod start", lambda: podman.start(POD), lambda: podman.settle(POD))
        if "P2" in wanted:
            found.append(against_peers(stage, by_call, peer, count))
        if "P2b" in wanted:
            found.append(whole_commands(podrt, peer, count))
    return found


def against_floor(stage: Stage, podrt: Contender, count: int) -> Row:
    floor = Floor(stage.folder / "floor", stage.rootfs, count=count)
    return Row(
        key="P1",
        work=f"one pod, {count} containers: from the call until all run",
        isolation=ISOLATION,
        contenders=[
            podrt,
            Contender("floor, pipelined", floor.measure),
            Contender("floor, serial", floor.measure_serial),
        ],
        targets=[
            Target(podrt.name, "floor, pipelined", 1.5, "at most 1.5 x the floor"),
            Target(podrt.name, "floor, pipelined", 0.95, "aim: at most 0.95 x the floor"),
        ],
        divide_by=count,
    )


def against_peers(stage: Stage, podrt: Contender, podman: Contender, count: int) -> Row:
    crun = stage.keep(Crun(stage.folder / "crun", stage.rootfs, count))
    return Row(
        key="P2",
        work=f"one pod, {count} containers: library call, podman pod start, crun in a loop",
        isolation=ISOLATION,
        contenders=[podrt, podman, Contender("crun create + start", crun.measure, crun.settle)],
        targets=[
            Target(podrt.name, podman.name, 1 / 25, "at least 25 x faster than podman"),
            Target(podrt.name, "crun create + start", 1 / 4, "at least 4 x faster than crun"),
        ],
        divide_by=count,
    )


def whole_commands(podrt: Podrt, podman: Contender, count: int) -> Row:
    command = Contender(
        "podrt pod start", lambda: podrt.start_by_command(POD), lambda: podrt.settle(POD)
    )
    return Row(
        key="P2b",
        work=f"one pod, {count} containers: the whole commands",
        isolation=ISOLATION,
        contenders=[command, podman],
        targets=[Target(command.name, podman.name, 1 / 15, "at least 15 x faster than podman")],
        divide_by=count,
    )
