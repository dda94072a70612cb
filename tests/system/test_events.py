"""What `podrt events` tells of real containers: each thing once, whoever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import Any

from doubles.commands import Podrt, command_environment, monitors_of
from doubles.oci_runtime import wait_for

SLEEPS = ("--stop-timeout", "0", "base", "/bin/sleep", "1000")


def told(podrt: Podrt, *filters: str) -> list[dict[str, Any]]:
    words = [word for one in filters for word in ("--filter", one)]
    lines = podrt("events", "--stream=false", "--format", "json", *words).splitlines()
    return [json.loads(line) for line in lines]


def actions(podrt: Podrt, *filters: str) -> list[str]:
    return [event["Status"] for event in told(podrt, *filters)]


def test_events_of_a_container_tell_its_life_in_order(podrt: Podrt) -> None:
    pod_id = podrt.pod("shop", "--label", "tier=one")
    podrt("create", "--pod", "shop", "--name", "web", "--label", "a=b", *SLEEPS)
    podrt("pod", "start", "shop")
    podrt("pause", "web")
    podrt("unpause", "web")
    podrt("kill", "--signal", "HUP", "web")
    podrt("pod", "stop", "shop")
    podrt("pod", "restart", "shop")
    podrt("pod", "kill", "shop")
    podrt("pod", "rm", "--force", "shop")
    found = actions(podrt, "container=web")
    # Who sent a signal and whoever died of it write independently of each other.
    killed = found[-3:-1]
    one_run = ["init", "start"]
    assert sorted(killed) == ["died", "kill"]
    assert found == [
        "create", *one_run, "pause", "unpause", "kill", "stop", "died", "cleanup",
        *one_run, *killed, "remove",
    ]  # fmt: skip
    assert actions(podrt, "type=pod") == ["create", "start", "stop", "restart", "kill", "remove"]
    died = told(podrt, "event=died", "container=web")
    assert [event["ContainerExitCode"] for event in died] == [137, 137]
    assert {event["PodID"] for event in died} == {pod_id}
    assert told(podrt, "label=tier=one")[0]["Attributes"] == {"tier": "one"}
    assert all(event["Attributes"] == {"a": "b"} for event in died)


def test_events_are_the_same_before_and_after_they_are_folded(podrt: Podrt) -> None:
    podrt("run", "-d", "--name", "web", "--network", "none", *SLEEPS)
    (pid,) = (row["Pid"] for row in podrt.listed("ps"))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "died" in actions(podrt), "the end in the journal")
    before = told(podrt)
    assert [event["Status"] for event in before] == ["create", "init", "start", "died"]
    podrt("start", "web")
    assert told(podrt)[:4] == before
    assert actions(podrt)[4:] == ["init", "start"]


def test_events_of_a_monitor_that_is_killed_are_told_once(podrt: Podrt) -> None:
    podrt("run", "-d", "--name", "web", "--network", "none", *SLEEPS)
    (pid,) = (row["Pid"] for row in podrt.listed("ps"))
    (monitor,) = monitors_of(str(podrt.runroot))
    os.kill(monitor, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.kill(monitor, signal.SIGKILL)
    wait_for(lambda: not podrt.listed("ps"), "the end of the container")
    for _ in range(2):
        podrt("start", "web")
        podrt("stop", "web")
    found = actions(podrt)
    assert found.count("start") == 3 and found.count("died") == 3, found
    assert found[:4] == ["create", "init", "start", "died"]


def test_events_are_followed_until_the_time_that_was_named(podrt: Podrt) -> None:
    podrt.pod("early")
    words = podrt.words("events", "--format", "{{.Status}} {{.Name}}")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=command_environment()
    ) as follower:
        try:
            assert follower.stdout is not None
            wait_for(lambda: _is_following(follower.pid, podrt), "the follower")
            podrt.pod("late")
            lines = [follower.stdout.readline(), follower.stdout.readline()]
        finally:
            follower.send_signal(signal.SIGINT)
    assert lines[0] == "create late\n" and lines[1].startswith("create ")
    past = podrt("events", "--until", "0s", "--format", "{{.Name}}").split()
    assert "early" in past and "late" in past
    assert podrt("events", "--since", "1h", "--until", "30m") == ""


def _is_following(pid: int, podrt: Podrt) -> bool:
    """Whether it has the log open: what happens from now on is new to it."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(str(podrt.root / "state")):
                return True
    return False


def test_events_with_what_is_wrong_are_refused_in_a_line(podrt: Podrt) -> None:
    assert "nonsense is an invalid filter" in podrt.fails(125, "events", "--filter", "nonsense=1")
    assert "--since: 'zz'" in podrt.fails(125, "events", "--since", "zz")
    assert "arguments" in podrt.fails(125, "events", "shop")
