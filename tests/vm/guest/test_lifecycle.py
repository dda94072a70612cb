"""A pod's life on pure cgroup v2: played, frozen, killed, removed, and nothing left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from podrt.cgroups.base import CgroupManager
from podrt.cgroups.managers import open_manager
from vm.guest.cli import CGROUP, PARENT, Cli, read_counts, wait_until


@pytest.fixture
def manager() -> Iterator[CgroupManager]:
    """podrt's cgroups, which the command line cannot freeze yet."""
    opened = open_manager("cgroupfs")
    yield opened
    opened.close()


PLAYED = """
apiVersion: v1
kind: Pod
metadata:
  name: played
spec:
  containers:
    - name: sleeper
      image: localhost/busybox:latest
      command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
      resources:
        limits: {cpu: 250m, memory: 48Mi}
    - name: other
      image: localhost/busybox:latest
      command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
"""


def test_play_yaml_with_limits_writes_them_into_the_cgroup(podrt: Cli, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(PLAYED)
    podrt("kube", "play", str(file))
    try:
        limits = [path.read_text() for path in (CGROUP / "podrt_parent").glob("*/*/memory.max")]
        quotas = [path.read_text() for path in (CGROUP / "podrt_parent").glob("*/*/cpu.max")]
        assert f"{48 << 20}\n" in limits
        assert "25000 100000\n" in quotas
    finally:
        podrt("kube", "down", str(file))
    wait_until(lambda: not (CGROUP / "podrt_parent").exists(), "the parent cgroup is removed")


def test_start_container_is_born_in_its_cgroup_and_sees_it_as_the_root(
    podrt: Cli, pod: str
) -> None:
    cgroup = podrt.run_limited(pod, program="cat /proc/self/cgroup; exec sleep 1000")
    wait_until(lambda: podrt("logs", cgroup.name), "the container has said something")
    assert podrt("logs", cgroup.name) == "0::/"
    pid = int((cgroup / "cgroup.procs").read_text())
    assert os.readlink(f"/proc/{pid}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup")


def test_freeze_container_stops_only_its_processes(
    podrt: Cli, pod: str, manager: CgroupManager
) -> None:
    frozen = podrt.run_limited(pod, program="while :; do :; done")
    running = podrt.run_limited(pod, program="exec sleep 1000")
    path = f"/{frozen.relative_to(CGROUP)}"
    manager.freeze(path)
    assert read_counts(frozen / "cgroup.events")["frozen"] == 1
    assert read_counts(running / "cgroup.events")["frozen"] == 0
    before = read_counts(frozen / "cpu.stat")["usage_usec"]
    podrt("pod", "ps")
    assert read_counts(frozen / "cpu.stat")["usage_usec"] == before
    manager.thaw(path)
    wait_until(lambda: read_counts(frozen / "cpu.stat")["usage_usec"] > before, "it runs again")


def test_kill_pod_with_a_frozen_container_ends_it(
    podrt: Cli, pod: str, manager: CgroupManager
) -> None:
    cgroup = podrt.run_limited(pod, program="exec sleep 1000")
    manager.freeze(f"/{cgroup.relative_to(CGROUP)}")
    podrt("pod", "kill", pod)
    assert podrt("wait", cgroup.name) == "137"


@pytest.mark.parametrize("force", [True, False])
def test_remove_pod_leaves_no_cgroup_and_no_process(podrt: Cli, pod: str, force: bool) -> None:
    cgroup = podrt.run_limited(pod, program="trap 'exit 0' TERM; while :; do sleep 0.1; done")
    pids = [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    if force:
        podrt("pod", "rm", "--force", pod)
    else:
        podrt("pod", "stop", pod)
        podrt("pod", "rm", pod)
    assert not cgroup.parent.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    podrt("pod", "exists", pod, code=1)
    wait_until(lambda: not (CGROUP / PARENT[1:]).exists(), "the parent cgroup is removed")
