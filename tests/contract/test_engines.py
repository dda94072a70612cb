"""One contract for every engine: podrt's own, and whatever OCI runtimes this host has.

The same bodies for all. A container is created with the engine named; every later command finds
it recorded. What a container sees is read from inside, what happened to it from the kernel.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX, Podrt, busybox_archive, command_environment, monitors_of
from doubles.places import freezer_of, is_frozen, is_gone
from podrt.cli.main import main

ENGINES = ("native", "crun", "runc")
SLEEP = ("sleep", "1000")
DEFAULT_CAPS = 0x800405FB
PATIENCE_S = 20.0
MIB = 1 << 20


def wait_for(look: Callable[[], object]) -> object:
    """What `look` finds once it finds anything."""
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


class Here(Podrt):
    """The command in this process: starting an interpreter takes longer than most tests."""

    def run(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        assert text is None
        words = self.words(*arguments)[3:]
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words)
            except SystemExit as exc:
                code = int(exc.code or 0)
        said = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            said.append(stream.read())
        return subprocess.CompletedProcess(words, code, *said)


class House:
    """Containers of one engine, on a root that the tests of an engine share."""

    def __init__(self, podrt: Podrt, engine: str) -> None:
        self.podrt = podrt
        self.engine = engine

    def create(self, name: str, *words: str, pod: str = "") -> str:
        """A container of the engine; `words` are flags, and the command behind "--"."""
        flags, command = split(words)
        where = ("--pod", pod) if pod else ("--cgroup-parent", self.podrt.cgroup_parent)
        made = ("create", "--name", name, *where, *flags, "base", *command)
        return self.podrt("--engine", self.engine, *made).strip()

    def start(self, name: str, *words: str, pod: str = "") -> int:
        """The same, started; its process."""
        self.create(name, *words, pod=pod)
        self.podrt("start", name)
        return self.pid(name)

    def run(self, *words: str, name: str = "c") -> subprocess.CompletedProcess[str]:
        """Run one to its end."""
        flags, command = split(words)
        where = ("--name", name, "--cgroup-parent", self.podrt.cgroup_parent)
        return self.podrt.run("--engine", self.engine, "run", *where, *flags, "base", *command)

    def says(self, *words: str) -> str:
        """The output of one that must succeed, and is removed afterwards."""
        done = self.run("--rm", *(() if "--" in words else ("--",)), *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()

    def field(self, name: str, field: str) -> str:
        """A field of `inspect`."""
        return self.podrt("inspect", "--format", f"{{{{.{field}}}}}", name).strip()

    def pid(self, name: str) -> int:
        return int(self.field(name, "State.Pid"))

    def state(self, name: str) -> str:
        return self.field(name, "State.Status")

    def processes(self, container_id: str) -> set[int]:
        """All processes in a container's cgroup, by whatever hierarchy."""
        found: set[int] = set()
        parent = self.podrt.cgroup_parent[1:]
        for top in (parent, f"*/{parent}"):
            for folder in Path("/sys/fs/cgroup").glob(top):
                for pattern in (container_id, f"*/{container_id}"):
                    found |= processes_in(folder.glob(f"{pattern}/cgroup.procs"))
        return found

    def state_folders(self) -> list[str]:
        """What runtimes keep about containers."""
        folder = self.podrt.runroot / "engines"
        return [str(path) for path in folder.glob("*/*")] if folder.exists() else []


def split(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if "--" not in words:
        return (), words
    at = words.index("--")
    return words[:at], words[at + 1 :]


def sh(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def cgroup_file(pid: int, controller: str, *names: str) -> str:
    """The value of the first of `names` in a process's cgroup, v1's or v2's."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = Path("/sys/fs/cgroup")
        folders = [base / controller / path[1:]] if controller in controllers.split(",") else []
        folders += [base / path[1:]] if not controllers else []
        for file in (folder / name for folder in folders for name in names):
            if file.exists():
                return file.read_text().strip()
    raise AssertionError(f"{names} of {pid} not found")


def processes_in(files: Iterable[Path]) -> set[int]:
    # The monitor of a lone container has a cgroup of the same name elsewhere.
    kept = [file for file in files if file.parent.parent.name != "monitors"]
    return {int(word) for file in kept for word in file.read_text().split()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    folder = tmp_path_factory.mktemp("engines")
    Podrt(folder)("image", "import", str(busybox_archive(folder / "busybox.tar")), "base")
    return folder


@pytest.fixture(params=ENGINES)
def house(request: pytest.FixtureRequest, root: Path, cgroup_parent: str) -> Iterator[House]:
    engine = request.param
    if engine != "native" and shutil.which(engine) is None:
        pytest.skip(f"needs {engine}")
    podrt = Here(root, cgroup_parent)
    found = House(podrt, engine)
    yield found
    podrt.remove_all()
    assert podrt.is_clean()
    assert found.state_folders() == []


# --- the process --------------------------------------------------------------------------------


def test_run_gives_output_and_exit_code(house: House) -> None:
    done = house.run(*sh("echo out; echo err >&2; exit 7"))
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert house.state("c") == "stopped"
    assert house.field("c", "State.ExitCode") == "7"


def test_run_of_short_programs_always_gives_their_code(house: House) -> None:
    for code in (0, 1, 0, 3):
        assert house.run("--rm", "--", *sh(f"exit {code}")).returncode == code


def test_program_killed_by_a_signal_ends_with_128_and_its_number(house: House) -> None:
    pid = house.start("k", *SLEEP)
    os.kill(pid, signal.SIGKILL)
    assert house.podrt("wait", "k").strip() == "137"


def test_program_gets_environment_directory_user_and_mask(house: House) -> None:
    script = "echo $WORD; pwd; id -u; id -g; umask; cat /proc/self/status | grep Groups"
    said = house.says(
        "--env", "WORD=a b", "--workdir", "/etc", "--user", "7:8", "--group-add", "9",
        "--umask", "0027", "--", *sh(script),
    ).splitlines()  # fmt: skip
    assert said[:5] == ["a b", "/etc", "7", "8", "0027"]
    assert {"8", "9"} >= set(said[5].split()[1:]) >= {"9"}


def test_program_gets_its_hostname_and_standard_input_is_empty(house: House) -> None:
    assert house.says("--hostname", "box", "--", *sh("cat /proc/sys/kernel/hostname")) == "box"
    assert house.says(*sh("cat; echo end")) == "end"


def test_command_that_is_missing_is_127_and_leaves_the_container_configured(house: House) -> None:
    for command in ("/bin/none", "none"):
        done = house.run(command, name="m")
        assert done.returncode == 127
        assert f"exec {command}: No such file or directory" in done.stderr
        assert "command that was not found" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert house.state("m") == "created"
        container_id = house.field("m", "Id")
        assert house.processes(container_id) == set()
        house.podrt("rm", "m")


def test_command_that_cannot_be_executed_is_126(house: House) -> None:
    done = house.run("/bin/plain")
    assert done.returncode == 126
    assert "exec /bin/plain: Permission denied" in done.stderr
    assert "permission denied error" in done.stderr
    assert house.state("c") == "created"


def test_container_that_failed_once_fails_again_and_is_removed(house: House) -> None:
    house.create("c", "none")
    for _ in range(2):
        assert "command that was not found" in house.podrt.fails(127, "start", "c")
    house.podrt("rm", "c")


# --- what confines it ---------------------------------------------------------------------------


def status_of(house: House, *flags: str) -> dict[str, str]:
    lines = house.says(*flags, "--", "cat", "/proc/self/status").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_default_profile_confines(house: House) -> None:
    status = status_of(house)
    for name in ("CapBnd", "CapEff", "CapPrm"):
        assert int(status[name], 16) == DEFAULT_CAPS
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"].strip() == "0"
    assert status["Seccomp"].strip() == "2"


def test_capabilities_are_added_and_dropped(house: House) -> None:
    flags = ("--cap-drop", "all", "--cap-add", "net_raw", "--security-opt", "no-new-privileges")
    status = status_of(house, *flags)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 13
    assert status["NoNewPrivs"].strip() == "1"


def test_user_has_no_capability(house: House) -> None:
    status = status_of(house, "--user", "7")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert int(status["CapBnd"], 16) == DEFAULT_CAPS


def test_seccomp_unconfined_is_none(house: House) -> None:
    status = status_of(house, "--security-opt", "seccomp=unconfined")
    assert status["Seccomp"].strip() == "0"


def test_own_seccomp_profile_is_applied(house: House, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], '
        '"action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}'
    )
    flags = ("--security-opt", f"seccomp={profile}")
    done = house.run("--rm", *flags, "--", "/bin/busybox", "mkdir", "/tmp/x")
    assert done.returncode == 1
    assert "not supported" in done.stderr


def test_masks_hide_and_read_only_paths_refuse(house: House) -> None:
    script = (
        "cat /proc/timer_list /proc/keys 2>/dev/null; ls /sys/firmware;"
        "(echo 1 > /proc/sys/vm/drop_caches) 2>/dev/null && echo written;"
        "(echo 1 > /sys/kernel/profiling) 2>/dev/null && echo written; echo end"
    )
    assert house.says(*sh(script)) == "end"


def test_read_only_root_and_mounts(house: House, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    script = (
        "(echo x > /etc/x) 2>/dev/null && echo root; (echo x > /in/x) 2>/dev/null && echo in;"
        "echo x > /out/x && echo y > /t/y && cat /in/file"
    )
    out = tmp_path / "out"
    out.mkdir()
    said = house.says(
        "--read-only", "--volume", f"{tmp_path}:/in:ro", "--volume", f"{out}:/out",
        "--tmpfs", "/t", "--", *sh(script),
    )  # fmt: skip
    assert said == "from the host"
    assert (out / "x").read_text() == "x\n"


def test_mounts_do_not_reach_the_host(house: House) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    pid = house.start("c", *SLEEP)
    inside = Path(f"/proc/{pid}/mountinfo").read_text()
    assert " / / " in inside or " /merged / " in inside or re.search(r" \S+ / ", inside)
    assert "overlay" in inside
    assert Path("/proc/self/mountinfo").read_text() == before


def test_limits_are_those_of_its_cgroup(house: House) -> None:
    pid = house.start(
        "c", "--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "--ulimit",
        "nofile=100:200", "--oom-score-adj", "500", "--", *SLEEP,
    )  # fmt: skip
    assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 * MIB)
    assert cgroup_file(pid, "pids", "pids.max") == "50"
    assert cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max open files\s+100\s+200\b", limits)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"
    house.podrt("update", "--memory", "80m", "c")
    assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(80 * MIB)
    house.podrt("restart", "--time", "0", "c")
    pid = house.pid("c")
    assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(80 * MIB)


def test_process_killed_for_want_of_memory_is_said_to_be(house: House) -> None:
    hog = ("/bin/busybox", "tail", "/dev/zero")
    done = house.run("--memory", "16m", "--memory-swap", "16m", "--", *hog)
    assert done.returncode == 137
    assert house.field("c", "State.OOMKilled") == "true"


def test_devices_and_sysctls(house: House) -> None:
    script = (
        "[ -c /dev/full ] && echo ok; cat /proc/sys/net/ipv4/ip_default_ttl;"
        "/bin/busybox mknod /tmp/kmsg c 1 11; cat /tmp/kmsg >/dev/null 2>&1 || echo refused"
    )
    flags = ("--sysctl", "net.ipv4.ip_default_ttl=77", "--cap-add", "mknod")
    assert house.says(*flags, "--", *sh(script)).splitlines() == ["ok", "77", "refused"]


def test_privileged_has_all_rights(house: House) -> None:
    status = status_of(house, "--privileged")
    assert status["Seccomp"].strip() == "0"
    assert int(status["CapEff"], 16) & (1 << 21)


def test_user_namespace_is_mapped(house: House) -> None:
    maps = ("--uidmap", "0:200000:1000", "--gidmap", "0:300000:1000")
    pid = house.start("c", *maps, "--", *sh("echo x > /etc/made; id -u; sleep 1000"))
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "200000", "1000"]
    assert os.stat(f"/proc/{pid}").st_uid == 200000
    assert wait_for(lambda: house.podrt("logs", "c")) == "0\n"
    made = os.stat(f"/proc/{pid}/root/etc/made")
    assert (made.st_uid, made.st_gid) == (200000, 300000)


# --- its life -----------------------------------------------------------------------------------


def test_signals_reach_the_process(house: House) -> None:
    house.start("c", *sh("trap 'echo usr1' USR1; trap 'exit 5' TERM; while :; do sleep 0.05; done"))
    wait_for(lambda: "c" in house.podrt("ps", "--format", "{{.Names}}"))
    # The shell may not have set its trap yet, and then a USR1 would end it.
    pid = house.pid("c")
    wait_for(lambda: caught(pid) & (1 << (signal.SIGUSR1 - 1)))
    house.podrt("kill", "--signal", "USR1", "c")
    wait_for(lambda: house.podrt("logs", "c") == "usr1\n")
    wait_for(lambda: caught(pid) & (1 << (signal.SIGTERM - 1)))
    house.podrt("stop", "c")
    assert house.field("c", "State.ExitCode") == "5"
    assert house.state("c") == "exited"
    assert is_gone(pid)


def caught(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16)


def test_stop_kills_after_the_grace_period(house: House) -> None:
    pid = house.start("c", *sh("trap '' TERM; while :; do sleep 0.05; done"))
    begun = time.monotonic()
    house.podrt("stop", "--time", "1", "c")
    assert time.monotonic() - begun >= 1
    assert is_gone(pid)
    assert house.field("c", "State.ExitCode") == "137"


def test_start_again_keeps_the_files(house: House) -> None:
    container_id = house.create("c", *sh("cat /tmp/n; echo x >> /tmp/n; sleep 1000"))
    pids = set()
    for _ in range(3):
        house.podrt("start", "c")
        pid = house.pid("c")
        pids.add(pid)
        wait_for(lambda pid=pid: Path(f"/proc/{pid}/root/tmp/n").exists())
        assert house.processes(container_id)
        house.podrt("stop", "--time", "0", "c")
        assert house.processes(container_id) == set()
        assert house.state_folders() == []
    assert len(pids) == 3
    assert house.podrt("logs", "c").count("x") == 3


def test_restart_of_one_that_ended_by_itself(house: House) -> None:
    house.create("c", *sh("exit 4"))
    for _ in range(2):
        house.podrt("start", "c")
        assert house.podrt("wait", "c").strip() == "4"


def test_pause_freezes_and_unpause_thaws(house: House) -> None:
    pid = house.start("c", *SLEEP)
    house.podrt("pause", "c")
    assert house.state("c") == "paused"
    assert is_frozen(freezer_of(pid))
    house.podrt("unpause", "c")
    assert not is_frozen(freezer_of(pid))
    assert house.state("c") == "running"
    house.podrt("pause", "c")
    house.podrt("rm", "--force", "c")
    assert is_gone(pid)


def test_rm_refuses_a_running_one_and_force_removes_all_of_it(house: House) -> None:
    container_id = house.create("c", *sh("sleep 1000 & sleep 1000"))
    house.podrt("start", "c")
    wait_for(lambda: len(house.processes(container_id)) > 1)
    pids = house.processes(container_id)
    assert "is running" in house.podrt.fails(2, "rm", "c")
    house.podrt("rm", "--force", "--time", "0", "c")
    assert all(is_gone(pid) for pid in pids)
    assert not (house.podrt.root / "containers" / container_id).exists()
    assert house.state_folders() == []


# --- in a pod -----------------------------------------------------------------------------------


def test_pod_shares_its_namespaces(house: House) -> None:
    house.podrt.pod("shop")
    one = house.start("a", *sh("echo there > /dev/shm/word; sleep 1000"), pod="shop")
    other = house.start(
        "b", *sh("cat /proc/sys/kernel/hostname /dev/shm/word; sleep 1000"), pod="shop"
    )
    for kind in ("net", "ipc", "uts"):
        assert namespace(one, kind) == namespace(other, kind) != namespace(os.getpid(), kind)
    for kind in ("mnt", "pid"):
        assert len({namespace(pid, kind) for pid in (one, other, os.getpid())}) == 3
    assert wait_for(lambda: house.podrt("logs", "b")) == "shop\nthere\n"


def test_pod_stopped_and_started_gives_new_namespaces_to_all(house: House) -> None:
    house.podrt.pod("shop")
    house.create("a", *SLEEP, pod="shop")
    house.create("b", "--requires", "a", "--", *SLEEP, pod="shop")
    for _ in range(2):
        house.podrt("pod", "start", "shop")
        one, other = house.pid("a"), house.pid("b")
        assert namespace(one, "net") == namespace(other, "net")
        house.podrt("pod", "stop", "--time", "0", "shop")
        assert is_gone(one)
        assert is_gone(other)
    assert house.state_folders() == []


def test_pod_shares_process_numbers_if_asked_to(house: House) -> None:
    house.podrt.pod("shop", "--share", "+pid")
    one = house.start("a", *SLEEP, pod="shop")
    other = house.start("b", *SLEEP, pod="shop")
    assert namespace(one, "pid") == namespace(other, "pid") != namespace(os.getpid(), "pid")


def test_pod_of_many_starts_at_once(house: House) -> None:
    house.podrt.pod("shop")
    names = [f"c{number}" for number in range(8)]
    for name in names:
        house.create(name, *SLEEP, pod="shop")
    house.podrt("pod", "start", "shop")
    pids = {house.pid(name) for name in names}
    assert len(pids) == len(names)
    assert all(not is_gone(pid) for pid in pids)
    house.podrt("pod", "pause", "shop")
    assert all(is_frozen(freezer_of(pid)) for pid in pids)
    house.podrt("pod", "rm", "--force", "--time", "0", "shop")
    assert all(is_gone(pid) for pid in pids)


def test_init_containers_run_before_the_others(house: House) -> None:
    house.podrt.pod("shop")
    house.create("first", "--init-ctr", "always", "--", *sh("echo 1 > /dev/shm/one"), pod="shop")
    house.create("then", *sh("cat /dev/shm/one; sleep 1000"), pod="shop")
    house.podrt("pod", "start", "shop")
    assert wait_for(lambda: house.podrt("logs", "then")) == "1\n"


# --- deaths -------------------------------------------------------------------------------------


def kill_monitors(house: House) -> int:
    found = monitors_of(str(house.podrt.runroot))
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not monitors_of(str(house.podrt.runroot)))
    return len(found)


def test_container_outlives_its_monitor_and_is_taken_over(house: House) -> None:
    script = "trap 'echo heard; exit 6' USR1; while :; do sleep 0.05; done"
    pid = house.start("c", *sh(script))
    wait_for(lambda: caught(pid) & (1 << (signal.SIGUSR1 - 1)))
    assert kill_monitors(house) == 1
    assert house.state("c") == "running"
    house.podrt("kill", "--signal", "USR1", "c")
    assert house.podrt("wait", "c").strip() == "6"
    assert house.podrt("logs", "c") == "heard\n"
    house.podrt("start", "c")
    assert house.pid("c") != pid


def test_killed_start_is_finished_or_undone_by_the_next(house: House) -> None:
    container_id = house.create("c", *SLEEP)
    for step in range(8):
        starting = subprocess.Popen(
            house.podrt.words("start", "c"), env=command_environment(), stderr=subprocess.DEVNULL
        )
        time.sleep(0.15 + 0.03 * step)  # wherever it is by then
        starting.kill()
        starting.wait()
        agree(house, container_id)


def test_monitor_killed_during_a_start_leaves_what_the_next_one_mends(house: House) -> None:
    container_id = house.create("c", *SLEEP)
    for step in range(8):
        starting = subprocess.Popen(
            house.podrt.words("start", "c"),
            env=command_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: monitors_of(str(house.podrt.runroot)))
        time.sleep(0.008 * step)  # wherever it is by then
        kill_monitors(house)
        starting.wait()
        agree(house, container_id)


def agree(house: House, container_id: str) -> None:
    """One more start: then it runs, once, and one more removal of its process leaves nothing."""
    house.podrt("start", "c")
    pid = house.pid("c")
    assert Path(f"/proc/{pid}/comm").read_text().strip() in ("sleep", "busybox")
    assert house.processes(container_id) == {pid}
    house.podrt("stop", "--time", "0", "c")
    assert is_gone(pid)
    assert house.processes(container_id) == set()
