"""P10: reading while something is started, against reading beside two plain CPU spinners.

Whoever reads waits for nobody: `pod ps` while a pod of 100 containers starts may be slowed by the
processors being busy, not by locks. So it is compared with the same command while two processes
do nothing but count. A `pod ps` counts as "while" only if it ended before the start did.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator
from statistics import mean

from .harness import Contender, Row, Target
from .stage import Stage
from .subject import Podrt

COUNT = 100
POD = "bench"
READS, QUICK_READS = 8, 3
# A start that is over before the first reading is has nothing to say.
MAX_STARTS = 40
ISOLATION = "mnt, pid and cgroup namespaces each; net, ipc and uts of the pod; overlay root"

STARTER = """
import sys, trio
from podrt import open_runtime
from podrt.config import Settings

async def main():
    async with open_runtime(Settings(root=sys.argv[1], runroot=sys.argv[2])) as runtime:
        pod = runtime.pod(sys.argv[3])
        print("ready", flush=True)
        sys.stdin.readline()
        await pod.start()
        print("done", flush=True)

trio.run(main)
"""
SPINNER = "print(flush=True)\nwhile True: pass"


class Reading:
    """A pod that is started again and again, and readers."""

    def __init__(self, podrt: Podrt, reads: int) -> None:
        self.podrt = podrt
        self.reads = reads

    def read_ms(self) -> float:
        return self.podrt.run("pod", "ps")

    def during_start_ms(self) -> float:
        """The mean of those `pod ps` that lay within a start."""
        found: list[float] = []
        for _ in range(MAX_STARTS):
            found += self._one_start()
            if len(found) >= self.reads:
                return mean(found)
        raise RuntimeError("no start takes as long as reading once")

    def _one_start(self) -> list[float]:
        words = [sys.executable, "-c", STARTER, self.podrt.root, self.podrt.runroot, POD]
        found: list[float] = []
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as starter:
            assert starter.stdin is not None
            assert starter.stdout is not None
            starter.stdout.readline()
            starter.stdin.write("go\n")
            starter.stdin.flush()
            while True:
                spent_ms = self.read_ms()
                if select.select([starter.stdout], [], [], 0)[0]:
                    break
                found.append(spent_ms)
        if starter.returncode:
            raise RuntimeError("the pod could not be started")
        self.podrt.settle(POD)
        return found

    def beside_spinners_ms(self) -> float:
        """The mean of as many, with the pod running: reading it takes the longest then."""
        self.podrt.start_by_call(POD)
        try:
            with spinners(2):
                return mean(self.read_ms() for _ in range(self.reads))
        finally:
            self.podrt.settle(POD)

    def alone_ms(self) -> float:
        """The same with idle processors."""
        self.podrt.start_by_call(POD)
        try:
            return mean(self.read_ms() for _ in range(self.reads))
        finally:
            self.podrt.settle(POD)


@contextlib.contextmanager
def spinners(count: int) -> Iterator[None]:
    """That many processes that do nothing but count."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            spinner = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", SPINNER], stdout=subprocess.PIPE)
            )
            stack.callback(spinner.kill)
            assert spinner.stdout is not None
            spinner.stdout.readline()
        yield


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P10" not in wanted:
        return []
    podrt = stage.keep(Podrt(stage.folder / "podrt-reading"))
    podrt.import_image(stage.archive)
    podrt.create_pod(POD, COUNT)
    reading = Reading(podrt, QUICK_READS if stage.is_quick else READS)
    during, beside = "podrt pod ps during a start", "podrt pod ps beside two spinners"
    return [
        Row(
            key="P10",
            work=f"pod ps while a pod of {COUNT} containers starts",
            isolation=ISOLATION,
            contenders=[
                Contender(during, reading.during_start_ms),
                Contender(beside, reading.beside_spinners_ms),
                Contender("podrt pod ps alone", reading.alone_ms),
            ],
            targets=[
                Target(during, beside, 1.2, "at most 1.2 x beside two spinners"),
                Target(during, beside, 1.0, "aim: at most 1.0 x beside two spinners"),
            ],
        )
    ]
