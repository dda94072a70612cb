"""P9: looking at 20 pods, and saying the version; whole processes."""

from __future__ import annotations

from .harness import Contender, Row, Target
from .peers import Podman, timed_ms
from .stage import Stage
from .subject import Podrt, command

PODS = 20
# A whole process is short: one run is mostly noise, so a round takes the mean of some.
REPEATS = 5


def rows(stage: Stage, wanted: set[str]) -> list[Row]:
    """The wanted rows of this file, with their contenders prepared."""
    if "P9" not in wanted:
        return []
    podrt = stage.keep(Podrt(stage.folder / "podrt-ps"))
    podman = stage.keep(Podman(stage.folder / "podman-ps"))
    for runtime in (podrt, podman):
        runtime.import_image(stage.archive)
        for index in range(PODS):
            runtime.create_pod(f"pod{index}", 1)
    return [listing(podrt, podman), version(podman)]


def mean_ms(runtime: Podrt | Podman, *words: str) -> float:
    return sum(runtime.run(*words) for _ in range(REPEATS)) / REPEATS


def listing(podrt: Podrt, podman: Podman) -> Row:
    contenders = [
        Contender("podrt pod ps", lambda: mean_ms(podrt, "pod", "ps")),
        Contender("podman pod ps", lambda: mean_ms(podman, "pod", "ps")),
    ]
    return Row(
        key="P9",
        work=f"pod ps with {PODS} pods",
        isolation="none: nothing is started",
        contenders=contenders,
        targets=[Target("podrt pod ps", "podman pod ps", 1.0, "at most podman's time")],
    )


def version(podman: Podman) -> Row:
    contenders = [
        # Without a root before it: that is the question scripts ask.
        Contender("podrt --version", lambda: timed_ms([*command(), "--version"])),
        Contender("podman --version", lambda: mean_ms(podman, "--version")),
    ]
    return Row(
        key="P9 version",
        work="--version",
        isolation="none: nothing is started",
        contenders=contenders,
        targets=[],
    )
