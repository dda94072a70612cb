"""The same scripts through `podman pod ...` and `podrt pod ...`: codes, output's shape, states.

What differs on purpose stands in a table with its reason; everything else fails the test.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from doubles.command_server import CommandServer
from doubles.commands import BUSYBOX, Podrt, busybox_archive
from doubles.podman_pods import (
    Play,
    PodmanPods,
    PodrtPods,
    clear,
    play_script,
    read_states,
)
from system.podman_scripts import DIFFERENCES, SAMPLE, SCRIPTS, Difference

PATIENCE_S = 5.0


class Players(NamedTuple):
    """Both doors, and a folder for what scripts write."""

    podrt: Play
    podman: Play
    folder: Path


class Found(NamedTuple):
    """One answer that differs."""

    script: str
    line: str
    what: str
    ours: str
    theirs: str

    def is_explained_by(self, row: Difference) -> bool:
        return all(
            re.fullmatch(pattern, value, re.DOTALL)
            for pattern, value in (
                (row.what, self.what),
                (row.scripts, self.script),
                (row.line, self.line),
                (row.ours, self.ours),
                (row.theirs, self.theirs),
            )
        )


@pytest.fixture
def players(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, cgroup_parent: str
) -> Iterator[Players]:
    for needed in ("podman", "crun", "conmon", "busybox"):
        if shutil.which(needed) is None:
            pytest.skip(f"needs {needed}")
    assert BUSYBOX
    podrt = Podrt(tmp_path, cgroup_parent)
    podrt.import_busybox(tmp_path)
    podman = PodmanPods(tmp_path_factory.mktemp("p"), f"{cgroup_parent}_p")
    try:
        podman.import_images(busybox_archive(tmp_path / "image.tar"))
        with CommandServer(podrt) as server:
            yield Players(PodrtPods(server, cgroup_parent).play, podman.play, tmp_path)
    finally:
        podman.close()
        podrt.remove_all()
    assert podrt.is_clean()


def differences(players: Players, script: str) -> Iterator[Found]:
    """Where the answers to a script differ; states are compared once they have settled."""
    lines = SCRIPTS[script]
    doors = (players.podrt, players.podman)
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(
                lambda door: play_script(door, lines, players.folder / f"file{doors.index(door)}"),
                doors,
            )
        )
    for line, ours, theirs in zip(lines, *answers, strict=True):
        if ours.code != theirs.code:
            yield Found(script, line, "code", str(ours.code), str(theirs.code))
        if ours.out != theirs.out:
            yield Found(script, line, "out", ours.out, theirs.out)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        states = [read_states(door) for door in doors]
        # Who was killed ends a moment later.
        if states[0] == states[1] or "kill" not in script or time.monotonic() > deadline:
            break
    for name in sorted({*states[0], *states[1]}):
        ours, theirs = (state.get(name, "-") for state in states)
        if ours != theirs:
            yield Found(script, name, "states", ours, theirs)
    for number, door in enumerate(doors):
        (players.folder / f"file{number}").unlink(missing_ok=True)
        if states[number]:
            clear(door)


def test_podman_and_podrt_answer_scripts_alike(
    players: Players, rounds: Callable[[int, int], int]
) -> None:
    chosen = list(SCRIPTS)[: rounds(0, len(SCRIPTS))] or list(SAMPLE)
    unexplained, used = [], set()
    for script in chosen:
        for found in differences(players, script):
            rows = [row for row in DIFFERENCES if found.is_explained_by(row)]
            used.update(rows)
            if not rows:
                unexplained.append(repr(found))
    assert not unexplained, "\n".join(unexplained)
    if len(chosen) == len(SCRIPTS):
        stale = [repr(row) for row in DIFFERENCES if row not in used]
        assert not stale, "rows that explain nothing: " + "\n".join(stale)


def test_there_are_scripts_enough_and_every_pod_verb_is_in_one() -> None:
    assert len(SCRIPTS) >= 60
    lines = [line for script in SCRIPTS.values() for line in script]
    for verb in ("create", "start", "stop", "restart", "pause", "unpause", "kill", "rm", "ps",
                 "inspect", "exists", "top", "stats", "prune"):  # fmt: skip
        assert any(line.startswith(f"pod {verb}") for line in lines), verb
    assert set(SAMPLE) <= set(SCRIPTS)
