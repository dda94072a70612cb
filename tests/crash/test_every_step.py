"""Verbs struck at every step: podrt killed, its monitor killed, Ctrl-C, a closed terminal.

A step is the entry or the exit of a system call that somebody else can see. Then one plain
command, the same verb again, must bring state and kernel into agreement: what was acknowledged
holds, and no lock, cgroup, mount, directory or process is left. Source: semantics.md section 6,
architecture.md decisions 5 and 7.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from doubles.agreement import cgroups_below, check_kernel
from doubles.command_server import CommandServer, Done, Order
from doubles.commands import BUSYBOX, Podrt, monitors_of
from podrt.config import Settings

SLEEP = ("base", "/bin/sleep", "1000")
INTERRUPTED = 130
# Of each verb and victim: what `make test` looks at, and what `make deep` does.
SAMPLE, FULL = 4, 500
SIGNAL_SAMPLE, SIGNAL_FULL = 2, 150

pytestmark = [
    pytest.mark.skipif(not BUSYBOX, reason="needs busybox"),
    pytest.mark.timeout(3600),
]


class Case(NamedTuple):
    """A verb: in which state of the pod it is struck, and in which one it leaves the pod."""

    words: tuple[str, ...]
    before: str
    after: str


CASES = {
    "create": Case(("pod", "create", "--name", "shop"), "", "Created"),
    "create-container": Case(("create", "--pod", "shop", "--name", "late"), "Running", "Degraded"),
    "start": Case(("pod", "start", "shop"), "Exited", "Running"),
    "stop": Case(("pod", "stop", "--time", "0", "shop"), "Running", "Exited"),
    "restart": Case(("pod", "restart", "--time", "0", "shop"), "Running", "Running"),
    "rm": Case(("pod", "rm", "--force", "--ignore", "--time", "0", "shop"), "Running", ""),
    "kill": Case(("pod", "kill", "shop"), "Running", "Exited"),
    "pause": Case(("pod", "pause", "shop"), "Running", "Paused"),
    "unpause": Case(("pod", "unpause", "shop"), "Paused", "Running"),
}
CREATED = {"create": "shop", "create-container": "late"}
NEVER_STARTED = "Created"


class Stage:
    """A pod of two containers, one of which needs the other, and commands on it."""

    def __init__(self, podrt: Podrt, server: CommandServer) -> None:
        self.podrt = podrt
        self.run = server
        self.settings = Settings(root=str(podrt.root), runroot=str(podrt.runroot))

    def state(self) -> str:
        """The pod's state, "" when there is none."""
        return self.run("pod", "ps", "--noheading", "--format", "{{.Status}}").strip()

    def words_of(self, name: str) -> tuple[str, ...]:
        words = CASES[name].words
        if name == "create":
            return (*words, "--cgroup-parent", self.podrt.cgroup_parent)
        return (*words, *SLEEP) if name == "create-container" else words

    def bring_to(self, wanted: str) -> None:
        """The state that a case begins in."""
        state = self.state()
        if state == wanted:
            return
        if not state:
            self._make_pod()
        elif not wanted:
            self.run("pod", "rm", "--force", "--time", "0", "shop")
            return
        elif state == "Paused":
            self.run("pod", "unpause", "shop")
        self.run("pod", "start", "shop")
        verb = {"Exited": ("stop", "--time", "0"), "Paused": ("pause",)}.get(wanted)
        if verb:
            self.run("pod", *verb, "shop")
        assert self.state() == wanted

    def _make_pod(self) -> None:
        self.run(*self.words_of("create"))
        for name, *needs in (("a",), ("b", "--requires", "a")):
            self.run(
                "create", "--pod", "shop", "--name", name, *needs, "--stop-timeout", "0", *SLEEP
            )

    def monitor(self) -> int:
        """The pod's monitor, 0 when there is none yet."""
        return next(iter(monitors_of(str(self.podrt.runroot))), 0)

    def exists(self, name: str) -> bool:
        kind = ("pod", "exists") if name == "shop" else ("ps", "-aq", "--filter", f"name=^{name}$")
        done = self.run.run(*kind)
        return done.code == 0 and (name == "shop" or bool(done.out))

    def check_acknowledged(self, name: str, done: Done) -> None:
        """What the struck command said to be done is done."""
        if not done.out:
            assert done.code != 0, (name, done)
        elif name in CREATED:
            assert self.exists(CREATED[name]), done
        else:
            assert self.state() == CASES[name].after, done

    def finish(self, name: str) -> None:
        """The one plain command: the same verb again."""
        done = self.run.run(*self.words_of(name))
        if name in CREATED and done.code:
            assert "is already in use" in done.err, done
        else:
            assert done.code == 0, done

    def check(self, name: str) -> None:
        """State and kernel agree, with nothing repaired."""
        found = self.state()
        assert found == CASES[name].after, (name, found)
        check_kernel(self.settings, self.podrt.cgroup_parent)
        assert self.run("system", "check") == ""

    def clear_up(self, name: str) -> None:
        """Make what the next round begins with; what cannot be made again is removed."""
        if name == "create":
            self.run("pod", "rm", "shop")
        elif name == "create-container":
            self.run("rm", "late")
        if not self.state():
            assert self.podrt.is_clean()
            assert [*cgroups_below(self.podrt.cgroup_parent)] == []


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, module_cgroup_parent: str) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("steps")
    podrt = Podrt(folder, module_cgroup_parent)
    podrt.import_busybox(folder)
    try:
        with CommandServer(podrt) as server:
            yield Stage(podrt, server)
    finally:
        podrt.remove_all()
    assert podrt.is_clean()


Strike = Callable[[Stage, str, int], Order]


def at_own_step(number: int) -> Strike:
    """Orders that send a signal to podrt itself."""

    def strike(stage: Stage, name: str, at: int) -> Order:
        return Order(argv=list(stage.words_of(name)), at=at, number=number)

    return strike


def at_step_of_monitor(stage: Stage, name: str, at: int) -> Order:
    """An order that kills the pod's monitor at a step of its own."""
    return Order(argv=list(stage.words_of(name)), at=at, monitor=stage.monitor())


def points(total: int, count: int, chance: random.Random) -> Iterator[int]:
    """`count` steps of `total`, evenly spread; all of them, again and again, if there are few."""
    width = max(1.0, total / count)
    phase = chance.random()
    for number in range(count):
        yield 1 + int((number + phase) * width) % total


def strike_everywhere(stage: Stage, name: str, strike: Strike, count: int) -> list[Done]:
    """Strike a verb at `count` of its steps, one after the other, and check after each."""
    struck: list[Done] = []
    stage.bring_to(CASES[name].before)
    total = stage.run.obey(strike(stage, name, -1)).points
    stage.clear_up(name)
    print(f"{name}: {total} steps")
    chance = random.Random(f"{name} {count}")
    for at in points(total, count, chance):
        stage.bring_to(CASES[name].before)
        done = stage.run.obey(strike(stage, name, at))
        try:
            stage.check_acknowledged(name, done)
            stage.finish(name)
            stage.check(name)
            stage.clear_up(name)
        except AssertionError as exc:
            raise AssertionError(f"{name} struck at step {at} of {total}: {done}") from exc
        if done.points >= at:
            struck.append(done)
    stage.bring_to("")
    return struck


every_verb = pytest.mark.parametrize("name", CASES)
CRASH_VERBS = ("create", "create-container", "start", "stop", "restart", "rm")


@pytest.mark.parametrize("name", CRASH_VERBS)
def test_kill_of_podrt_at_any_step_is_mended_by_the_same_verb(
    stage: Stage, name: str, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(SAMPLE, FULL)
    struck = strike_everywhere(stage, name, at_own_step(signal.SIGKILL), count)
    assert len(struck) > 0.9 * count
    assert {done.code for done in struck} <= {-signal.SIGKILL, 0}


# A container is created without its pod's monitor.
@pytest.mark.parametrize("name", [name for name in CRASH_VERBS if "create" not in name])
def test_kill_of_the_monitor_at_any_step_is_mended_by_the_same_verb(
    stage: Stage, name: str, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(SAMPLE, FULL)
    struck = strike_everywhere(stage, name, at_step_of_monitor, count)
    assert len(struck) > 0.9 * count
    assert {done.code for done in struck} <= {0, 125}


@every_verb
def test_interrupt_at_any_step_undoes_or_leaves_what_the_same_verb_finishes(
    stage: Stage, name: str, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(SIGNAL_SAMPLE, SIGNAL_FULL)
    struck = strike_everywhere(stage, name, at_own_step(signal.SIGINT), count)
    assert {done.code for done in struck} <= {INTERRUPTED, 0}
    assert not any(done.err for done in struck)


@every_verb
def test_closed_terminal_at_any_step_leaves_what_the_same_verb_finishes(
    stage: Stage, name: str, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(SIGNAL_SAMPLE, SIGNAL_FULL)
    struck = strike_everywhere(stage, name, at_own_step(signal.SIGHUP), count)
    assert {done.code for done in struck} <= {-signal.SIGHUP, 0}
