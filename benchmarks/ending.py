"""P6: stopping, killing and removing a pod of 100 containers, against podman."""

from __future__ import annotations

from .harness import Contender, Row, Target
from .peers import Podman, wait_gone
from .stage import Stage
from .subject import Podrt

COUNT, QUICK_COUNT = 100, 10
# Ends at once when it is asked to.
OBEYING = ("/bin/sh", "-c", "trap 'exit 0' TERM; /bin/sleep 100000 & wait")
ISOLATION = "as P1"


class Ending:
    """A pod that is made or started outside the measured time and then ended."""

    def __init__(self, runtime: Podrt | Podman, name: str, count: int) -> None:
        self.runtime, self.name, self.count = runtime, name, count
        self.create()

    def create(self) -> None:
        self.runtime.create_pod(self.name, self.count, OBEYING)

    def stop_ms(self) -> float:
        self.runtime.run("pod", "start", self.name)
        return self.runtime.run("pod", "stop", self.name)

    def kill_ms(self) -> float:
        self.runtime.run("pod", "start", self.name)
        return self.runtime.run("pod", "kill", self.name)

    def remove_ms(self) -> float:
        if isinstance(self.runtime, Podman):
            return self.runtime.remove(self.name)
        return self.runtime.run("pod", "rm", self.name)

    def recreate(self) -> None:
        """Under another name: what podman's removal left may keep the former."""
        base, _, number = self.name.partition("-")
        self.name = f"{base}-{int(number or 0) + 1}"
        self.create()

    def settle(self) -> None:
        """podman cleans up after each container by a process of its own."""
        if isinstance(self.runtime, Podman):
            wait_gone(str(self.runtime.folder))
        else:
            self.runtime.settle(self.name)


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P6" not in wanted:
        return []
    count = QUICK_COUNT if stage.is_quick else COUNT
    podrt = stage.keep(Podrt(stage.folder / "podrt-ending"))
    podman = stage.keep(Podman(stage.folder / "podman-ending"))
    for runtime in (podrt, podman):
        runtime.import_image(stage.archive)
    ours, theirs = Ending(podrt, "bench", count), Ending(podman, "bench", count)
    return [
        ending_row(
            "stop",
            count,
            Contender("podrt pod stop", ours.stop_ms, ours.settle),
            Contender("podman pod stop", theirs.stop_ms, theirs.settle),
        ),
        ending_row(
            "kill",
            count,
            Contender("podrt pod kill", ours.kill_ms, ours.settle),
            Contender("podman pod kill", theirs.kill_ms, theirs.settle),
        ),
        ending_row(
            "rm",
            count,
            Contender("podrt pod rm", ours.remove_ms, ours.recreate),
            Contender("podman pod rm", theirs.remove_ms, theirs.recreate),
        ),
    ]


def ending_row(verb: str, count: int, podrt: Contender, podman: Contender) -> Row:
    return Row(
        key=f"P6 {verb}",
        work=f"pod {verb}, {count} containers that end when asked to: the whole commands",
        isolation=ISOLATION,
        contenders=[podrt, podman],
        targets=[
            Target(podrt.name, podman.name, 1 / 10, "at least 10 x faster than podman"),
            Target(podrt.name, podman.name, 1 / 30, "aim: 30 x faster than podman"),
        ],
        divide_by=count,
        most_rounds=3,
    )
