"""A podrt command is killed with SIGKILL at a random moment; the next commands put all in order.

What was acknowledged holds, the rest is undone or finished, and after the pods are removed no
process, cgroup, file or lock of theirs is left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.commands import Podrt, command_environment, monitors_of

# From before anything happened to after everything has, on a quiet machine.
LATEST_S = 0.6


def killed_after(podrt: Podrt, seconds: float, *words: str) -> bool:
    """Run a command and kill it; whether it was still at work."""
    process = subprocess.Popen(
        podrt.words(*words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=command_environment(),
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def make_pod(podrt: Podrt, members: int) -> None:
    podrt.pod("shop")
    needs: list[str] = []
    for number in range(members):
        name = f"c{number}"
        podrt(
            "create", "--pod", "shop", "--name", name, *needs, "--stop-timeout", "0",
            "base", "/bin/sleep", "1000",
        )  # fmt: skip
        needs = ["--requires", name]


def check_agrees(podrt: Podrt) -> None:
    """Every container that is said to run has a process, and none runs twice."""
    rows = [row for row in podrt.listed("ps") if not row["IsInfra"]]
    pids = [row["Pid"] for row in rows]
    assert len(set(pids)) == len(pids)
    for pid in pids:
        assert Path(f"/proc/{pid}").exists(), rows


@pytest.mark.parametrize("verb", ["start", "stop", "rm"])
def test_kill_of_a_pod_verb_leaves_what_the_next_command_mends(
    podrt: Podrt, verb: str, rounds: Callable[[int, int], int]
) -> None:
    chance = random.Random(verb)
    for _ in range(rounds(3, 170)):
        make_pod(podrt, 3)
        if verb != "start":
            podrt("pod", "start", "shop")
        flags = ["--force", "--time", "0"] if verb == "rm" else []
        killed_after(podrt, chance.random() * LATEST_S, "pod", verb, *flags, "shop")
        check_agrees(podrt)
        if verb == "start":
            podrt("pod", "start", "shop")
            assert podrt.listed("pod", "ps")[0]["Status"] == "Running"
        elif verb == "stop":
            podrt("pod", "stop", "-t", "0", "shop")
            assert podrt.listed("pod", "ps")[0]["Status"] == "Exited"
        podrt("pod", "rm", "--force", "--ignore", "--time", "0", "shop")
        assert podrt.is_clean(), podrt.run("system", "check").stdout


def test_kill_of_a_create_leaves_all_or_nothing(
    podrt: Podrt, rounds: Callable[[int, int], int]
) -> None:
    chance = random.Random(5)
    for number in range(rounds(4, 200)):
        name = f"shop{number}"
        flags = ("--cgroup-parent", podrt.cgroup_parent)
        killed_after(podrt, chance.random() * LATEST_S, "pod", "create", "--name", name, *flags)
        exists = podrt.run("pod", "exists", name).returncode == 0
        if not exists:
            podrt.pod(name)  # the name is free again at once
        members = podrt.listed("ps", "-a")
        assert len(members) == 1 and members[0]["PodName"] == name
        podrt("pod", "rm", name)
        assert podrt.is_clean(), podrt.run("system", "check").stdout


def test_kill_of_kube_play_is_cleaned_up_by_down_and_check(
    podrt: Podrt, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    chance = random.Random(11)
    deployment = tmp_path / "fleet.yaml"
    deployment.write_text(
        """
apiVersion: apps/v1
kind: Deployment
metadata: {name: fleet}
spec:
  replicas: 6
  selector: {matchLabels: {app: fleet}}
  template:
    metadata: {labels: {app: fleet}}
    spec:
      restartPolicy: Always
      terminationGracePeriodSeconds: 0
      containers:
      - {name: a, image: base, command: [/bin/sleep, "1000"]}
      - {name: b, image: base, command: [/bin/sleep, "1000"]}
"""
    )
    for _ in range(rounds(3, 100)):
        killed_after(podrt, chance.random() * 2 * LATEST_S, "kube", "play", str(deployment))
        check_agrees(podrt)
        podrt("kube", "down", str(deployment))
        assert podrt.is_clean(), podrt.run("system", "check").stdout


def test_kill_of_a_monitor_leaves_its_containers_and_the_next_verb_takes_over(
    podrt: Podrt,
) -> None:
    make_pod(podrt, 2)
    podrt("pod", "start", "shop")
    before = {row["Names"][0]: row["Pid"] for row in podrt.listed("ps") if not row["IsInfra"]}
    for pid in monitors_of(str(podrt.runroot)):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.05)
    check_agrees(podrt)
    assert podrt("stop", "-t", "0", "c1").strip() == "c1"
    rows = {row["Names"][0]: row for row in podrt.listed("ps", "-a")}
    assert rows["c0"]["State"] == "running" and rows["c0"]["Pid"] == before["c0"]
    assert rows["c1"]["State"] in ("exited", "stopped")
    podrt("pod", "rm", "--force", "--time", "0", "shop")
