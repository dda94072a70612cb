"""P3: many small pods with namespaces of their own, started at once."""

from __future__ import annotations

import trio

from podrt import open_runtime

from .harness import Contender, Row, Target
from .limit import Floor
from .stage import Stage
from .subject import Podrt

PODS, QUICK_PODS = 100, 10
MEMBERS = 2
ISOLATION = (
    "net (lo up), ipc and uts of each pod; mnt, pid and cgroup of each container; overlay root; "
    "default capabilities, seccomp filter, masks and devices; logs on"
)


class ManyPods:
    """Pods of two containers each, started and stopped together."""

    def __init__(self, podrt: Podrt, count: int) -> None:
        self.podrt = podrt
        for index in range(count):
            podrt.create_pod(f"pod{index}", MEMBERS)

    def start_ms(self) -> float:
        return trio.run(self._start)

    async def _start(self) -> float:
        async with open_runtime(self.podrt.settings()) as runtime:
            before = trio.current_time()
            await runtime.start_pods(runtime.pods())
            return (trio.current_time() - before) * 1e3

    def settle(self) -> None:
        self.podrt.call(lambda runtime: runtime.stop_pods(runtime.pods(), timeout_s=0))


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P3" not in wanted:
        return []
    count = QUICK_PODS if stage.is_quick else PODS
    podrt = stage.keep(Podrt(stage.folder / "podrt-pods"))
    podrt.import_image(stage.archive)
    many = ManyPods(podrt, count)
    total = count * MEMBERS
    floor = Floor(stage.folder / "floor-pods", stage.rootfs, count=total, per_pod=MEMBERS)
    subject, limit = "podrt start_pods()", "floor, pipelined"
    return [
        Row(
            key="P3",
            work=f"{count} pods of {MEMBERS} containers: from the call until all run",
            isolation=ISOLATION,
            contenders=[
                Contender(subject, many.start_ms, many.settle),
                Contender(limit, floor.measure),
            ],
            targets=[
                Target(subject, limit, 1.8, "at most 1.8 x the floor"),
                Target(subject, limit, 1.1, "aim: at most 1.1 x the floor"),
            ],
            divide_by=total,
        )
    ]
