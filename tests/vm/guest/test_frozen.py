"""Freezing, counting and restarting where cgroup v2 is all there is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vm.guest.cli import CGROUP, PARENT, Cli, read_counts, wait_until

# Uses some time again and again, and leaves an emulated machine the most of it.
BUSY = "while sleep 0.1; do :; done"


def is_frozen(cgroup: Path) -> bool:
    return read_counts(cgroup / "cgroup.events")["frozen"] == 1


def freeze_asked(cgroup: Path) -> str:
    return (cgroup / "cgroup.freeze").read_text().strip()


def status_of(podrt: Cli, pod: str) -> str:
    return podrt("pod", "inspect", "--format", "{{.State}}", pod)


def test_pause_pod_freezes_its_cgroup_in_one_write(podrt: Cli, pod: str) -> None:
    members = [podrt.run_limited(pod, program=BUSY) for _ in range(2)]
    whole = CGROUP / PARENT[1:] / pod
    podrt("pod", "pause", pod)
    assert (freeze_asked(whole), status_of(podrt, pod)) == ("1", "Paused")
    assert all(map(is_frozen, members))
    assert {freeze_asked(member) for member in members} == {"0"}
    used = [read_counts(member / "cpu.stat")["usage_usec"] for member in members]
    # One is let go: what was one freeze of all becomes one of the other.
    podrt("unpause", members[0].name)
    assert (freeze_asked(whole), freeze_asked(members[1])) == ("0", "1")
    wait_until(
        lambda: read_counts(members[0] / "cpu.stat")["usage_usec"] > used[0], "it runs again"
    )
    assert read_counts(members[1] / "cpu.stat")["usage_usec"] == used[1]
    podrt("pod", "unpause", pod)
    assert not any(map(is_frozen, members))
    assert status_of(podrt, pod) == "Running"


def test_restart_pod_skips_the_paused_and_gives_the_others_a_new_process(
    podrt: Cli, pod: str
) -> None:
    paused, other = (podrt.run_limited(pod, program="exec sleep 1000") for _ in range(2))
    old = (other / "cgroup.procs").read_text()
    podrt("pause", paused.name)
    podrt("pod", "restart", "--time", "0", pod)
    assert (other / "cgroup.procs").read_text() not in ("", old)
    assert is_frozen(paused)
    podrt("pod", "rm", "--force", "--time", "0", pod)
    assert not paused.exists()


def test_stats_are_the_kernel_s_counts_and_a_total(podrt: Cli, pod: str) -> None:
    cgroup = podrt.run_limited(pod, "--memory", "64m", program="exec sleep 1000")
    rows = json.loads(podrt("pod", "stats", "--no-stream", "--format", "json", pod))
    text = json.dumps(rows)
    assert cgroup.name[:12] in text
    row = next(row for row in rows if cgroup.name.startswith(row["CID"]))
    assert row["PIDS"] == "1"
    assert "67.11MB" in row["MemUsage"] or "64MiB" in row["MemUsage"]


def test_share_pid_and_cgroup_join_the_infra_s_namespaces(podrt: Cli) -> None:
    flags = ["--name", "led", "--share", "+pid,+cgroup", "--infra-name", "lead"]
    pod = podrt("pod", "create", *flags, "--cgroup-parent", PARENT)
    try:
        cgroup = podrt.run_limited(pod, program="cat /proc/self/cgroup; exec sleep 1000")
        lead = int(podrt("inspect", "--format", "{{.State.Pid}}", "lead"))
        member = int((cgroup / "cgroup.procs").read_text())
        for kind in ("pid", "cgroup", "net"):
            spaces = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (lead, member)}
            assert len(spaces) == 1, kind
        # The root it sees is the infra container's: its own lies beside that.
        wait_until(lambda: podrt("logs", cgroup.name), "the container has said something")
        assert f"0::/../{cgroup.name}" in podrt("logs", cgroup.name).splitlines()
    finally:
        podrt("pod", "rm", "--force", "--time", "0", pod)
