"""What a program is told to be: scheduling, labels, terminal, hooks, descriptors; and the launcher
that makes one without a monitor."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Message, Operation, plan_of

RETURN = 0x06
NOTIFY_ACTION = 0x7FC00000
NEW_LISTENER = 8


def run(box: Box, script: str, **ops: object) -> str:
    reply = box.start(plan_of(box.ops(["sh", "-c", script], **ops)))  # type: ignore[arg-type]
    assert reply.kind == m.STARTED, reply
    end = box.wait()
    assert end.arg == 0, (end, box.log.read_text())
    return box.output()


def hook(
    path: str, argv: Sequence[str], *, timeout: int = 0, state: str = "", flags: int = 0
) -> Operation:
    texts = [state] if state else ['{"id":"x","pid":', ',"again":', "}"]
    return m.op(
        m.HOOKS, m.text(path), m.texts(argv), m.texts(["MARK=set"]),
        m.u32(timeout), m.texts(texts), flags=flags,
    )  # fmt: skip


# --- scheduling --------------------------------------------------------------------------------


def test_scheduler_nice_io_priority_affinity_and_personality_are_as_planned(box: Box) -> None:
    cpu = min(os.sched_getaffinity(0))
    mask = m.blob(bytes(cpu // 8) + bytes([1 << cpu % 8]))
    late = [
        m.op(m.IOPRIO, m.u32(3), m.u32(7)),
        m.op(m.SCHED, m.u32(3), m.u32(5), m.u32(0), *[m.u64(0)] * 4),
        m.op(m.AFFINITY, mask),
        m.op(m.PERSONALITY, m.u64(8)),
    ]
    begun = box.start(plan_of(box.ops(["sleep", "1000"], late=late)))
    assert begun.kind == m.STARTED, begun
    pid = begun.a
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert (stat[16], stat[38]) == ("5", "3")  # nice, SCHED_BATCH
    assert os.sched_getaffinity(pid) == {cpu}
    assert Path(f"/proc/{pid}/personality").read_text().strip() == "00000008"
    ionice = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True)
    assert ionice.stdout.startswith("idle")


def test_bad_scheduling_fails_with_its_stage(box: Box) -> None:
    cases = {
        m.SCHED: m.op(m.SCHED, m.u32(99), m.u32(0), m.u32(0), *[m.u64(0)] * 4),
        m.IOPRIO: m.op(m.IOPRIO, m.u32(7), m.u32(9)),
        m.AFFINITY: m.op(m.AFFINITY, m.blob(b"\0")),
    }
    for code, bad in cases.items():
        reply = box.start(plan_of(box.ops(["true"], late=[bad])))
        assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 22, code)
    many = m.op(m.AFFINITY, m.blob(bytes(5000)))
    assert box.start(plan_of(box.ops(["true"], late=[many]))).a == m.AFFINITY


def test_initial_affinity_is_set_before_everything_else(box: Box) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    first, last = (m.blob(bytes(cpu // 8) + bytes([1 << cpu % 8])) for cpu in (cpus[0], cpus[-1]))
    early = [m.op(m.FIRST_AFFINITY, first)]
    output = run(box, "grep Cpus_allowed_list /proc/self/status", early=early)
    assert output.split() == ["Cpus_allowed_list:", str(cpus[0])]
    # An impossible one is noticed although no operation has run yet.
    early = [m.op(m.FIRST_AFFINITY, m.blob(b"\0"))]
    assert box.start(plan_of(box.ops(["true"], early=early))).a == 105
    late = [m.op(m.AFFINITY, last)]
    output = run(box, "grep Cpus_allowed_list /proc/self/status", late=late)
    assert output.split()[-1] == str(cpus[-1])


def test_label_of_a_module_that_is_not_there_fails_with_its_stage(box: Box) -> None:
    modules = Path("/sys/kernel/security/lsm")
    present = modules.read_text() if modules.exists() else ""
    for code, module in ((m.APPARMOR, "apparmor"), (m.SELINUX, "selinux")):
        if module in present:
            continue
        label = m.op(code, m.text("label"), m.texts(["none/exec", "exec"]), m.text("label"))
        reply = box.start(plan_of(box.ops(["true"], late=[label])))
        assert (reply.kind, reply.a, reply.body) == (m.FAILED, code, b"label")


# --- hooks -------------------------------------------------------------------------------------


def test_hooks_run_in_the_container_with_its_state(box: Box, tmp_path: Path) -> None:
    # The first still sees the host's files, the second only the container's.
    script = tmp_path / "hook"
    seen = tmp_path / "seen"
    script.write_text(f'#!/bin/sh\ncat > "{seen}"; echo "$MARK $0 $1" >> "{seen}"\n')
    script.chmod(0o755)
    inner = "cat > /state; hostname > /name"
    ops = box.ops(["sleep", "1000"], after=[m.op(m.HOSTNAME, m.text("web"))])
    ops.insert(ops.index(m.op(m.PIVOT)), hook(str(script), ["hook", "word"]))
    ops.insert(-1, hook("/bin/sh", ["sh", "-c", inner]))
    begun = box.start(plan_of(ops))
    assert begun.kind == m.STARTED, begun
    state, line = seen.read_text().split("}")
    assert json.loads(state + "}") == {"id": "x", "pid": begun.a, "again": begun.a}
    assert line == f"set {script} word\n"
    inside = json.loads((box.folder / "upper/state").read_text())
    assert inside["pid"] == begun.a
    assert (box.folder / "upper/name").read_text() == "web\n"


def test_start_hook_runs_after_the_release_only(box: Box) -> None:
    ops = box.ops(["sleep", "1000"])
    ops.insert(-1, hook("/bin/touch", ["touch", "/ran"]))
    assert box.start(plan_of(ops), flags=m.HOLD).kind == m.CREATED
    assert not (box.folder / "upper/ran").exists()
    assert box.ask(m.RELEASE).kind == m.STARTED
    assert (box.folder / "upper/ran").exists()


@pytest.mark.parametrize(
    ("argv", "error", "words"),
    [
        (["sh", "-c", "exit 3"], 125, b"ended with code 3"),
        (["sh", "-c", "kill -9 $$"], 125, b"ended with signal 9"),
        (["sh", "-c", "sleep 1000"], 110, b"/bin/sh"),
        (["no-applet"] * 2000, 125, b"ended with code"),
    ],
)
@pytest.mark.parametrize("is_inside", [False, True])
def test_failing_hook_fails_the_start(
    box: Box, argv: list[str], error: int, words: bytes, is_inside: bool
) -> None:
    ops = box.ops(["true"])
    at = -1 if is_inside else ops.index(m.op(m.PIVOT))
    ops.insert(at, hook("/bin/sh", argv, timeout=1 if error == 110 else 60))
    reply = box.start(plan_of(ops))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, error, m.HOOKS)
    assert words in reply.body


def test_hook_of_the_host_or_with_a_huge_state_is_refused(box: Box) -> None:
    of_host, huge = hook("/bin/true", [], flags=1), hook("/x", [], state="y" * 70000)
    for bad, error in ((of_host, 22), (huge, 7)):
        ops = box.ops(["true"])
        ops.insert(ops.index(m.op(m.PIVOT)), bad)
        reply = box.start(plan_of(ops))
        assert (reply.kind, reply.arg, reply.a) == (m.FAILED, error, m.HOOKS)


# --- seccomp listener --------------------------------------------------------------------------


def notify_filter(path: Path) -> Path:
    """sethostname asks the listener."""
    number = {"x86_64": 170, "aarch64": 161}[os.uname().machine]
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)
    program += struct.pack("=HBBI", 0x15, 0, 1, number)
    program += struct.pack("=HBBI", RETURN, 0, 0, NOTIFY_ACTION)
    program += struct.pack("=HBBI", RETURN, 0, 0, 0x7FFF0000)
    path.write_bytes(program)
    return path


def test_seccomp_listener_is_sent_with_the_state(box: Box, tmp_path: Path) -> None:
    path = notify_filter(tmp_path / "filter")
    address = tmp_path / "s"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address))
    listener.listen(1)
    listener.settimeout(m.PATIENCE_S)
    state = ['{"fds":["seccompFd"],"pid":', "}"]
    late = [
        m.op(m.NOTIFY, m.text(str(address)), m.texts(state)),
        m.op(m.SECCOMP, m.u32(NEW_LISTENER), m.text(str(path))),
        m.caps(m.DEFAULT_CAPS),
    ]
    with listener:
        begun = box.start(plan_of(box.ops(["sh", "-c", "exec hostname other"], late=late)))
        assert begun.kind == m.STARTED, begun
        peer, _ = listener.accept()
        with peer:
            data, fds, _flags, _address = socket.recv_fds(peer, 4096, 1)
    assert json.loads(data) == {"fds": ["seccompFd"], "pid": begun.a}
    (notify,) = fds
    assert "seccomp" in os.readlink(f"/proc/self/fd/{notify}")
    os.close(notify)
    # Nobody answers any more: the call fails, the program ends.
    assert box.wait().arg == 1


@pytest.mark.parametrize("has_socket", [True, False])
def test_listener_without_its_other_half_is_refused(
    box: Box, tmp_path: Path, has_socket: bool
) -> None:
    path = notify_filter(tmp_path / "filter")
    flags = 0 if has_socket else NEW_LISTENER
    late = [m.op(m.SECCOMP, m.u32(flags), m.text(str(path)))]
    address = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen(1)
        if has_socket:
            late.insert(0, m.op(m.NOTIFY, m.text(str(address)), m.texts(["{}"])))
        reply = box.start(plan_of(box.ops(["true"], late=late)))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 22, m.SECCOMP)
    late = [m.op(m.NOTIFY, m.text(str(tmp_path / "none")), m.texts(["{}"]))]
    reply = box.start(plan_of(box.ops(["true"], late=late)))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, 105)


# --- terminal ----------------------------------------------------------------------------------

TERMINAL = m.op(m.TERMINAL, m.u32(33), m.u32(99), m.text("/dev/console"))


def test_terminal_under_a_monitor_is_logged(box: Box) -> None:
    script = "tty; stty size; test -t 0 && echo in; stat -c %t /dev/console"
    output = run(box, script, after=[TERMINAL], late=[m.user(0, 0)])
    assert output.replace("\r", "").split() == ["/dev/pts/0", "33", "99", "in", "88"]


def test_terminal_without_devpts_is_refused(box: Box) -> None:
    mounts = [op for op in m.STANDARD_MOUNTS if b"devpts" not in op]
    reply = box.start(plan_of(box.ops(["true"], mounts=mounts, after=[TERMINAL])))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, m.TERMINAL)
    # A file of the image in its place.
    fake = [
        *mounts,
        m.op(m.SYMLINK, m.text("/dev/null"), m.text("/dev/pts/ptmx")),
        TERMINAL,
    ]
    reply = box.start(plan_of(box.ops(["true"], mounts=fake)))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 40, m.TERMINAL)


# --- the launcher without a monitor ------------------------------------------------------------


class Alone:
    """`podrt-monitor launch` with a plan; its messages, and the socket where a start is asked."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.path = folder / "start"
        self.pids: list[int] = []
        self.master = -1

    def launch(
        self,
        plan: bytes,
        *,
        holds: bool = False,
        dirs: Sequence[str] = (),
        keep: Sequence[int] = (),
        stdout: int = subprocess.DEVNULL,
    ) -> Message:
        plan_fd = os.memfd_create("plan", 0)
        os.write(plan_fd, plan)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(m.PATIENCE_S)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, listener:
            if holds:
                with contextlib.suppress(FileNotFoundError):
                    self.path.unlink()
                listener.bind(str(self.path))
                listener.listen(4)
            numbers = [plan_fd, theirs.fileno(), listener.fileno()]
            numbers = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in numbers]
            os.close(plan_fd)
            argv = ["launch", *map(str, numbers[:2]), str(numbers[2]) if holds else "-"]
            child = subprocess.Popen(
                [self.binary, *argv, *dirs], pass_fds=[*numbers, *keep], stdout=stdout
            )
            for fd in numbers:
                os.close(fd)
            theirs.close()
            reply = self.receive(ours)
            assert child.wait(m.PATIENCE_S) == (1 if reply.kind == m.FAILED else 0)
            if reply.kind != m.FAILED:
                self.pids.append(reply.a)
            else:
                assert not ours.recv(1)
            return reply

    def receive(self, sock: socket.socket) -> Message:
        while True:
            data, ancillary, _flags, _address = sock.recvmsg(1 << 16, socket.CMSG_SPACE(4))
            message = m.decode(data)
            if message.kind != m.TERMINAL_MESSAGE:
                return message
            ((_level, _kind, passed),) = ancillary
            self.master = array.array("i", passed)[0]

    def start(self, message: bytes) -> bytes:
        """What a connection hears that asks for the start: nothing means that exec succeeded."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(m.PATIENCE_S)
            sock.connect(str(self.path))
            if message:
                sock.send(message)
            else:
                return b""
            return sock.recv(1 << 16)


@pytest.fixture
def alone(monitor_binary: Path, tmp_path: Path) -> Iterator[Alone]:
    made = Alone(monitor_binary, tmp_path)
    with m.killed_at_end(made.pids):
        yield made
    if made.master >= 0:
        os.close(made.master)


@pytest.fixture
def subreaper() -> Iterator[None]:
    import ctypes

    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)
    yield
    libc.prctl(36, 0, 0, 0, 0)


STDIO = m.op(m.STDIO, m.u32(1), m.u32(0))


def bundle(box: Box, argv: Sequence[str], **ops: object) -> list[Operation]:
    """The operations of a container without a log."""
    return [STDIO, *box.ops(argv, **ops)[1:]]  # type: ignore[arg-type]


@pytest.mark.usefixtures("subreaper")
def test_launcher_alone_makes_a_child_of_its_caller(alone: Alone, box: Box) -> None:
    read, write = os.pipe()
    with open(read) as output:
        reply = alone.launch(plan_of(bundle(box, ["sh", "-c", "echo up; exit 7"])), stdout=write)
        os.close(write)
        assert reply.kind == m.STARTED, reply
        assert output.read() == "up\n"
    _pid, status = os.waitpid(reply.a, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    alone.pids.clear()


@pytest.mark.usefixtures("subreaper")
def test_launcher_alone_holds_until_it_is_released(alone: Alone, box: Box) -> None:
    ops = bundle(box, ["sleep", "1000"])
    ops.insert(-1, hook("/bin/touch", ["touch", "/ran"]))
    reply = alone.launch(plan_of(ops), holds=True)
    assert reply.kind == m.CREATED
    stat = Path(f"/proc/{reply.a}/stat").read_text().rsplit(")", 1)[1].split()
    assert (int(stat[1]), int(stat[19])) == (os.getpid(), reply.b)
    # Connections that ask for nothing, or nonsense, change nothing.
    for message in (b"", b"x", Message(m.STOP).encode(), Message(m.HELLO).encode()[:10]):
        assert alone.start(message) == b""
    assert Path(f"/proc/{reply.a}/comm").read_text() == "podrt-launch\n"
    assert not (box.folder / "upper/ran").exists()
    assert alone.start(Message(m.RELEASE).encode()) == b""
    assert Path(f"/proc/{reply.a}/comm").read_text() == "sleep\n"
    assert (box.folder / "upper/ran").exists()


@pytest.mark.usefixtures("subreaper")
def test_launcher_alone_tells_a_failed_exec_to_who_released(alone: Alone, box: Box) -> None:
    plan = plan_of(bundle(box, ["/no/such"]))
    assert alone.launch(plan, holds=True).kind == m.CREATED
    failed = m.decode(alone.start(Message(m.RELEASE).encode()))
    assert (failed.kind, failed.arg, failed.a, failed.body) == (m.FAILED, 2, m.EXEC, b"/no/such")
    failed = alone.launch(plan)
    assert (failed.kind, failed.arg, failed.a, failed.body) == (m.FAILED, 2, m.EXEC, b"/no/such")


def test_launcher_alone_refuses_bad_plans_and_cgroups(alone: Alone, box: Box) -> None:
    assert alone.launch(b"nonsense").a == 100
    plan = plan_of(bundle(box, ["true"]))
    for end in (0, 31, 40, len(plan) - 8):
        assert alone.launch(plan[:end]).a == 100
    failed = alone.launch(plan, dirs=["/sys/fs/cgroup/no/such"])
    assert (failed.arg, failed.a, failed.body) == (2, 103, b"/sys/fs/cgroup/no/such")


@pytest.mark.usefixtures("subreaper")
def test_launcher_alone_passes_the_terminal(alone: Alone, box: Box) -> None:
    script = "tty; stty size; cat"
    ops = bundle(box, ["sh", "-c", script], after=[TERMINAL], late=[m.user(0, 0)])
    reply = alone.launch(plan_of(ops), holds=True)
    assert reply.kind == m.CREATED, reply
    assert struct.unpack("4H", fcntl.ioctl(alone.master, termios.TIOCGWINSZ, bytes(8)))[:2] == (
        33, 99,
    )  # fmt: skip
    alone.start(Message(m.RELEASE).encode())
    with open(os.dup(alone.master), "r+b", buffering=0) as master:
        heard = b""
        while b"99\r\n" not in heard:
            heard += master.read(1000)
    assert heard == b"/dev/pts/0\r\n33 99\r\n"


@pytest.mark.usefixtures("subreaper")
def test_launcher_alone_keeps_only_the_descriptors_of_the_plan(alone: Alone, box: Box) -> None:
    out_read, out_write = os.pipe()
    kept = fcntl.fcntl(out_write, fcntl.F_DUPFD, 90)
    os.close(out_write)
    code = "import os,sys; os.dup2(90,3); os.close(90); os.execv(sys.argv[1], sys.argv[1:])"
    del code
    # Descriptor 3 is the pipe, 90 its copy that must not survive.
    # No descriptor of a shell's that may still be there: only 4, what `ls` reads.
    script = "echo kept >&3; exec ls /proc/self/fd >&3"
    ops = bundle(box, ["sh", "-c", script])
    ops[0] = m.op(m.STDIO, m.u32(1), m.u32(1))
    result: list[Message] = []

    def launch() -> None:
        result.append(alone.launch(plan_of(ops), keep=[3, kept]))

    saved = os.dup(3) if Path("/proc/self/fd/3").exists() else -1
    os.dup2(kept, 3)
    try:
        thread = threading.Thread(target=launch)
        thread.start()
        thread.join()
    finally:
        if saved >= 0:
            os.dup2(saved, 3)
            os.close(saved)
        else:
            os.close(3)
        os.close(kept)
    assert result[0].kind == m.STARTED
    with open(out_read) as output:
        kept_line, *fds = output.read().splitlines()
    assert kept_line == "kept"
    assert set(fds) <= {"0", "1", "2", "3", "4"}
