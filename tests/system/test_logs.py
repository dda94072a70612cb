"""`logs` and `pod logs` on real containers: whose lines, in which order, until when."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX, Podrt, command_environment


@pytest.fixture
def podrt(tmp_path: Path, cgroup_parent: str) -> Iterator[Podrt]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    made = Podrt(tmp_path, cgroup_parent)
    made.import_busybox(tmp_path)
    try:
        yield made
    finally:
        made.remove_all()


def say(podrt: Podrt, name: str, script: str, *flags: str) -> str:
    """A member of pod shop that runs a script; its ID."""
    words = ("--pod", "shop", "--name", name, "--stop-timeout", "0", *flags)
    return podrt("create", *words, "base", "/bin/sh", "-c", script).strip()[:12]


class Follower:
    """A `logs --follow` whose lines are read as they come."""

    def __init__(self, podrt: Podrt, *words: str) -> None:
        self._process = subprocess.Popen(
            podrt.words(*words), stdout=subprocess.PIPE, text=True, env=command_environment()
        )

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def end(self) -> tuple[str, int]:
        """What else it says before it ends by itself, and its exit code."""
        rest, _ = self._process.communicate(timeout=60)
        return rest, self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def shop(podrt: Podrt, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Pod shop, in which a says its lines before b does; name -> short ID."""
    podrt.pod("shop")
    ids = {
        "a": say(podrt, "a", "echo a-1; echo a-2"),
        "b": say(podrt, "b", "echo b-1; echo b-2"),
    }
    podrt("start", "a")
    podrt("wait", "a")
    podrt("start", "b")
    podrt("wait", "b")
    yield ids


def test_pod_logs_come_merged_in_time_order_with_ids(podrt: Podrt, shop: dict[str, str]) -> None:
    a, b = shop["a"], shop["b"]
    done = podrt.run("pod", "logs", "shop")
    assert done.stdout == f"{a} a-1\n{a} a-2\n{b} b-1\n{b} b-2\n"
    assert done.stderr == ""
    assert podrt("pod", "logs", "--latest") == done.stdout
    assert podrt("pod", "logs", "-n", "shop") == "a a-1\na a-2\nb b-1\nb b-2\n"
    assert podrt("pod", "logs", "--tail", "1", "-n", "shop") == "a a-2\nb b-2\n"
    assert podrt("pod", "logs", "--tail", "0", "shop") == ""


def test_logs_of_errors_go_to_standard_error(podrt: Podrt) -> None:
    podrt.pod("shop")
    say(podrt, "a", "echo wrong >&2")
    podrt("start", "a")
    podrt("wait", "a")
    done = podrt.run("logs", "--color", "a")
    assert (done.stdout, done.stderr) == ("", "\x1b[37mwrong\x1b[0m\n")


def test_pod_logs_of_one_member_have_no_prefix(podrt: Podrt, shop: dict[str, str]) -> None:
    for name in ("a", shop["a"]):
        assert podrt("pod", "logs", "-n", "--container", name, "shop") == "a-1\na-2\n"


def test_pod_logs_between_two_moments(podrt: Podrt, shop: dict[str, str]) -> None:
    lines = podrt("pod", "logs", "-t", "-n", "shop").splitlines()
    times = [line.split()[1] for line in lines]
    assert times == sorted(times) and all(time.endswith("Z") for time in times)
    assert podrt("pod", "logs", "--since", times[2], "-n", "shop") == "b b-1\nb b-2\n"
    assert podrt("pod", "logs", "--until", times[1], "-n", "shop") == "a a-1\na a-2\n"
    assert podrt("pod", "logs", "--since", "1h", "shop").count("\n") == 4
    assert podrt("pod", "logs", "--until", "1h", "shop") == ""


def test_logs_of_several_are_merged_and_coloured(podrt: Podrt, shop: dict[str, str]) -> None:
    assert podrt("logs", "a") == podrt("logs", "-n", "a") == "a-1\na-2\n"
    assert podrt("logs", "--latest") == "b-1\nb-2\n"
    assert podrt("logs", "-n", "b", "a", "b") == "a a-1\na a-2\nb b-1\nb b-2\n"
    coloured = podrt("logs", "--color", "-n", "--tail", "1", "a", "b")
    assert coloured == "\x1b[37ma a-2\x1b[0m\n\x1b[31mb b-2\x1b[0m\n"


def test_pod_logs_followed_show_whom_is_added_later_and_end_with_the_last(podrt: Podrt) -> None:
    podrt.pod("shop")
    wait = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    say(podrt, "a", wait, "--stop-timeout", "10")
    podrt("pod", "start", "shop")
    follower = Follower(podrt, "pod", "logs", "-f", "-n", "shop")
    try:
        assert follower.line() == "a up\n"
        say(podrt, "b", wait, "--stop-timeout", "10")
        podrt("start", "b")
        assert follower.line() == "b up\n"
        podrt("stop", "a")
        assert follower.line() == "a bye\n"
        podrt("rm", "a")
        podrt("stop", "b")
        assert follower.end() == ("b bye\n", 0)
    finally:
        follower.kill()


def test_logs_followed_until_a_moment_end_then(podrt: Podrt) -> None:
    podrt.pod("shop")
    say(podrt, "a", "echo up; sleep 1000")
    podrt("pod", "start", "shop")
    follower = Follower(podrt, "logs", "-f", "--until", "0s", "a")
    try:
        rest, code = follower.end()
        assert code == 0 and rest in ("up\n", "")
    finally:
        follower.kill()
    assert podrt("ps", "-q", "--filter", "name=^a$") != ""


@pytest.mark.parametrize("words", [("logs", "-f", "a"), ("pod", "logs", "-f", "-c", "a", "shop")])
def test_logs_followed_of_a_removed_container_end(podrt: Podrt, words: tuple[str, ...]) -> None:
    podrt.pod("shop")
    say(podrt, "a", "echo up; sleep 1000")
    podrt("pod", "start", "shop")
    follower = Follower(podrt, *words)
    try:
        assert follower.line() == "up\n"
        podrt("pod", "rm", "-f", "shop")
        assert follower.end() == ("", 0)
    finally:
        follower.kill()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("pod", "logs"), "specify at least one pod name or ID to log"),
        (("pod", "logs", "shop", "shop"), "requires exactly 1 arg"),
        (("pod", "logs", "none"), "no such pod: none"),
        (("pod", "logs", "-l", "shop"), "--latest and pods cannot be used together"),
        (("pod", "logs", "-l"), "no such pod"),
        (("pod", "logs", "--since", "soon", "shop"), "--since: 'soon' is no time"),
        (("pod", "logs", "--until", "1d", "shop"), "--until: '1d' is no time"),
        (("pod", "logs", "--tail", "few", "shop"), "--tail: 'few' is no whole number"),
        (("logs",), "specify at least one container name or ID to log"),
        (("logs", "-l", "x"), "--latest and containers cannot be used together"),
        (("logs", "-l"), "no such container"),
    ],
)
def test_logs_of_what_is_wrong_say_so(podrt: Podrt, words: tuple[str, ...], reason: str) -> None:
    assert reason in podrt.fails(125, *words)


def test_pod_logs_of_a_container_elsewhere_are_refused(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--name", "far", "--cgroup-parent", podrt.cgroup_parent, "base", "true")
    for name in ("far", "none"):
        error = podrt.fails(125, "pod", "logs", "-c", name, "shop")
        assert f"{name} is not in pod shop" in error
