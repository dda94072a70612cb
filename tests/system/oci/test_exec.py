from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doubles.commands import command_environment
from doubles.oci_runtime import Bundle, OciRuntime, wait_for
from podrt.oci.launch import launcher


@pytest.fixture
def running(oci: OciRuntime, bundle: Bundle) -> OciRuntime:
    """A container called "one" that sleeps."""
    oci.detached("run", "-d", "-b", bundle.args("sleep", "1000").written(), "one")
    return oci


def namespaces(oci: OciRuntime) -> dict[str, str]:
    pid = oci.state("one")["pid"]
    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}


def test_exec_gives_output_input_and_exit_code(running: OciRuntime) -> None:
    done = running.run("exec", "one", "sh", "-c", "cat; echo err >&2; exit 5", text="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, "in\n", "err\n")


def test_exec_is_in_the_containers_namespaces_and_cgroup(
    running: OciRuntime, bundle: Bundle
) -> None:
    script = "for n in mnt pid net ipc uts cgroup user; do readlink /proc/self/ns/$n; done"
    assert running("exec", "one", "sh", "-c", script).split() == [*namespaces(running).values()]
    running.detached("exec", "-d", "one", "sleep", "1001")
    (pid,) = set(msgspec.json.decode(running("ps", "--format", "json", "one"))) - {
        running.state("one")["pid"]
    }
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        assert path.endswith(bundle.cgroup) or number == "0"


def test_exec_has_the_containers_confinement(running: OciRuntime) -> None:
    own = running("exec", "one", "grep", "-E", "^(Cap|NoNewPrivs|Seccomp)", "/proc/1/status")
    new = running("exec", "one", "grep", "-E", "^(Cap|NoNewPrivs|Seccomp)", "/proc/self/status")
    assert own == new


def test_exec_options_change_user_directory_environment_and_capabilities(
    running: OciRuntime,
) -> None:
    script = "id -u; id -g; id -G; pwd; echo $A$B; grep CapEff /proc/self/status"
    lines = running(
        "exec", "--user", "7:8", "-g", "9", "--cwd", "/tmp", "-e", "A=1", "--env", "B=2",
        "one", "sh", "-c", script,
    ).splitlines()  # fmt: skip
    assert lines[:5] == ["7", "8", "8 9", "/tmp", "12"]
    assert int(lines[5].split()[1], 16) == 0
    before = running("exec", "one", "grep", "CapBnd", "/proc/self/status").split()[1]
    after = running("exec", "--cap", "CAP_SYS_ADMIN", "one", "grep", "CapEff", "/proc/self/status")
    assert int(after.split()[1], 16) == int(before, 16) | 1 << 21


def test_exec_takes_a_process_from_a_file(running: OciRuntime, tmp_path: Path) -> None:
    process = {
        "args": ["sh", "-c", "pwd; echo $X; umask"],
        "cwd": "/data",
        "env": ["PATH=/bin", "X=y"],
        "user": {"uid": 3, "gid": 4, "umask": 0o77},
    }
    (tmp_path / "process").write_bytes(msgspec.json.encode(process))
    file = str(tmp_path / "process")
    assert running("exec", "--process", file, "one") == "/data\ny\n0077\n"
    (tmp_path / "process").write_text("[1, 2]")
    assert "process" in running.fails("exec", "--process", file, "one", code=255)


def test_exec_of_a_missing_program_fails_as_not_found(running: OciRuntime) -> None:
    said = running.fails("exec", "one", "/nope", code=255)
    assert said == "exec /nope: no such file or directory"
    assert "process.args" in running.fails("exec", "one", code=255)


def test_exec_detached_writes_the_pid_of_what_runs(running: OciRuntime, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    running.detached("exec", "-d", "--pid-file", str(file), "one", "sleep", "1002")
    pid = int(file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001002\x00"


def test_exec_leaves_no_program_of_podrt_within_reach(running: OciRuntime, bundle: Bundle) -> None:
    """CVE-2019-5736: what enters must not be a program of the host that can be overwritten."""
    root = Path(bundle.spec["root"]["path"])
    writer = "while :; do for e in /proc/[0-9]*/exe; do echo bad >> $e; done 2>/dev/null; done"
    (root / "bin/evil").write_text("#!/proc/self/exe\n")
    (root / "bin/evil").chmod(0o755)
    (root / "bin/writer").write_text(f"#!/bin/sh\n{writer}\n")
    (root / "bin/writer").chmod(0o755)
    before = hashlib.sha256(Path(launcher()).read_bytes()).digest()
    running.detached("exec", "-d", "one", "writer")
    for _ in range(3):
        running.run("exec", "one", "evil")
    assert hashlib.sha256(Path(launcher()).read_bytes()).digest() == before
    script = "readlink /proc/self/exe; ls -l /proc/self/fd | grep -c -v -E 'pipe|null|total'"
    exe, others = running("exec", "one", "sh", "-c", script).split()
    assert exe == "/bin/busybox"
    assert int(others) <= 1  # the directory that ls reads


def receive_master(listener: socket.socket) -> int:
    """What comes to a console socket."""
    listener.settimeout(30)
    connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
    return fds[0]


def read_until(master: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        seen += data
    return seen


def console_socket(folder: Path) -> tuple[socket.socket, str]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "c"))
    listener.listen(1)
    return listener, str(folder / "c")


def test_create_with_a_terminal_sends_its_master_to_the_console_socket(
    oci: OciRuntime, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 33, "width": 77}
    script = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; sleep 100"
    listener, path = console_socket(tmp_path_factory.mktemp("s"))
    with listener:
        oci.detached("create", "--console-socket", path, "-b", bundle.sh(script).written(), "one")
        master = receive_master(listener)
    try:
        oci("start", "one")
        seen = read_until(master, b"all")
    finally:
        os.close(master)
    assert seen.split() == [b"/dev/pts/0", b"33", b"77", b"all"]


def test_exec_with_a_terminal_sends_its_master_to_the_console_socket(
    running: OciRuntime, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listener, path = console_socket(tmp_path_factory.mktemp("s"))
    with listener:
        words = ("exec", "-d", "-t", "--console-socket", path, "one", "sh", "-c", "tty; sleep 9")
        running.detached(*words)
        master = receive_master(listener)
    try:
        assert read_until(master, b"/dev/pts/").strip().startswith(b"/dev/pts/")
    finally:
        os.close(master)


def test_run_in_a_terminal_shows_the_programs_own_and_gives_it_back(
    oci: OciRuntime, bundle: Bundle
) -> None:
    import pty

    bundle.process["terminal"] = True
    path = bundle.sh("stty size; read line; echo got $line; exit 4").written()
    master, slave = pty.openpty()
    oci.ids.append("one")
    process: subprocess.Popen[Any] = subprocess.Popen(
        [*oci.command, "run", "-b", path, "one"],
        stdin=slave, stdout=slave, stderr=slave, env=command_environment(),
        start_new_session=True,
    )  # fmt: skip
    try:
        os.close(slave)
        seen = read_until(master, b"\n")
        os.write(master, b"word\n")
        seen += read_until(master, b"got word")
        assert process.wait(timeout=30) == 4
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"got word" in seen
    wait_for(lambda: oci("list", "-q") == "", "the deletion")
