"""Limits in a pure cgroup v2: they stand in the kernel's files, and they hold."""

from __future__ import annotations

from pathlib import Path

from vm.guest.cli import IMAGE, Cli, read_counts, wait_until

MIB = 1 << 20


def test_run_with_limits_writes_them_into_the_cgroup(podrt: Cli, pod: str) -> None:
    flags = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "32"]
    cgroup = podrt.run_limited(pod, *flags, program="exec sleep 1000")
    assert (cgroup / "memory.max").read_text() == f"{64 * MIB}\n"
    assert (cgroup / "cpu.max").read_text() == "50000 100000\n"
    assert (cgroup / "pids.max").read_text() == "32\n"
    pid = int((cgroup / "cgroup.procs").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def test_run_without_limits_stops_at_the_default_pids_limit(podrt: Cli, pod: str) -> None:
    cgroup = podrt.run_limited(pod, program="exec sleep 1000")
    assert (cgroup / "pids.max").read_text() == "2048\n"
    assert (cgroup / "memory.max").read_text() == "max\n"


def test_fork_beyond_the_pids_limit_is_stopped(podrt: Cli, pod: str) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done"
    cgroup = podrt.run_limited(pod, "--pids-limit", "16", program=bomb)
    wait_until(lambda: read_counts(cgroup / "pids.events")["max"] > 0, "a fork is refused")
    assert int((cgroup / "pids.current").read_text()) <= 16


def test_eat_memory_beyond_the_limit_is_killed(podrt: Cli, pod: str) -> None:
    hog = "exec dd if=/dev/zero of=/dev/null bs=256M count=1"
    cgroup = podrt.run_limited(pod, "--memory", "32m", program=hog)
    assert podrt("wait", cgroup.name) == "137"


def test_eat_memory_beyond_the_limit_spares_the_neighbour(podrt: Cli, pod: str) -> None:
    neighbour = podrt.run_limited(pod, "--memory", "32m", program="exec sleep 1000")
    hog = "dd if=/dev/zero of=/dev/null bs=256M count=1; exec sleep 1000"
    greedy = podrt.run_limited(pod, "--memory", "32m", program=hog)
    wait_until(lambda: read_counts(greedy / "memory.events")["oom_kill"] > 0, "an OOM kill")
    assert read_counts(neighbour / "memory.events")["oom_kill"] == 0
    assert (neighbour / "cgroup.procs").read_text()


def test_burn_cpu_beyond_the_limit_is_throttled(podrt: Cli, pod: str) -> None:
    cgroup = podrt.run_limited(pod, "--cpus", "0.1", program="while :; do :; done")
    before = read_counts(cgroup / "cpu.stat")["nr_throttled"]
    wait_until(
        lambda: read_counts(cgroup / "cpu.stat")["nr_throttled"] > before + 3, "it is throttled"
    )


def test_open_device_outside_the_list_is_refused(podrt: Cli, pod: str) -> None:
    # Without the filter this number is a driver's or nobody's (ENXIO); EPERM is the filter's word.
    program = "mknod /tmp/fuse c 10 229 && cat /tmp/fuse 2>&1"
    image = [IMAGE, "/bin/sh", "-c"]
    flags = ["--rm", "--pod", pod, "--cap-add", "MKNOD"]
    allowed = podrt("run", *flags, *image, "head -c 3 /dev/zero | wc -c")
    refused = podrt("run", *flags, *image, f"{program}; true")
    assert allowed == "3"
    assert "Operation not permitted" in refused
