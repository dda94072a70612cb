"""The monitor's promises on its socket and in its journal, on real processes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import re
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Client, Group, Message, plan_of, read_journal

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\+00:00 (stdout|stderr) [FP] ")

PR_SET_CHILD_SUBREAPER = 36


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


def kinds(group: Group) -> list[int]:
    """The journal but for the receipts of starts."""
    records = read_journal(group.journal)
    return [r.kind for r in records if (r.kind, r.code) != (m.RECEIPT, m.START)]


def receipts(group: Group) -> int:
    records = read_journal(group.journal)
    return sum((record.kind, record.code) == (m.RECEIPT, m.START) for record in records)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + m.PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "gone"


# --- starts and ends ---------------------------------------------------------------------------


def test_start_of_a_program_logs_its_output_and_tells_its_code(box: Box, group: Group) -> None:
    reply = box.start(plan_of(box.ops(["sh", "-c", "echo one; echo two >&2; printf rest; exit 7"])))
    assert reply.kind == m.STARTED
    assert reply.id == box.id
    end = box.wait()
    assert (end.kind, end.arg, end.b) == (m.EXITED, 7, 0)
    assert sorted(box.lines()) == [
        ("stderr", "F", "two"),
        ("stdout", "F", "one"),
        ("stdout", "P", "rest"),
    ]
    assert all(STAMP.match(line) for line in box.log.read_text().splitlines())
    assert box.log.stat().st_mode & 0o777 == 0o600
    up, receipt, started, exited = read_journal(group.journal)
    assert (up.kind, up.pid, up.ticks) == (m.MONITOR_UP, group.pid, start_ticks(group.pid))
    assert (receipt.kind, receipt.pid, receipt.ticks) == (m.RECEIPT, reply.a, reply.b)
    assert (started.kind, started.pid, started.ticks) == (m.REC_STARTED, reply.a, reply.b)
    assert (exited.kind, exited.code, exited.flags) == (m.REC_EXITED, 7, 0)
    assert exited.at_ns == end.a
    assert [up.seq, receipt.seq, started.seq, exited.seq] == [1, 2, 3, 4]


def test_start_ticks_match_procfs_for_many_children(box: Box) -> None:
    for _ in range(20):
        reply = box.start(plan_of(box.ops(["sleep", "100"])))
        assert reply.b == start_ticks(reply.a)
        assert box.ask(m.STOP, arg=signal.SIGKILL).kind == m.EXITED


def test_start_of_a_live_container_is_refused(box: Box) -> None:
    plan = plan_of(box.ops(["sleep", "100"]))
    assert box.start(plan).kind == m.STARTED
    reply = box.start(plan)
    assert (reply.kind, reply.arg) == (m.FAILED, 17)


def test_exec_of_what_is_not_there_names_the_program(box: Box, group: Group) -> None:
    reply = box.start(plan_of(box.ops(["no-such-program"])))
    assert (reply.kind, reply.arg, reply.a, reply.body) == (m.FAILED, 2, m.EXEC, b"no-such-program")
    reply = box.start(plan_of(box.ops(["/etc/passwd"])))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 13, m.EXEC)
    failed = read_journal(group.journal)[-1]
    assert (failed.kind, failed.error, failed.a) == (m.REC_START_FAILED, 13, m.EXEC)
    assert box.start(plan_of(box.ops(["true"]))).kind == m.STARTED
    assert box.wait().arg == 0


@pytest.mark.parametrize(
    ("operation", "code", "error", "detail"),
    [
        (m.mount("nosuchfs", "/x"), m.MOUNT, 19, b"/x"),
        (m.mount("tmpfs", "/x", 0, ["size=lots"]), m.MOUNT, 22, b"/x"),
        (m.bind("/no/such/source", "/x"), m.BIND, 2, b"/no/such/source"),
        (m.bind("/etc", "/x/y", flags=1), m.BIND, 2, b"/x/y"),
        (m.sysctl("net.no.such", "1"), m.SYSCTL, 2, b"net.no.such"),
        (m.sysctl("net/", "h", "net/../../sysrq-trigger"), m.SYSCTL, 18, b"net/"),
        (m.op(m.SETNS, m.u32(m.NEWNET), m.text("")), m.SETNS, 3, b""),
        (m.op(m.CWD, m.text("/missing")), m.CWD, 2, b"/missing"),
        (m.op(m.RLIMIT, m.text("MANY"), m.u32(99), m.u64(1), m.u64(1)), m.RLIMIT, 22, b"MANY"),
    ],
    ids=("fs", "option", "source", "dest", "sysctl", "sysctl-up", "netns", "cwd", "rlimit"),
)  # fmt: skip
def test_start_with_a_stage_that_fails_names_it(
    box: Box, operation: m.Operation, code: int, error: int, detail: bytes
) -> None:
    reply = box.start(plan_of(box.ops(["true"], after=[operation])))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, error, code)
    assert reply.body.startswith(detail)


def test_start_without_a_log_directory_fails_and_leaves_nothing(box: Box, group: Group) -> None:
    box.log = group.root / "missing" / "log"
    reply = box.start(plan_of(box.ops(["true"])))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, m.LOG)


def test_hold_and_release_stand_before_exec_and_then_run(box: Box, group: Group) -> None:
    held = box.start(plan_of(box.ops(["sh", "-c", "echo ran"])), flags=m.HOLD)
    assert held.kind == m.CREATED
    assert Path(f"/proc/{held.a}/comm").read_text() == "podrt-launch\n"
    released = box.ask(m.RELEASE)
    assert (released.kind, released.a, released.b) == (m.STARTED, held.a, held.b)
    assert box.wait().arg == 0
    assert box.output() == "ran"
    assert kinds(group)[1:] == [m.REC_CREATED, m.REC_STARTED, m.REC_EXITED]


def test_stop_of_a_held_container_ends_it(box: Box) -> None:
    assert box.start(plan_of(box.ops(["true"])), flags=m.HOLD).kind == m.CREATED
    assert box.ask(m.STOP, arg=15, a=60_000).arg == 137


def test_release_of_a_program_that_is_not_there_fails(box: Box) -> None:
    assert box.start(plan_of(box.ops(["nope"])), flags=m.HOLD).kind == m.CREATED
    reply = box.ask(m.RELEASE)
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, m.EXEC)


def test_stop_kills_after_the_grace_period(box: Box, group: Group) -> None:
    assert box.start(plan_of(box.ops(["sh", "-c", "trap : TERM; while :; do sleep 1; done"]))).a
    end = box.ask(m.STOP, arg=signal.SIGTERM, a=150)
    assert (end.kind, end.arg, end.b) == (m.EXITED, 137, 1)
    stopping, exited = read_journal(group.journal)[-2:]
    assert (stopping.kind, stopping.code) == (m.REC_STOPPING, signal.SIGTERM)
    assert (exited.kind, exited.flags) == (m.REC_EXITED, 1)
    assert exited.at_ns - stopping.at_ns >= 140_000_000


def test_stop_of_an_obeying_program_does_not_wait(box: Box) -> None:
    script = "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"
    box.start(plan_of(box.ops(["sh", "-c", script])))
    wait_until(lambda: "up" in box.log.read_text())
    end = box.ask(m.STOP, arg=signal.SIGTERM, a=60_000)
    assert (end.arg, end.b) == (3, 0)


def test_second_stop_shortens_the_first(box: Box, client: Client) -> None:
    box.start(plan_of(box.ops(["sleep", "100"])))
    first = client.send(Message(m.STOP, id=box.id, arg=signal.SIGTERM, a=3_600_000))
    second = client.send(Message(m.STOP, id=box.id, arg=signal.SIGTERM, a=50))
    assert client.receive(first).b == 1
    assert client.receive(second).arg == 137


def test_stop_while_it_starts_ends_the_start(box: Box, client: Client) -> None:
    plan = plan_of(box.ops(["sleep", "100"]))
    for _ in range(10):
        start = box.send_start(plan)
        end = client.ask(Message(m.STOP, id=box.id, arg=15, a=0))
        assert (end.kind, end.arg) == (m.EXITED, 137)
        begun = client.receive(start)
        assert begun.kind == m.STARTED or begun.arg == 125


def test_signal_reaches_the_program_and_marks_the_end(box: Box, group: Group) -> None:
    box.start(plan_of(box.ops(["sleep", "100"])))
    assert box.ask(m.SIGNAL, arg=0).kind == m.OK
    assert box.ask(m.SIGNAL, arg=signal.SIGKILL).kind == m.OK
    assert box.wait().arg == 137
    assert read_journal(group.journal)[-1].flags == 1
    assert box.ask(m.SIGNAL, arg=15).arg == 3
    assert box.ask(m.STOP, arg=15).arg == 3


def test_requests_of_another_run_are_refused(box: Box, client: Client) -> None:
    box.start(plan_of(box.ops(["sleep", "100"])))
    for kind in (m.SIGNAL, m.STOP, m.WAIT):
        reply = client.ask(Message(kind, run=99, arg=15, id=box.id))
        assert (reply.kind, reply.arg) == (m.FAILED, 3)


def test_wait_of_two_clients_answers_both(box: Box, group: Group) -> None:
    other = group.connect()
    box.start(plan_of(box.ops(["sleep", "100"])))
    waits = [(c, c.send(Message(m.WAIT, id=box.id))) for c in (box.client, other)]
    box.ask(m.SIGNAL, arg=signal.SIGKILL)
    assert [c.receive(req).arg for c, req in waits] == [137, 137]
    assert other.ask(Message(m.WAIT, id=bytes(32))).arg == 3


def test_client_that_leaves_cancels_nothing_that_was_begun(box: Box, group: Group) -> None:
    other = group.connect()
    box.send_start(plan_of(box.ops(["sh", "-c", "echo done"])), client=other)
    wait_until(lambda: receipts(group))
    other.close()
    wait_until(lambda: m.REC_EXITED in kinds(group))
    assert box.wait().arg == 0
    assert box.output() == "done"


def test_starts_that_a_dead_client_left_unread_never_happen(
    group: Group, client: Client, busybox_root: Path
) -> None:
    boxes = [Box(group, client, busybox_root) for _ in range(5)]
    other = group.connect()
    os.kill(group.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(group.pid) == "T")
        for box in boxes:
            box.send_start(plan_of(box.ops(["echo", "hi"])), client=other)
        other.close()
    finally:
        os.kill(group.pid, signal.SIGCONT)
    group.connect()
    # It was greeted behind them, so nothing of theirs comes later either.
    assert receipts(group) == 0
    assert [box.ask(m.WAIT).arg for box in boxes] == [errno.ESRCH] * 5


def test_many_starts_at_once_all_run(group: Group, client: Client, busybox_root: Path) -> None:
    boxes = [Box(group, client, busybox_root) for _ in range(40)]
    reqs = [box.send_start(plan_of(box.ops(["echo", "hi"]))) for box in boxes]
    hello = client.ask(Message(m.HELLO))
    assert hello.kind == m.OK
    assert all(client.receive(req).kind == m.STARTED for req in reqs)
    assert [box.wait().arg for box in boxes] == [0] * 40
    assert [box.output() for box in boxes] == ["hi"] * 40


def test_forget_and_removing(box: Box, client: Client, group: Group) -> None:
    plan = plan_of(box.ops(["sleep", "100"]))
    box.start(plan)
    assert box.ask(m.FORGET).arg == 16
    box.ask(m.STOP, arg=9)
    assert box.ask(m.FORGET).kind == m.OK
    assert box.ask(m.FORGET).kind == m.OK
    assert box.ask(m.WAIT).arg == 3
    assert client.ask(Message(m.REMOVING, id=group.id)).kind == m.OK
    assert box.start(plan).arg == 125
    assert kinds(group)[-2:] == [m.FORGOTTEN, m.RECEIPT]


def test_pause_and_unpause_are_journaled(box: Box, group: Group) -> None:
    box.start(plan_of(box.ops(["sleep", "100"])))
    assert box.ask(m.PAUSE).kind == m.OK
    assert box.ask(m.UNPAUSE).kind == m.OK
    assert kinds(group)[-2:] == [m.REC_PAUSED, m.REC_UNPAUSED]


# --- logs --------------------------------------------------------------------------------------


def test_long_lines_are_cut_in_pieces(box: Box) -> None:
    box.start(plan_of(box.ops(["sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x; echo end"])))
    box.wait()
    lines = box.lines()
    assert [mark for _stream, mark, _text in lines] == ["P", "P", "F"]
    assert "".join(text for _stream, _mark, text in lines) == "x" * 20000 + "end"


def test_output_flood_arrives_whole_and_in_order(box: Box) -> None:
    box.start(plan_of(box.ops(["seq", "1", "50000"])))
    assert box.wait().arg == 0
    assert box.output() == "\n".join(str(number) for number in range(1, 50001))


def test_empty_lines_and_binary_survive(box: Box) -> None:
    box.start(plan_of(box.ops(["sh", "-c", r"printf 'a\n\n\0\377b\n'"])))
    box.wait()
    lines = [line.split(b" ", 3)[2:] for line in box.log.read_bytes().split(b"\n")[:-1]]
    assert lines == [[b"F", b"a"], [b"F", b""], [b"F", b"\0\xffb"]]


def test_log_over_its_size_begins_anew(box: Box) -> None:
    box.start(plan_of(box.ops(["seq", "1", "20000"], log_max=100_000)))
    box.wait()
    assert box.log.stat().st_size <= 100_000
    assert box.log.with_name("log.1").stat().st_size <= 100_000
    assert box.lines()[-1][2] == "20000"


# --- namespaces of the pod ---------------------------------------------------------------------


def test_setup_makes_namespaces_that_containers_join(
    box: Box, client: Client, group: Group
) -> None:
    flags = m.NEWNET | m.NEWIPC | m.NEWUTS
    setup = Message(m.SETUP, arg=flags, a=1 << 20, id=group.id, body=b"shop")
    inodes = client.ask(setup).body
    net, ipc, uts = struct.unpack("=3Q", inodes)
    assert client.ask(setup).body == inodes
    assert client.ask(setup._replace(arg=m.NEWNET)).arg == 16
    assert os.stat(group.run_dir / "ns/net").st_ino == net
    joins = [m.op(m.SETNS, m.u32(kind), m.text("")) for kind in (m.NEWNET, m.NEWIPC, m.NEWUTS)]
    mounts = (*m.STANDARD_MOUNTS, m.op(m.POD_SHM, m.text("/dev/shm")))
    script = (
        "hostname; for n in net ipc uts; do readlink /proc/self/ns/$n; done;"
        "cat /sys/class/net/lo/flags; grep ' /dev/shm ' /proc/mounts; echo x > /dev/shm/x"
    )
    ops = box.ops(["sh", "-c", script], early=joins, mounts=(*mounts, m.SYSFS))
    box.start(plan_of(ops, m.NEWNS | m.NEWPID))
    assert box.wait().arg == 0
    lines = box.output().splitlines()
    assert lines[:4] == ["shop", f"net:[{net}]", f"ipc:[{ipc}]", f"uts:[{uts}]"]
    assert int(lines[4], 16) & 1
    assert "size=1024k" in lines[-1]
    assert not list((group.run_dir / "shm").iterdir())
    up = next(record for record in read_journal(group.journal) if record.kind == m.NS_UP)
    assert (up.code, up.a, up.b) == (flags, net, ipc)
    assert client.ask(Message(m.RELEASE_NS, id=group.id)).kind == m.OK
    assert kinds(group)[-1] == m.NS_DOWN


def test_release_of_namespaces_in_use_is_refused(box: Box, client: Client, group: Group) -> None:
    client.ask(Message(m.SETUP, arg=m.NEWUTS, id=group.id, body=b"x"))
    box.start(plan_of(box.ops(["sleep", "100"])))
    assert client.ask(Message(m.RELEASE_NS)).arg == 16
    box.ask(m.STOP, arg=9)
    assert client.ask(Message(m.RELEASE_NS)).kind == m.OK


# --- bad input ---------------------------------------------------------------------------------


def test_malformed_messages_are_refused_and_the_connection_goes_on(client: Client) -> None:
    for data in (b"x", b"x" * 63, struct.pack("=HHIIiQQ32s", 1, 9, 5, 0, 0, 0, 0, b"")):
        client.socket.send(data)
        reply = m.decode(client.socket.recv(1 << 17))
        assert (reply.kind, reply.arg) == (m.FAILED, 71)
    for kind in (0, 3, 14, 63, 64, 65535):
        assert client.ask(Message(kind)).arg == 71
    assert client.ask(Message(m.HELLO, body=bytes(1 << 16))).kind == m.OK
    client.socket.send(Message(m.HELLO, body=bytes((1 << 16) + 1)).encode())
    assert m.decode(client.socket.recv(1 << 17)).arg == 90
    assert client.ask(Message(m.SETUP, arg=1)).arg == 71
    assert client.ask(Message(m.SETUP, arg=m.NEWUTS, body=b"a\0b")).arg == 71


def test_extra_descriptors_are_closed(client: Client, group: Group) -> None:
    before = len(os.listdir(f"/proc/{group.pid}/fd"))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    try:
        for kind in (m.HELLO, m.WAIT, m.START, 77):
            client.ask(Message(kind), fds)
    finally:
        for fd in fds:
            os.close(fd)
    client.ask(Message(m.HELLO))
    assert len(os.listdir(f"/proc/{group.pid}/fd")) == before


def test_random_messages_never_end_the_monitor(
    client: Client, group: Group, rounds: Callable[[int, int], int]
) -> None:
    dice = random.Random(8)
    for _ in range(rounds(400, 20_000)):
        kind = dice.choice([*range(15), 64, 70])
        arg = dice.choice([0, 1, 3, 15, -1, 1 << 30, m.NEWUTS, m.NEWIPC])
        body = dice.choice([b"", b"\0", b"/x\0", b"x", dice.randbytes(dice.randrange(200))])
        numbers = [dice.choice([0, 1, dice.getrandbits(63)]) for _ in range(2)]
        message = Message(kind, 0, 0, arg, *numbers, bytes([dice.randrange(3)] * 32), body)
        reply = client.ask(message)
        assert reply.kind in (m.OK, m.FAILED)
    assert client.ask(Message(m.HELLO)).b == group.pid
    client.ask(Message(m.RELEASE_NS))


def test_plan_cut_anywhere_is_refused(box: Box) -> None:
    plan = plan_of([*box.ops(["true"], late=[m.user(0, 0, [1, 2]), m.caps(0)])])
    for length in range(len(plan)):
        header = plan[:12] + struct.pack("=I", length) + plan[16:32]
        for cut in (plan[:length], (header + plan[32:length])[:length]):
            reply = box.start(cut)
            assert (reply.kind, reply.a) == (m.FAILED, 100), length


def test_plan_with_random_bytes_changed_never_ends_the_monitor(
    box: Box, client: Client, rounds: Callable[[int, int], int]
) -> None:
    dice = random.Random(9)
    plan = plan_of(
        box.ops(["true"], late=[m.user(0, 0, [1]), m.caps(0)], mounts=m.STANDARD_MOUNTS[:3])
    )
    for _ in range(rounds(150, 5_000)):
        broken = bytearray(plan)
        for _ in range(dice.randrange(1, 4)):
            # Not the texts: a changed path is a valid plan for some other file.
            at = dice.randrange(8, len(broken))
            if not 32 <= broken[at] < 127:
                broken[at] = dice.choice([0, 1, 255, dice.randrange(256)])
        if box.start(bytes(broken)).kind == m.STARTED:
            assert box.ask(m.STOP, arg=9).kind in (m.EXITED, m.FAILED)
    assert client.ask(Message(m.HELLO)).kind == m.OK


def test_plan_that_is_no_file_is_refused(box: Box, client: Client) -> None:
    read_end, write_end = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    try:
        for run, fd in enumerate((read_end, directory), 1):
            reply = client.ask(Message(m.START, id=box.id, run=run), (fd,))
            assert (reply.kind, reply.a) == (m.FAILED, 100)
    finally:
        for fd in (read_end, write_end, directory):
            os.close(fd)


def test_client_that_never_reads_does_not_block_the_others(group: Group, client: Client) -> None:
    deaf = group.connect()
    deaf.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        for _ in range(200_000):
            deaf.socket.send(Message(m.HELLO).encode())
            if _ % 500 == 0:
                assert client.ask(Message(m.HELLO)).kind == m.OK
    assert client.ask(Message(m.HELLO)).kind == m.OK


# --- life of the monitor -----------------------------------------------------------------------


def test_monitor_ends_when_nothing_is_left(group: Group, client: Client) -> None:
    pid = group.pid
    group.close()
    group.wait_end()
    assert kinds(group) == [m.MONITOR_UP, m.MONITOR_DOWN]
    wait_until(lambda: state_of(pid) in ("gone", "Z"))


def test_monitor_stays_while_a_container_runs(box: Box, group: Group) -> None:
    box.start(plan_of(box.ops(["sh", "-c", "sleep 0.2; echo late"])))
    group.close()
    group.wait_end()
    assert kinds(group)[-2:] == [m.REC_EXITED, m.MONITOR_DOWN]
    assert box.output() == "late"


def test_monitor_ignores_every_signal_but_kill(group: Group, client: Client) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
        os.kill(group.pid, number)
    assert client.ask(Message(m.HELLO)).b == group.pid


def test_journal_with_a_torn_tail_goes_on_behind_the_last_record(
    box: Box, group: Group, client: Client
) -> None:
    group.close()
    group.wait_end()
    whole = group.journal.read_bytes()
    group.torn_journal = whole + b"\0" * 96 + b"half a record"
    group.spawn()
    fresh = group.connect()
    records = read_journal(group.journal)
    assert [(record.kind, record.seq) for record in records] == [
        (m.MONITOR_UP, 1),
        (m.MONITOR_DOWN, 2),
        (m.MONITOR_UP, 3),
    ]
    assert struct.unpack("=Q", fresh.ask(Message(m.HELLO)).body) == (3,)


def test_death_of_the_monitor_during_starts_leaves_no_process_without_a_receipt(
    tmp_path: Path, monitor_binary: Path, busybox_root: Path, rounds: Callable[[int, int], int]
) -> None:
    dice = random.Random(5)
    for number in range(rounds(12, 500)):
        group = Group(tmp_path, monitor_binary)
        group.spawn()
        client = group.connect()
        word = f"{1_000_000 + number}.{os.getpid()}"
        # A change of user clears the signal that a parent's death would send.
        for late in ([], [m.user(1000, 1000)]) * 2:
            box = Box(group, client, busybox_root)
            box.send_start(plan_of(box.ops(["sleep", word], late=late)))
        time.sleep(dice.random() * 0.01)
        os.kill(group.pid, signal.SIGKILL)
        group.close()
        group.wait_end()
        records = read_journal(group.journal)
        known = {r.pid: r.ticks for r in records if r.kind == m.RECEIPT}
        alive = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        ours = [pid for pid in alive if word in command_of(pid)]
        receipted = [pid for pid in known if state_of(pid) != "gone"]
        with m.killed_at_end(list({*receipted, *ours})):
            assert all(known.get(pid) == start_ticks(pid) for pid in ours)


def test_death_of_the_monitor_kills_nobody_and_the_next_one_takes_over(
    box: Box, group: Group, client: Client
) -> None:
    script = "trap 'echo bye; exit 9' TERM; n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done"
    begun = box.start(plan_of(box.ops(["sh", "-c", script])))
    os.kill(group.pid, signal.SIGKILL)
    group.close()
    group.wait_end()
    assert state_of(begun.a) in "SR"
    group.spawn()
    box.client = group.connect()
    wrong = box.ask(m.ADOPT, a=begun.a, b=begun.b + 1, body=bytes(box.log))
    assert (wrong.kind, wrong.arg) == (m.FAILED, 3)
    adopted = box.ask(m.ADOPT, a=begun.a, b=begun.b, body=bytes(box.log))
    assert (adopted.kind, adopted.a) == (m.STARTED, begun.a)
    assert box.ask(m.ADOPT, a=begun.a, b=begun.b).arg == 17
    before = len(box.lines())
    wait_until(lambda: len(box.lines()) > before + 3)
    end = box.ask(m.STOP, arg=signal.SIGTERM, a=20_000)
    exited = read_journal(group.journal)[-1]
    numbers = [text for _stream, _mark, text in box.lines()]
    assert numbers == [*(str(n) for n in range(1, len(numbers))), "bye"]
    # Unless it was reaped before the monitor looked, and before Linux 6.15.
    assert (end.kind, end.arg) in ((m.EXITED, 9), (m.EXITED, 255))
    assert (exited.code, exited.flags) in ((9, 1), (255, 5))


def replace_monitor(group: Group, box: Box) -> None:
    os.kill(group.pid, signal.SIGKILL)
    group.close()
    group.wait_end()
    group.spawn()
    box.client = group.connect()


@pytest.mark.usefixtures("client")
def test_end_of_one_taken_over_is_told_although_its_parent_never_reaps(
    box: Box, group: Group
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        # Who is made from now on falls to us, and we look at nothing.
        replace_monitor(group, box)
        begun = box.start(plan_of(box.ops(["sh", "-c", "trap 'exit 9' TERM; while :; do :; done"])))
        replace_monitor(group, box)
        assert box.ask(m.ADOPT, a=begun.a, b=begun.b, body=bytes(box.log)).kind == m.STARTED
        end = box.ask(m.STOP, arg=signal.SIGTERM, a=20_000)
        assert (end.kind, end.arg) == (m.EXITED, 9)
        assert state_of(begun.a) == "Z"
        assert os.waitpid(begun.a, 0) == (begun.a, 9 << 8)
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def test_next_monitor_takes_the_namespaces_from_a_member(
    box: Box, group: Group, client: Client, busybox_root: Path
) -> None:
    flags = m.NEWNET | m.NEWIPC | m.NEWUTS
    setup = Message(m.SETUP, arg=flags, a=1 << 20, id=group.id, body=b"shop")
    joins = [m.op(m.SETNS, m.u32(kind), m.text("")) for kind in (m.NEWNET, m.NEWIPC, m.NEWUTS)]
    mounts = (m.mount("proc", "/proc"), m.op(m.POD_SHM, m.text("/dev/shm")))
    inodes = client.ask(setup).body

    def plan(which: Box, script: str) -> bytes:
        ops = which.ops(["sh", "-c", script], early=joins, mounts=mounts)
        return plan_of(ops, m.NEWNS | m.NEWPID)

    begun = box.start(plan(box, "echo kept > /dev/shm/x; echo up; sleep 100"))
    wait_until(lambda: box.log.exists() and box.output() == "up")
    os.kill(group.pid, signal.SIGKILL)
    group.close()
    group.wait_end()
    group.spawn()
    box.client = group.connect()
    assert box.ask(m.ADOPT, a=begun.a, b=begun.b, body=bytes(box.log)).kind == m.STARTED
    assert box.client.ask(setup).body == inodes
    other = Box(group, box.client, busybox_root)
    other.start(plan(other, "cat /dev/shm/x; hostname"))
    assert other.wait().arg == 0
    assert other.output() == "kept\nshop"


def test_full_disk_refuses_starts_and_loses_no_exit(
    tmp_path: Path, monitor_binary: Path, busybox_root: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"small", bytes(folder), b"tmpfs", 0, b"size=256k") == 0
    try:
        group = Group(folder, monitor_binary)
        group.spawn()
        box = Box(group, group.connect(), busybox_root)
        for name in ("upper", "work"):
            (tmp_path / name).mkdir()
        box.log = tmp_path / "log"
        own = (str(tmp_path / "upper"), str(tmp_path / "work"))
        box.root_op = m.overlay([str(busybox_root)], *own)
        filler = folder / "filler"
        plan = plan_of(box.ops(["sleep", "100"]))
        assert box.start(plan).kind == m.STARTED
        # Up to the end of the journal's page there is always room.
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        while box.ask(m.PAUSE).kind == m.OK:
            pass
        assert box.ask(m.STOP, arg=9).arg == 137
        assert kinds(group)[-1] == m.REC_PAUSED
        failed = box.start(plan)
        assert (failed.kind, failed.arg, failed.a) == (m.FAILED, 28, 104)
        filler.unlink()
        wait_until(lambda: m.REC_EXITED in kinds(group))
        assert box.start(plan).kind == m.STARTED
        assert box.ask(m.STOP, arg=9).arg == 137
        group.let_go()
        group.wait_end()
    finally:
        # The monitor has a copy of the mount in its own namespace.
        assert libc.umount2(bytes(folder), 2) == 0


def test_adopt_of_what_is_gone_is_refused(box: Box) -> None:
    begun = box.start(plan_of(box.ops(["true"])))
    box.wait()
    assert box.ask(m.ADOPT, a=begun.a, b=begun.b).arg == 3
    assert box.ask(m.ADOPT, a=0, b=0).arg == 71


def test_sockets_of_strangers_are_not_accepted(group: Group, client: Client) -> None:
    group.run_dir.joinpath("m").chmod(0o777)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            os.chdir(group.run_dir)
            os.setresuid(65534, 65534, 65534)
            sock.connect("m")
            sock.settimeout(10)
            with contextlib.suppress(ConnectionError):
                sock.send(Message(m.HELLO).encode())
                code = 2 if sock.recv(100) else 0
            code = 0 if code == 1 else code
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_client_that_does_not_read_gets_every_answer_later(client: Client) -> None:
    requests = [client.send(Message(m.HELLO)) for _ in range(1_000)]
    assert [client.receive(request).req for request in requests] == requests


def test_client_that_never_reads_is_dropped_and_the_others_served(
    group: Group, client: Client
) -> None:
    deaf = group.connect()
    deaf.socket.setblocking(False)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            try:
                deaf.send(Message(m.HELLO))
            except BlockingIOError:
                client.ask(Message(m.HELLO))
    assert client.ask(Message(m.HELLO)).kind == m.OK
