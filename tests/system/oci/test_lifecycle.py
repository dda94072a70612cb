from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from doubles.commands import command_environment
from doubles.oci_runtime import Bundle, OciRuntime, wait_for


def cgroup_dirs(bundle: Bundle) -> list[Path]:
    found = [Path(f"/sys/fs/cgroup{bundle.cgroup}")]
    found += Path("/sys/fs/cgroup").glob(f"*{bundle.cgroup}")
    return [one for one in found if one.is_dir()]


def test_create_stops_before_the_program_and_start_lets_it_run(
    oci: OciRuntime, bundle: Bundle
) -> None:
    ran = Path(bundle.spec["root"]["path"]) / "tmp/ran"
    oci.detached("create", "-b", bundle.sh("touch /tmp/ran; sleep 100").written(), "one")
    state = oci.state("one")
    assert state["status"] == "created"
    assert state["id"] == "one"
    assert state["bundle"] == str(bundle.path)
    assert Path(f"/proc/{state['pid']}").is_dir()
    assert not ran.exists()
    oci("start", "one")
    wait_for(ran.exists, "the program")
    assert oci.state("one")["status"] == "running"
    oci("kill", "one", "KILL")
    oci.wait_status("one", "stopped")
    assert cgroup_dirs(bundle)
    oci("delete", "one")
    assert not cgroup_dirs(bundle)
    assert oci.fails("state", "one") == "container one does not exist"


def test_changes_of_the_bundle_after_create_have_no_effect(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("create", "-b", bundle.sh("echo first > /tmp/said").written(), "one")
    bundle.sh("echo second > /tmp/said").written()
    oci("start", "one")
    oci.wait_status("one", "stopped")
    said = Path(bundle.spec["root"]["path"]) / "tmp/said"
    assert said.read_text() == "first\n"


def test_verbs_in_the_wrong_state_fail_and_change_nothing(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("create", "-b", bundle.args("sleep", "100").written(), "one")
    assert "it is created" in oci.fails("delete", "one")
    assert "it is created" in oci.fails("resume", "one")
    assert oci.state("one")["status"] == "created"
    oci("start", "one")
    assert oci.fails("start", "one") == "cannot start an already running container: one"
    said = "cannot delete container one that is not stopped: it is running"
    assert oci.fails("delete", "one") == said
    oci("pause", "one")
    assert oci.state("one")["status"] == "paused"
    assert "it is paused" in oci.fails("pause", "one")
    said = "cannot exec in a paused container: one"
    assert oci.fails("exec", "one", "true", code=255) == said
    oci("resume", "one")
    assert oci.state("one")["status"] == "running"
    oci("kill", "one", "9")
    oci.wait_status("one", "stopped")
    assert oci.fails("start", "one") == "cannot start a container that has stopped: one"
    assert "not running" in oci.fails("kill", "one", "TERM")
    said = "cannot exec in a stopped container: one"
    assert oci.fails("exec", "one", "true", code=255) == said
    assert oci.state("one")["pid"] == 0


@pytest.mark.parametrize("verb", ["start", "state", "kill", "delete", "pause", "resume", "ps"])
def test_verbs_on_no_container_say_that_it_does_not_exist(oci: OciRuntime, verb: str) -> None:
    assert oci.fails(verb, "nobody") == "container nobody does not exist"


def test_delete_with_force_of_no_container_is_no_error(oci: OciRuntime) -> None:
    assert oci("delete", "--force", "nobody") == ""


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a b", "", "ä", "@seccomp", "x" * 300])
def test_create_with_an_invalid_id_makes_nothing(
    oci: OciRuntime, bundle: Bundle, name: str
) -> None:
    done = oci.run("create", "-b", bundle.args("true").written(), name)
    assert done.returncode == 1
    assert "container id" in done.stderr
    assert not oci.root.exists()
    assert not cgroup_dirs(bundle)


def test_create_with_a_used_id_fails_and_leaves_the_first(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("create", "-b", bundle.args("sleep", "100").written(), "one")
    pid = oci.state("one")["pid"]
    assert "already exists" in oci.fails("create", "-b", bundle.written(), "one")
    assert oci.state("one") == {**oci.state("one"), "pid": pid, "status": "created"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ociVersion": "nonsense"}, "ociVersion"),
        ({"ociVersion": "2.0.0"}, "ociVersion"),
        ({"root": {"path": "missing"}}, "root.path"),
        ({"root": {"path": "/"}}, "root.path"),
        ({"linux": None}, "linux"),
        ({"process": {"args": [], "cwd": "/"}}, "process.args"),
        ({"process": {"args": ["true"], "cwd": "relative"}}, "process.cwd"),
        ({"hooks": {"poststop": [{"path": "relative"}]}}, "hooks.poststop[0].path"),
        ({"process": {"args": ["true"], "cwd": "/", "terminal": True}}, "--console-socket"),
    ],
)
def test_create_of_a_wrong_bundle_names_the_field_and_makes_nothing(
    oci: OciRuntime, bundle: Bundle, change: dict[str, object], words: str
) -> None:
    bundle.args("true")
    bundle.spec |= change
    assert words in oci.fails("create", "-b", bundle.written(), "one")
    assert oci("list", "-q") == ""
    assert not cgroup_dirs(bundle)


def test_create_of_a_missing_program_fails_as_not_found(oci: OciRuntime, bundle: Bundle) -> None:
    for name, why in (
        ("/nope", "no such file or directory"),
        ("nope", "no such file or directory"),
        ("plain", "permission denied"),
        ("/tmp", "permission denied"),
    ):
        said = oci.fails("create", "-b", bundle.args(name).written(), "one")
        assert said == f"exec {name}: {why}"
    assert oci("list", "-q") == ""
    assert not cgroup_dirs(bundle)


def test_errors_reach_the_log_file_as_json(oci: OciRuntime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [*oci.command, "--log", str(log), "--log-format=json", "state", "nobody"],
        capture_output=True, text=True, check=False, env=command_environment(),
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = log.read_text().splitlines()
    entry = msgspec.json.decode(line)
    assert entry["level"] == "error"
    assert entry["msg"] == "container nobody does not exist"
    assert entry["time"]


def test_systemd_cgroups_are_refused_by_name(oci: OciRuntime) -> None:
    assert "--systemd-cgroup" in oci.fails("--systemd-cgroup", "list")


def test_run_gives_the_programs_output_input_and_exit_code(oci: OciRuntime, bundle: Bundle) -> None:
    path = bundle.sh("cat; echo to stderr >&2; exit 7").written()
    done = oci.run("run", "-b", path, "one", text="from stdin\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "from stdin\n", "to stderr\n")
    assert oci("list", "-q") == ""
    assert not cgroup_dirs(bundle)


def test_run_of_a_program_that_a_signal_ends_gives_128_and_its_number(
    oci: OciRuntime, bundle: Bundle
) -> None:
    # Its PID 1 ignores what it does not handle, so its child dies and it says so.
    path = bundle.sh("sh -c 'kill -9 $$'; exit $?").written()
    assert oci.run("run", "-b", path, "one").returncode == 128 + signal.SIGKILL


def test_run_forwards_signals_to_the_program(oci: OciRuntime, bundle: Bundle) -> None:
    path = bundle.sh("trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done").written()
    oci.ids.append("one")
    with subprocess.Popen(
        [*oci.command, "run", "-b", path, "one"],
        stdout=subprocess.PIPE, text=True, env=command_environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 42


def test_pid_file_holds_the_programs_number(
    oci: OciRuntime, bundle: Bundle, tmp_path: Path
) -> None:
    path = bundle.args("sleep", "100").written()
    file = tmp_path / "pid"
    oci.detached("create", "--pid-file", str(file), "-b", path, "one")
    assert file.read_text() == str(oci.state("one")["pid"])


def test_preserved_descriptors_reach_the_program_and_no_others(
    oci: OciRuntime, bundle: Bundle
) -> None:
    path = bundle.sh("cat <&3; ls /proc/self/fd | wc -l").written()
    reader, writer = os.pipe()
    try:
        os.write(writer, b"through a pipe\n")
        os.close(writer)
        command = [*oci.command, "run", "--preserve-fds", "1", "-b", path, "one"]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" 3</dev/fd/{reader} 9</dev/null', "sh", *command],
            capture_output=True, text=True, check=False, pass_fds=[reader],
            env=command_environment(),
        )  # fmt: skip
    finally:
        os.close(reader)
    # 0 to 3, and the one `ls` reads the directory through.
    assert done.stdout == "through a pipe\n5\n", done.stderr


def test_list_shows_every_container(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("create", "-b", bundle.args("sleep", "100").written(), "one")
    assert oci("list", "-q") == "one\n"
    (found,) = msgspec.json.decode(oci("list", "--format", "json"))
    assert found == oci.state("one")
    head, row = oci("list").splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[:3] == ["one", str(found["pid"]), "created"]


def test_ps_lists_the_containers_processes(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("run", "-d", "-b", bundle.sh("sleep 100 & sleep 100").written(), "one")
    pid = oci.state("one")["pid"]
    pids = msgspec.json.decode(oci("ps", "--format", "json", "one"))
    assert pid in pids
    assert len(pids) in (2, 3)
    assert len(oci("ps", "one").splitlines()) == len(pids) + 1


def test_kill_of_all_reaches_every_process(oci: OciRuntime, bundle: Bundle) -> None:
    root = Path(bundle.spec["root"]["path"])
    (root / "bin/second").write_text(
        "#!/bin/sh\ntrap 'touch /tmp/got' USR1\ntouch /tmp/up\nwhile :; do sleep 0.05; done\n"
    )
    (root / "bin/second").chmod(0o755)
    script = "trap 'touch /tmp/first' USR1; second & while :; do wait; done"
    oci.detached("run", "-d", "-b", bundle.sh(script).written(), "one")
    wait_for((root / "tmp/up").exists, "the second process")
    oci("kill", "--all", "one", "USR1")
    wait_for((root / "tmp/got").exists, "the signal in the second process")
    wait_for((root / "tmp/first").exists, "the signal in the first process")
    assert oci.state("one")["status"] == "running"


def test_delete_with_force_ends_what_runs_and_what_is_frozen(
    oci: OciRuntime, bundle: Bundle
) -> None:
    for pauses in (False, True):
        oci.detached("run", "-d", "-b", bundle.args("sleep", "100").written(), "one")
        pid = oci.state("one")["pid"]
        if pauses:
            oci("pause", "one")
        oci("delete", "--force", "one")
        assert not Path(f"/proc/{pid}/exe").exists()
        assert not cgroup_dirs(bundle)


def test_a_container_outlives_the_command_that_made_it_and_its_parent_reaps_it(
    oci: OciRuntime, bundle: Bundle
) -> None:
    """As conmon does it: a subreaper runs the command and gets the exit."""
    script = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "command, bundle = sys.argv[2:], sys.argv[1]\n"
        "run = lambda *words: subprocess.check_call([*command, *words])\n"
        "run('create', '--pid-file', bundle + '/pid', '-b', bundle, 'one')\n"
        "run('start', 'one')\n"
        "pid = int(open(bundle + '/pid').read())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    path = bundle.sh("exit 9").written()
    oci.ids.append("one")
    done = subprocess.run(
        [sys.executable, "-c", script, path, *oci.command],
        capture_output=True, text=True, check=False, env=command_environment(), timeout=60,
    )  # fmt: skip
    assert done.stdout == "9\n", done.stderr
    assert oci.state("one")["status"] == "stopped"
