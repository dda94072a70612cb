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

from doubles.command_server import Done, Order
from doubles.commands import BUSYBOX
from doubles.pod_stage import SLEEP, Stage, open_stage

INTERRUPTED = 130
# Of each verb and victim: what `make test` looks at, and what `make deep` does.
SAMPLE, FULL = 2, 500
SIGNAL_SAMPLE, SIGNAL_FULL = 1, 150

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


def words_of(stage: Stage, name: str) -> tuple[str, ...]:
    words = CASES[name].words
    if name == "create":
        return stage.create_words
    return (*words, *SLEEP) if name == "create-container" else words


def check_acknowledged(stage: Stage, name: str, done: Done) -> None:
    """What the struck command said to be done is done."""
    if not done.out:
        assert done.code != 0, (name, done)
    elif name == "create-container":
        assert stage.has_container("late"), done
    else:
        assert stage.state() == CASES[name].after, done


def finish(stage: Stage, name: str) -> None:
    """The one plain command: the same verb again."""
    done = stage.run.run(*words_of(stage, name))
    if "create" in name and done.code:
        assert "is already in use" in done.err, done
    else:
        assert done.code == 0, done


def clear_up(stage: Stage, name: str) -> None:
    """Make what the next round begins with; what cannot be made again is removed."""
    if name == "create":
        stage.run("pod", "rm", "shop")
    elif name == "create-container":
        stage.run("rm", "late")
    if not stage.state():
        stage.check_empty()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, module_cgroup_parent: str) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("steps"), module_cgroup_parent) as found:
        yield found


Strike = Callable[[Stage, str, int], Order]


def at_own_step(number: int) -> Strike:
    """Orders that send a signal to podrt itself."""

    def strike(stage: Stage, name: str, at: int) -> Order:
        return Order(argv=list(words_of(stage, name)), at=at, number=number)

    return strike


def at_step_of_monitor(stage: Stage, name: str, at: int) -> Order:
    """An order that kills the pod's monitor at a step of its own."""
    return Order(argv=list(words_of(stage, name)), at=at, monitor=stage.monitor())


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
    clear_up(stage, name)
    print(f"{name}: {total} steps")
    chance = random.Random(f"{name} {count}")
    for at in points(total, count, chance):
        stage.bring_to(CASES[name].before)
        done = stage.run.obey(strike(stage, name, at))
        try:
            check_acknowledged(stage, name, done)
            finish(stage, name)
            assert stage.state() == CASES[name].after
            stage.check_kernel()
            clear_up(stage, name)
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
