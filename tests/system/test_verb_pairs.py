"""Every pair of pod verbs against each other on one pod, from two processes at once.

What each may answer stands in a table; where both succeed, the pod is in a state in which one
after the other would have left it; and the state is always the kernel's. Source: semantics.md
sections 4 to 6, architecture.md decision 13.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from doubles.command_server import CommandServer, Done, Order
from doubles.commands import BUSYBOX
from doubles.pod_stage import Stage, open_stage

pytestmark = [
    pytest.mark.skipif(not BUSYBOX, reason="needs busybox"),
    pytest.mark.timeout(1200),
]

VERBS: dict[str, tuple[str, ...]] = {
    "start": ("pod", "start", "shop"),
    "stop": ("pod", "stop", "--time", "0", "shop"),
    "restart": ("pod", "restart", "--time", "0", "shop"),
    "kill": ("pod", "kill", "shop"),
    "pause": ("pod", "pause", "shop"),
    "unpause": ("pod", "unpause", "shop"),
    "rm": ("pod", "rm", "shop"),
    "rm --force": ("pod", "rm", "--force", "--time", "0", "shop"),
    "prune": ("pod", "prune", "--force"),
    # Its containers are deaf to the stop signal, so only another verb ends it.
    "stop -t 600": ("pod", "stop", "--time", "600", "shop"),
}
ENDS_A_LONG_STOP = ("kill", "rm --force")
PAIRS = [
    pair
    for pair in itertools.combinations_with_replacement(VERBS, 2)
    if "stop -t 600" not in pair or pair[0] in ENDS_A_LONG_STOP
]
BEFORE = ("Running", "Exited", "Paused")
SETTLING_S = 20.0

# A verb in a state of the pod -> the state it leaves; not in the table: it changes nothing.
# "" is a pod that is gone.
MOVES = {
    ("start", "Exited"): "Running",
    ("stop", "Running"): "Exited",
    ("stop -t 600", "Running"): "Exited",
    ("restart", "Exited"): "Running",
    ("kill", "Running"): "Exited",
    ("kill", "Paused"): "Exited",
    ("pause", "Running"): "Paused",
    ("unpause", "Paused"): "Running",
    ("rm", "Exited"): "",
    ("rm --force", "Running"): "",
    ("rm --force", "Paused"): "",
    ("rm --force", "Exited"): "",
    ("prune", "Exited"): "",
}
REMOVALS = ("rm", "rm --force", "prune")
STARTS = ("start", "restart")


class Refusal(NamedTuple):
    """A verb that may fail with these words beside one of others, and why it may."""

    verbs: tuple[str, ...]
    others: tuple[str, ...]
    words: str
    reason: str


ALL = tuple(VERBS)
REFUSALS = (
    Refusal(ALL, REMOVALS, "no such pod: shop|pod shop has been removed", "it was too late"),
    Refusal(ALL, REMOVALS, r"cannot \S+ pod shop: it is being removed", "on it only rm works"),
    Refusal(
        ("start", "restart"), ("stop", "stop -t 600"), "pod shop is busy: ended by stop",
        "stop pre-empts start",
    ),
    Refusal(
        tuple(verb for verb in ALL if verb not in ("kill", "rm", "rm --force", "prune")),
        ("kill",), "pod shop is busy: ended by kill", "kill pre-empts all that is no removal",
    ),
    Refusal(ALL, ("rm --force",), "pod shop is busy: ended by rm --force", "it pre-empts all"),
    Refusal(
        ("rm",), ALL,
        r"cannot remove pod shop: ((a|b) is (running|paused|stopping)(, )?)+: stop them .*",
        "rm without force refuses what runs",
    ),
    Refusal(
        STARTS, ALL, r"cannot start container (a|b): it is paused",
        "paused members are refused",
    ),
    Refusal(
        STARTS, ALL,
        r"(cannot start container b: the following dependencies are not running: a"
        r"|a dependency of container b failed to start: a)",
        "what a container needs died, or stands still, before its turn",
    ),
)  # fmt: skip


def refusals(verb: str, other: str, done: Done) -> list[str]:
    """The lines of an answer that are in no row of the table."""
    if done.code == 0:
        return [done.err] if done.err else []
    rows = [row for row in REFUSALS if verb in row.verbs and other in row.others]
    lines = [line.removeprefix("Error: ") for line in done.err.splitlines()]
    strange = [line for line in lines if not any(re.fullmatch(row.words, line) for row in rows)]
    return strange or ([] if lines else [f"code {done.code} and no word"])


def ends(pair: tuple[str, str], before: str, done: tuple[Done, Done]) -> set[str]:
    """The states in which the pod may be in the end."""
    found = set()
    for order in (pair, pair[::-1]):
        state = before
        for verb in order:
            state = MOVES.get((verb, state), state)
        found.add(state)
    for verb, answer in zip(pair, done, strict=True):
        if answer.code:
            # It did a part or nothing; the other one did its own in any case.
            other = pair[1 - pair.index(verb)]
            found |= {MOVES.get((other, state), state) for state in BEFORE}
    return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, module_cgroup_parent: str) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("pairs"), module_cgroup_parent) as found:
        yield found


@pytest.fixture(scope="module")
def other(stage: Stage) -> Iterator[CommandServer]:
    with CommandServer(stage.podrt) as server:
        yield server


def settled(stage: Stage, wanted: set[str]) -> str:
    """The pod's state once it is one of these; who was killed ends a moment later."""
    deadline = time.monotonic() + SETTLING_S
    while (state := stage.state()) not in wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return state


def play(stage: Stage, other: CommandServer, pair: tuple[str, str], chance: random.Random) -> None:
    before = chance.choice(BEFORE)
    stage.bring_to(before)
    # The one begins while the other is at work, whichever comes first.
    delays = [0.0, chance.random() * 0.03]
    chance.shuffle(delays)
    servers = (stage.run, other)
    for server, verb, delay_s in zip(servers, pair, delays, strict=True):
        server.send(Order(argv=list(VERBS[verb]), delay_s=delay_s))
    done = (stage.run.receive(), other.receive())
    told = f"{pair} on {before}, {delays}: {[(one.code, one.out, one.err) for one in done]}"
    strange = [
        *refusals(pair[0], pair[1], done[0]),
        *refusals(pair[1], pair[0], done[1]),
    ]
    assert not strange, f"{told}: {strange}"
    wanted = ends(pair, before, done)
    state = settled(stage, wanted)
    assert state in wanted, f"{told}: {state!r}, not {wanted}"
    stage.check_kernel()
    if not state:
        stage.check_empty()


@pytest.mark.parametrize("verb", VERBS)
def test_two_verbs_at_once_answer_what_they_may_and_leave_the_kernel_s_state(
    stage: Stage, other: CommandServer, verb: str, rounds: Callable[[int, int], int]
) -> None:
    pairs = [pair for pair in PAIRS if pair[0] == verb] or [PAIRS[-1]]
    chance = random.Random(verb)
    for pair in chance.sample(pairs, min(len(pairs), rounds(2, len(pairs)))):
        try:
            for _ in range(rounds(1, 50)):
                play(stage, other, pair, chance)
        finally:
            stage.bring_to("")
