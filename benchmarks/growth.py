"""P7 and P8: what containers cost that run already: in time for the next, in memory."""

from __future__ import annotations

from pathlib import Path

from .harness import Contender, Row, Target
from .peers import processes_naming
from .stage import Stage
from .subject import Podrt

POD = "bench"
COUNT, QUICK_COUNT = 100, 10
RUNNING, QUICK_RUNNING = 2_000, 100
ISOLATION = "mnt, pid and cgroup namespaces each; net, ipc and uts of the pod; overlay root"


def memory_cgroups() -> int:
    """How many the kernel has; on v1 removed ones linger until their memory is reclaimed."""
    for line in Path("/proc/cgroups").read_text().splitlines():
        words = line.split()
        if words[0] == "memory":
            return int(words[2])
    return 0


class Growth:
    """A pod that is started with nothing else running, and with many others running."""

    def __init__(self, podrt: Podrt, running: int, count: int) -> None:
        self.podrt, self.running = podrt, running
        self.before = memory_cgroups()
        for index in range(running // count):
            podrt.create_pod(f"other{index}", count)
        podrt.create_pod(POD, count)

    def first_ms(self) -> float:
        return self.podrt.start_by_call(POD)

    def next_ms(self) -> float:
        self.podrt.call(
            lambda runtime: runtime.start_pods([p for p in runtime.pods() if p.name != POD])
        )
        return self.podrt.start_by_call(POD)

    def settle(self) -> None:
        self.podrt.call(lambda runtime: runtime.stop_pods(runtime.pods(), timeout_s=0))

    def note(self) -> str:
        return f"memory cgroups of the kernel: {self.before} before, {memory_cgroups()} after"


class Memory:
    """What monitors take, shared pages shared out (PSS)."""

    def __init__(self, podrt: Podrt, pods: int) -> None:
        self.podrt, self.pods = podrt, pods
        for index in range(pods):
            podrt.create_pod(f"pod{index}", 1)
        podrt.create_pod("large", pods + 1)

    def monitor_kb(self) -> float:
        """The mean of many monitors with a container each."""
        names = [f"pod{index}" for index in range(self.pods)]
        return self._started_kb(names) / self.pods

    def further_kb(self) -> float:
        """What a further container adds to a monitor: from the first to that of many."""
        many = self._started_kb(["large"])
        self.settle()
        return (many - self._started_kb(["pod0"])) / self.pods

    def _started_kb(self, names: list[str]) -> float:
        self.podrt.call(lambda runtime: runtime.start_pods([runtime.pod(name) for name in names]))
        return sum(map(pss_kb, self._monitors()))

    def _monitors(self) -> list[int]:
        ids: list[str] = []

        async def collect(runtime: object) -> None:
            ids.extend(pod.id for pod in runtime.pods())  # type: ignore[attr-defined]

        self.podrt.call(collect)
        found = set()
        for pid in processes_naming("podrt-monitor"):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if len(words) > 1 and words[1].decode() in ids:
                found.add(pid)
        return sorted(found)

    def settle(self) -> None:
        self.podrt.call(lambda runtime: runtime.stop_pods(runtime.pods(), timeout_s=0))


def pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"no Pss of process {pid}")


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    found = []
    count = QUICK_COUNT if stage.is_quick else COUNT
    if "P7" in wanted:
        podrt = stage.keep(Podrt(stage.folder / "podrt-growth"))
        podrt.import_image(stage.archive)
        running = QUICK_RUNNING if stage.is_quick else RUNNING
        found.append(growth_row(Growth(podrt, running, count), count))
    if "P8" in wanted:
        podrt = stage.keep(Podrt(stage.folder / "podrt-memory"))
        podrt.import_image(stage.archive)
        found += memory_rows(Memory(podrt, count))
    return found


def growth_row(growth: Growth, count: int) -> Row:
    first, following = "podrt, nothing else runs", f"podrt, {growth.running} run"
    return Row(
        key="P7",
        work=f"pod.start() of {count} containers, the first ones and the next ones",
        isolation=ISOLATION,
        contenders=[
            Contender(first, growth.first_ms, growth.settle),
            Contender(following, growth.next_ms, growth.settle),
        ],
        targets=[
            Target(following, first, 1.3, "at most 1.3 x the first"),
            Target(following, first, 1.1, "aim: at most 1.1 x the first"),
        ],
        divide_by=count,
        note=growth.note,
    )


def memory_rows(memory: Memory) -> list[Row]:
    return [
        Row(
            key=key,
            work=work,
            isolation="as P1",
            contenders=[
                Contender(who, measure, memory.settle),
                Contender(f"{most} KB", lambda most=most: float(most)),
                Contender(f"{aim} KB", lambda aim=aim: float(aim)),
            ],
            targets=[
                Target(who, f"{most} KB", 1.0, f"at most {most} KB"),
                Target(who, f"{aim} KB", 1.0, f"aim: at most {aim} KB"),
            ],
            unit="KB",
        )
        for key, work, who, measure, most, aim in (
            (
                "P8 monitor",
                f"PSS of a monitor, mean of {memory.pods} with a container each",
                "podrt-monitor",
                memory.monitor_kb,
                250,
                100,
            ),
            (
                "P8 container",
                f"PSS that each of {memory.pods} further containers adds to a monitor",
                "podrt-monitor, a further container",
                memory.further_kb,
                8,
                1,
            ),
        )
    ]
