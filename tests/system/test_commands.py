"""The command line on real processes: what every verb does, prints and exits with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX, Podrt, command_environment

SLEEP = ("base", "/bin/sleep", "1000")
OBEDIENT = ("base", "/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.02; done")


def states(podrt: Podrt) -> dict[str, str]:
    return {row["Names"][0]: row["State"] for row in podrt.listed("ps", "-a")}


def namespace_of(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def pid_of(podrt: Podrt, name: str) -> int:
    return next(int(row["Pid"]) for row in podrt.listed("ps") if row["Names"] == [name])


def test_pod_life_from_create_to_rm_shows_every_state(podrt: Podrt) -> None:
    pod_id = podrt.pod("shop", "--label", "tier=front")
    assert podrt.run("pod", "exists", "shop").returncode == 0
    assert podrt.listed("pod", "ps")[0]["Status"] == "Created"
    podrt("create", "--pod", "shop", "--name", "a", "--stop-timeout", "0", *SLEEP)
    podrt("create", "--pod", "shop", "--name", "b", *OBEDIENT)
    assert podrt("pod", "start", "shop").strip() == "shop"
    assert podrt.listed("pod", "ps")[0]["Status"] == "Running"
    assert states(podrt) == {f"{pod_id[:12]}-infra": "running", "a": "running", "b": "running"}
    podrt("stop", "b")
    assert podrt.listed("pod", "ps")[0]["Status"] == "Degraded"
    assert podrt("wait", "b").strip() == "3"
    assert podrt("pod", "stop", "-t", "1", "shop").strip() == "shop"
    assert podrt.listed("pod", "ps")[0]["Status"] == "Exited"
    assert podrt("pod", "start", pod_id[:12]).strip() == pod_id[:12]
    assert states(podrt)["b"] == "running"
    assert "is running" in podrt.fails(125, "pod", "rm", "shop")
    assert podrt("pod", "rm", "-f", "-t", "0", "shop").strip() == "shop"
    assert podrt.run("pod", "exists", "shop").returncode == 1
    assert podrt.listed("pod", "ps") == []


def test_pod_members_share_net_ipc_uts_and_nothing_else(podrt: Podrt) -> None:
    podrt.pod("shop")
    for name in ("a", "b"):
        podrt("create", "--pod", "shop", "--name", name, "--stop-timeout", "0", *SLEEP)
    podrt("pod", "start", "shop")
    first, second = pid_of(podrt, "a"), pid_of(podrt, "b")
    for kind in ("net", "ipc", "uts"):
        assert namespace_of(first, kind) == namespace_of(second, kind)
        assert namespace_of(first, kind) != os.readlink(f"/proc/self/ns/{kind}")
    for kind in ("mnt", "pid", "cgroup"):
        assert namespace_of(first, kind) != namespace_of(second, kind)
        assert namespace_of(first, kind) != os.readlink(f"/proc/self/ns/{kind}")
    again = podrt.listed("ps")
    assert {row["PodName"] for row in again} == {"shop"}


def test_pod_restarted_by_hand_has_new_namespaces_that_all_join(podrt: Podrt) -> None:
    podrt.pod("shop")
    for name in ("a", "b"):
        podrt("create", "--pod", "shop", "--name", name, "--stop-timeout", "0", *SLEEP)
    podrt("pod", "start", "shop")
    podrt("pod", "stop", "-t", "0", "shop")
    podrt("pod", "start", "shop")
    assert namespace_of(pid_of(podrt, "a"), "net") == namespace_of(pid_of(podrt, "b"), "net")


def test_limits_of_a_container_stand_in_its_cgroup_files(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt(
        "run", "-d", "--pod", "shop", "--name", "a", "--stop-timeout", "0",
        "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", *SLEEP,
    )  # fmt: skip
    pid = pid_of(podrt, "a")
    groups = dict(
        line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    )
    v1 = Path("/sys/fs/cgroup/memory/cgroup.procs").exists()
    if v1:
        root = Path("/sys/fs/cgroup")
        found = {
            "memory": (root / "memory" / groups["memory"][1:] / "memory.limit_in_bytes"),
            "cpu": (root / "cpu" / groups["cpu"][1:] / "cpu.cfs_quota_us"),
            "pids": (root / "pids" / groups["pids"][1:] / "pids.max"),
        }
        expected = {"memory": "67108864", "cpu": "50000", "pids": "50"}
    else:
        folder = Path("/sys/fs/cgroup") / groups[""][1:]
        names = {"memory": "memory.max", "cpu": "cpu.max", "pids": "pids.max"}
        found = {key: folder / name for key, name in names.items()}
        expected = {"memory": "67108864", "cpu": "50000 100000", "pids": "50"}
    assert {key: path.read_text().strip() for key, path in found.items()} == expected


def test_fork_bomb_without_limits_stops_at_the_default_pids_limit(podrt: Podrt) -> None:
    podrt("run", "-d", "--name", "a", "--stop-timeout", "0", *SLEEP)
    pid = pid_of(podrt, "a")
    groups = dict(
        line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    )
    root = Path("/sys/fs/cgroup")
    where = root / "pids" / groups["pids"][1:] if "pids" in groups else root / groups[""][1:]
    assert (where / "pids.max").read_text().strip() == "2048"


def test_run_in_the_foreground_passes_output_and_exit_code_on(podrt: Podrt) -> None:
    done = podrt.run(
        "run", "--rm", "base", "/bin/sh", "-c", "echo out; echo err >&2; printf part; exit 7"
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\npart", "err\n")
    assert podrt.listed("ps", "-a") == []


def test_run_killed_by_a_signal_exits_with_128_and_its_number(podrt: Podrt) -> None:
    words = podrt.words("run", "--rm", "--name", "a", *SLEEP)
    with subprocess.Popen(words, env=command_environment()) as process:
        wait_running(podrt, "a")
        podrt("kill", "a")
        assert process.wait(20) == 137


def wait_running(podrt: Podrt, name: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(row["Names"] == [name] for row in podrt.listed("ps")):
            return
    raise AssertionError(f"{name} does not run")


def test_run_interrupted_by_sigterm_ends_its_container(podrt: Podrt) -> None:
    words = podrt.words("run", "--rm", "--name", "a", *OBEDIENT)
    with subprocess.Popen(words, env=command_environment()) as process:
        wait_running(podrt, "a")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 3
    assert podrt.listed("ps", "-a") == []


def test_dependency_that_fails_marks_its_dependents_and_the_rest_runs(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "db", "base", "/bin/none")
    podrt("create", "--pod", "shop", "--name", "web", "--requires", "db", *SLEEP)
    podrt("create", "--pod", "shop", "--name", "far", "--requires", "web", *SLEEP)
    podrt("create", "--pod", "shop", "--name", "free", "--stop-timeout", "0", *SLEEP)
    done = podrt.run("pod", "start", "shop")
    assert done.returncode == 125 and done.stdout == ""
    lines = sorted(done.stderr.splitlines())
    assert len(lines) == 3
    assert lines[0] == "Error: a dependency of container far failed to start: web"
    assert lines[1] == "Error: a dependency of container web failed to start: db"
    assert "container db" in lines[2] and "/bin/none" in lines[2]
    found = states(podrt)
    assert (found["db"], found["web"], found["far"], found["free"]) == (
        "created", "created", "created", "running",
    )  # fmt: skip


def test_init_containers_run_first_and_once_is_removed(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "i", "--init-ctr", "once", "base", "/bin/true")
    podrt("create", "--pod", "shop", "--name", "j", "--init-ctr", "always", "base", "/bin/true")
    podrt("create", "--pod", "shop", "--name", "a", "--stop-timeout", "0", *SLEEP)
    podrt("pod", "start", "shop")
    found = states(podrt)
    assert "i" not in found
    assert (found["j"], found["a"]) in (("stopped", "running"), ("exited", "running"))


def test_init_container_that_fails_keeps_the_pod_from_starting(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "i", "--init-ctr", "once", "base", "/bin/false")
    podrt("create", "--pod", "shop", "--name", "a", *SLEEP)
    assert "init container i exited with code 1" in podrt.fails(125, "pod", "start", "shop")
    assert states(podrt)["a"] == "created"


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podrt]:
    """A root with the image `base` for commands that must leave it as it is."""
    if not BUSYBOX:
        pytest.skip("needs busybox")
    folder = tmp_path_factory.mktemp("unchanged")
    command = Podrt(folder)
    command.import_busybox(folder)
    yield command
    assert command.listed("ps", "-a") == command.listed("pod", "ps") == []
    assert command.is_clean()


@pytest.mark.parametrize(
    ("code", "words", "text"),
    [
        (125, ("run", "nothere", "true"), "no such image: nothere"),
        (127, ("run", "--rm", "base", "/bin/none"), "/bin/none"),
        (127, ("run", "--rm", "base", "none"), "none"),
        (126, ("run", "--rm", "base", "/bin/plain"), "Permission denied"),
        (126, ("run", "--rm", "base", "/tmp"), "/tmp"),
        (125, ("run", "--rm", "--memory", "lots", "base", "true"), "--memory: invalid size"),
        (125, ("run", "--rm", "--user", "bob", "base", "true"), "bob"),
        (125, ("run", "--rm", "-v", "/none:/x", "base", "true"), "/none: no such file"),
        (125, ("run", "--bogus", "base", "true"), "unknown flag: --bogus"),
        (125, ("run", "-t", "base", "true"), "--tty is not supported"),
        (125, ("create", "--pod", "nopod", "base", "true"), "no such pod: nopod"),
        (125, ("create", "--name", "-x", "base", "true"), "--name"),
        (125, ("create", "--requires", "x", "base", "true"), "--requires"),
        (125, ("start", "none"), "no such container: none"),
        (1, ("rm", "none"), "no such container: none"),
        (1, ("pod", "rm", "none"), "no such pod: none"),
        (125, ("pod", "start", "none"), "no such pod: none"),
        (125, ("pod", "create", "--name", "a/b"), "--name"),
        (125, ("pod", "create", "--share", "net", "--infra=false"), "must have an infra"),
        (125, ("pod", "create", "--share", "bogus"), "invalid kernel namespace to share"),
        (125, ("pod", "create", "--cgroup-parent", "/a.slice"), "systemd slice received"),
        (125, ("pod", "rm", "-t", "3", "none"), "--time: must be used with --force"),
        (125, ("kill", "-s", "NONE", "x"), "NONE"),
        (125, ("bogus",), "unrecognized command"),
        (125, ("pod", "bogus"), "unrecognized command"),
        (125, ("--engine", "bogus", "ps"), "no OCI runtime 'bogus' is installed"),
        (125, ("--cgroup-manager", "bogus", "ps"), "unknown cgroup manager"),
        (125, ("image", "import", "/none.tar"), "/none.tar"),
        (1, ("image", "rm", "none"), "no such image: none"),
        (125, ("kube", "play", "/none.yaml"), "/none.yaml"),
        (125, ("logs", "none"), "no such container: none"),
        (125, ("pod", "inspect", "none"), "no such pod: none"),
    ],
)
def test_bad_input_is_one_line_that_names_it(
    unchanged: Podrt, code: int, words: tuple[str, ...], text: str
) -> None:
    assert text in unchanged.fails(code, *words)


def test_name_that_is_taken_is_refused_for_pods_and_containers_alike(podrt: Podrt) -> None:
    podrt.pod("shop")
    for words in (
        ("pod", "create", "--name", "shop"),
        ("create", "--name", "shop", "base", "true"),
    ):
        assert "already in use" in podrt.fails(125, *words)
    assert len(podrt.listed("pod", "ps")) == 1


def test_requires_of_an_init_container_is_refused(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "i", "--init-ctr", "always", *SLEEP)
    words = ("create", "--pod", "shop", "--name", "web", "--requires", "i", *SLEEP)
    assert "i is an init container" in podrt.fails(125, *words)


def test_container_has_the_open_files_limit_podrt_was_given(podrt: Podrt) -> None:
    words = podrt.words("run", "--rm", "base", "/bin/sh", "-c", "ulimit -Sn")
    script = 'ulimit -Sn 777; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words],
        capture_output=True, text=True, check=False, env=command_environment(),
    )  # fmt: skip
    assert done.stdout.strip() == "777", done


def test_requires_of_another_pod_is_refused_and_nothing_is_left(podrt: Podrt) -> None:
    podrt.pod("one")
    podrt.pod("two")
    podrt("create", "--pod", "one", "--name", "db", *SLEEP)
    words = ("create", "--pod", "two", "--name", "web", "--requires", "db", *SLEEP)
    assert "not in the same pod" in podrt.fails(125, *words)
    assert "web" not in states(podrt)


def test_rm_of_a_running_container_is_refused_with_2(podrt: Podrt) -> None:
    podrt("run", "-d", "--name", "a", "--stop-timeout", "0", *SLEEP)
    assert "running" in podrt.fails(2, "rm", "a")
    assert podrt("rm", "-f", "-t", "0", "a").strip() == "a"


def test_rm_of_an_infra_container_alone_is_refused(podrt: Podrt) -> None:
    pod_id = podrt.pod("shop")
    assert "infra container" in podrt.run("rm", f"{pod_id[:12]}-infra").stderr
    assert len(podrt.listed("ps", "-a")) == 1


def test_ambiguous_id_prefix_lists_the_matches(podrt: Podrt) -> None:
    ids = [podrt("create", *SLEEP).strip() for _ in range(17)]
    first = next(i for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    matches = [i for i in ids if i[0] == first[0]]
    line = podrt.fails(125, "start", first[0])
    assert all(match[:12] in line for match in matches)


def test_stop_obeys_order_dependents_first(podrt: Podrt, tmp_path: Path) -> None:
    shared = tmp_path / "order"
    shared.mkdir()
    script = "trap 'echo $0 >>/order/log; exit 0' TERM; while :; do sleep 0.02; done"
    podrt.pod("shop")
    needs: list[str] = []
    for name in ("db", "cache", "web"):
        podrt(
            "create", "--pod", "shop", "--name", name, "-v", f"{shared}:/order", *needs,
            "base", "/bin/sh", "-c", script, name,
        )  # fmt: skip
        needs = ["--requires", name]
    podrt("pod", "start", "shop")
    podrt("pod", "stop", "shop")
    assert (shared / "log").read_text().split() == ["web", "cache", "db"]


def test_kill_pod_signals_every_running_container(podrt: Podrt) -> None:
    podrt.pod("shop")
    for name in ("a", "b"):
        podrt("create", "--pod", "shop", "--name", name, *SLEEP)
    podrt("pod", "start", "shop")
    podrt("pod", "kill", "shop")
    assert [podrt("wait", name).strip() for name in ("a", "b")] == ["137", "137"]


def test_start_of_a_running_pod_changes_nothing(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "a", "--stop-timeout", "0", *SLEEP)
    podrt("pod", "start", "shop")
    before = pid_of(podrt, "a")
    podrt("pod", "start", "shop")
    podrt("start", "a")
    assert pid_of(podrt, "a") == before


def test_pod_without_containers_starts_its_infra_and_runs(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("pod", "start", "shop")
    assert podrt.listed("pod", "ps")[0]["Status"] == "Running"
    podrt("pod", "stop", "shop")
    assert podrt.listed("pod", "ps")[0]["Status"] == "Exited"


def test_full_disk_refuses_clearly_and_loses_nothing(tmp_path: Path) -> None:
    script = f"""
set -e
mount -t tmpfs -o size=24m none {tmp_path}/small
p() {{ {" ".join(Podrt(tmp_path / "small").words())} "$@"; }}
p image import {tmp_path}/busybox.tar base >/dev/null
p pod create --name kept >/dev/null
dd if=/dev/zero of={tmp_path}/small/fill bs=64k 2>/dev/null || true
set +e
for name in one two three four; do p pod create --name $name; echo "code $?"; done
rm {tmp_path}/small/fill
p pod ps --quiet --no-trunc | wc -l
p pod create --name after >/dev/null && echo fine
p pod rm --all --force >/dev/null && p system check && echo clean
"""
    from doubles.commands import busybox_archive

    (tmp_path / "small").mkdir()
    busybox_archive(tmp_path / "busybox.tar")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True, text=True, env=command_environment(), check=False, timeout=100,
    )  # fmt: skip
    assert "code 125" in done.stdout, done
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[-2:] == ["fine", "clean"], done
    acknowledged = 1 + done.stdout.count("code 0")
    assert f"\n{acknowledged}\n" in done.stdout


def test_command_of_another_user_is_refused_in_one_line(tmp_path: Path) -> None:
    # Everything is imported first: that user may not be able to read this interpreter's files.
    script = """
import os, sys
import podrt.cli.pod_read, podrt.cli.pod, podrt.cli.kube
from podrt.cli.main import main
os.setresgid(1000, 1000, 1000)
os.setresuid(1000, 1000, 1000)
sys.exit(main(sys.argv[1:]))
"""
    for words in (["pod", "ps"], ["pod", "create"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *Podrt(tmp_path).words(*words)[3:]],
            capture_output=True,
            text=True,
            check=False,
            env=command_environment(),
        )
        assert done.returncode == 125, done
        assert done.stderr.count("\n") == 1 and "podrt needs root" in done.stderr


def test_check_of_a_damaged_log_names_the_place_and_repair_keeps_what_is_provable(
    podrt: Podrt,
) -> None:
    for name in ("one", "two", "three"):
        podrt.pod(name)
    log = next((podrt.root / "state").glob("log.*"))
    data = bytearray(log.read_bytes())
    middle = data.index(b"three") // 2
    data[middle] ^= 0xFF
    log.write_bytes(data)
    line = podrt.fails(125, "pod", "ps")
    assert str(log) in line and "offset" in line
    assert "kept in" in podrt("system", "check", "--repair")
    names = {row["Name"] for row in podrt.listed("pod", "ps")}
    assert names <= {"one", "two", "three"}
    assert next((podrt.root / "state").glob("damaged.*/log.*")).read_bytes() == data


def test_plan_of_another_version_is_compiled_again_at_the_start(podrt: Podrt) -> None:
    container = podrt("create", "--name", "a", "--network", "none", "base", "/bin/true").strip()
    path = podrt.root / "containers" / container / "plan"
    made = path.read_bytes()
    old = bytearray(made)
    old[8:12] = (2).to_bytes(4, sys.byteorder)
    path.write_bytes(old[:100])
    podrt("start", "a")
    assert podrt("wait", "a").strip() == "0"
    assert path.read_bytes() == made
