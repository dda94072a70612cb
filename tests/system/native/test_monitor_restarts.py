"""Restart policies, and the program that settles, as the monitor keeps them by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Client, Group, Message, plan_of

FOREVER_MS = 200_000


@pytest.fixture(autouse=True)
def nothing_starts_any_more(group: Group) -> Iterator[None]:
    """Whoever still waits at the end of a test is called off."""
    yield
    client = group.connect()
    client.ask(Message(m.REMOVING, id=group.id))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + m.PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def plan_for(box: Box, script: str) -> bytes:
    return plan_of(box.ops(["sh", "-c", script]))


def begin(box: Box, script: str, kind: int, most: int = 0, **words: int) -> None:
    """Start it by hand, with a policy."""
    plan = plan_for(box, script)
    assert box.tell_policy(kind, most, plan=plan).kind == m.OK
    assert box.start(plan, flags=m.RESTARTS | words.get("flags", 0)).kind == m.STARTED


def wait_in_back_off(box: Box, kind: int = m.ALWAYS) -> None:
    """As after a monitor's death: its last run has ended, and its next is far away."""
    box.run = 7
    told = box.tell_policy(
        kind, plan=plan_for(box, "true"), run=7, count=2, delay_ms=FOREVER_MS, code=3,
        ended_at_ns=time.time_ns(),
    )  # fmt: skip
    assert told.kind == m.OK


@pytest.mark.parametrize(
    ("kind", "most", "script", "runs", "code"),
    [
        (m.NO, 0, "exit 1", 1, 1),
        (m.ON_FAILURE, 0, "exit 0", 1, 0),
        (m.ON_FAILURE, 2, "exit 1", 3, 1),
        (m.ON_FAILURE, 0, "n=$(cat /tmp/n 2>/dev/null); echo x$n > /tmp/n; [ $n ]", 2, 0),
    ],
)
def test_policy_and_code_decide_how_often_it_runs(
    box: Box, kind: int, most: int, script: str, runs: int, code: int
) -> None:
    begin(box, script, kind, most)
    ended = box.wait()
    assert (ended.kind, ended.run, ended.arg) == (m.EXITED, runs, code)
    ends = box.ends()
    assert [one.run for one in ends] == list(range(1, runs + 1))
    assert [one.b for one in ends] == list(range(runs))
    assert [bool(one.a) for one in ends] == [True] * (runs - 1) + [False]


@pytest.mark.parametrize("kind", [m.ALWAYS, m.UNLESS_STOPPED])
@pytest.mark.parametrize("code", [0, 1])
def test_always_runs_until_it_is_stopped(box: Box, kind: int, code: int) -> None:
    begin(box, f"exit {code}", kind)
    wait_until(lambda: len(box.ends()) > 2)
    stopped = box.client.ask(Message(m.STOP, arg=signal.SIGTERM, id=box.id))
    assert stopped.kind == m.EXITED
    last = box.ends()[-1]
    assert (last.a, last.flags & m.BY_USER) == (0, m.BY_USER)


def test_runs_of_one_container_never_overlap(box: Box, group: Group) -> None:
    begin(box, "exit 1", m.ON_FAILURE, 3)
    box.wait()
    kinds = [
        (one.kind, one.run)
        for one in m.read_journal(group.journal)
        if one.id == box.id and one.kind in (m.RECEIPT, m.REC_EXITED)
    ]
    assert kinds == [(kind, run) for run in range(1, 5) for kind in (m.RECEIPT, m.REC_EXITED)]


def test_delays_double_from_a_tenth_of_a_second(box: Box) -> None:
    begin(box, "exit 1", m.ON_FAILURE, 3)
    box.wait()
    assert [one.a - one.at_ns for one in box.ends()[:-1]] == [
        ms * 1_000_000 for ms in (100, 200, 400)
    ]


@pytest.mark.parametrize(
    ("before_ms", "after_ms"),
    [(0, 100), (100, 200), (149_999, 299_998), (150_000, 300_000), (300_000, 300_000)],
)
def test_delay_after_a_delay_ends_at_five_minutes(box: Box, before_ms: int, after_ms: int) -> None:
    began_ns = time.time_ns()
    box.tell_policy(m.ALWAYS, plan=b"x", run=1, delay_ms=before_ms, code=1, ended_at_ns=began_ns)
    done_ns = time.time_ns()
    (end,) = box.ends()
    assert began_ns <= end.a - after_ms * 1_000_000 <= done_ns
    assert (end.at_ns, end.code) == (began_ns, 1)


def test_delay_begins_anew_after_ten_seconds(box: Box) -> None:
    script = "n=$(cat /tmp/n); echo x$n > /tmp/n; [ ${#n} != 2 ] || sleep 10.1; exit 1"
    begin(box, script, m.ON_FAILURE, 3)
    box.wait()
    assert [(one.a - one.at_ns) // 1_000_000 for one in box.ends()[:-1]] == [100, 200, 100]


def test_stop_in_back_off_calls_it_off_and_answers_who_waits(box: Box) -> None:
    wait_in_back_off(box)
    waiting = box.client.send(Message(m.WAIT, run=7, id=box.id))
    stopped = box.ask(m.STOP, arg=signal.SIGTERM, a=1000)
    assert (stopped.kind, stopped.run, stopped.arg) == (m.EXITED, 7, 3)
    assert box.client.receive(waiting).kind == m.EXITED
    first, last = box.ends()
    assert first.a > 0 and last.a == 0
    assert (last.code, last.b, last.at_ns, last.flags) == (3, 2, first.at_ns, m.BY_USER)


@pytest.mark.parametrize(
    ("number", "answer"),
    [(signal.SIGKILL, m.OK), (signal.SIGTERM, m.OK), (signal.SIGHUP, m.FAILED), (0, m.FAILED)],
)
def test_only_a_signal_that_ends_calls_it_off(box: Box, number: int, answer: int) -> None:
    wait_in_back_off(box)
    assert box.ask(m.SIGNAL, arg=number).kind == answer
    assert len(box.ends()) == (2 if answer == m.OK else 1)


def test_removal_of_the_group_calls_it_off(box: Box, group: Group) -> None:
    wait_in_back_off(box)
    waiting = box.client.send(Message(m.WAIT, run=7, id=box.id))
    assert box.client.ask(Message(m.REMOVING, id=group.id)).kind == m.OK
    assert box.client.receive(waiting).kind == m.EXITED


def test_forgetting_in_back_off_answers_who_waits(box: Box) -> None:
    wait_in_back_off(box)
    waiting = box.client.send(Message(m.WAIT, run=7, id=box.id))
    assert box.ask(m.FORGET).kind == m.OK
    assert box.client.receive(waiting).kind == m.EXITED
    assert box.ask(m.WAIT).kind == m.FAILED


def test_namespaces_stay_while_somebody_waits(box: Box) -> None:
    wait_in_back_off(box)
    assert box.client.ask(Message(m.RELEASE_NS)).arg == 16  # EBUSY


def test_start_by_hand_in_back_off_begins_a_new_series(box: Box) -> None:
    wait_in_back_off(box)
    plan = plan_for(box, "exec sleep 1000")
    box.run = 6
    stale = box.start(plan, flags=m.RESTARTS)
    assert (stale.kind, stale.arg) == (m.FAILED, 116)  # ESTALE: the number is used
    assert box.start(plan, flags=m.RESTARTS).kind == m.STARTED
    os.kill(box.group.processes()[-1], signal.SIGKILL)
    wait_until(lambda: len(box.ends()) == 2)
    end = box.ends()[-1]
    assert (end.run, end.b, end.a - end.at_ns) == (8, 0, 100_000_000)
    box.ask(m.STOP, arg=signal.SIGKILL)


def test_start_without_the_flag_drops_the_policy(box: Box) -> None:
    plan = plan_for(box, "exit 1")
    box.tell_policy(m.ALWAYS, plan=plan)
    box.start(plan)
    assert box.wait().run == 1


def test_policy_that_changes_while_it_waits_counts(box: Box) -> None:
    wait_in_back_off(box)
    waiting = box.client.send(Message(m.WAIT, run=7, id=box.id))
    assert box.tell_policy(m.NO, plan=b"x").kind == m.OK
    assert box.client.receive(waiting).kind == m.EXITED
    assert box.ends()[-1].b == 2


def test_stop_of_an_earlier_run_of_the_series_means_the_one_that_runs(box: Box) -> None:
    begin(box, "[ -e /tmp/n ] && exec sleep 1000; echo > /tmp/n", m.ALWAYS)
    wait_until(lambda: len(box.group.processes()) == 1 and box.ends())
    stopped = box.client.ask(Message(m.STOP, run=1, arg=signal.SIGKILL, id=box.id))
    assert (stopped.kind, stopped.run) == (m.EXITED, 2)


def test_one_that_needs_another_waits_for_it_and_is_not_counted(
    box: Box, group: Group, client: Client, busybox_root: Path
) -> None:
    need = Box(group, client, busybox_root)
    plan = plan_for(box, "exec sleep 1000")
    box.run = 3
    box.tell_policy(
        m.ALWAYS, plan=plan, needs=[need.id], run=3, count=1, code=1, ended_at_ns=time.time_ns()
    )
    time.sleep(0.3)  # three times its delay: it is postponed, nothing tells that
    assert group.processes() == []
    assert need.start(plan_for(need, "exec sleep 1000")).kind == m.STARTED
    wait_until(lambda: len(group.processes()) == 2)
    started = [one for one in m.read_journal(group.journal) if one.kind == m.REC_STARTED]
    assert [(one.id, one.run, one.b) for one in started] == [(need.id, 1, 0), (box.id, 4, 2)]
    for one in (box, need):
        client.ask(Message(m.STOP, arg=signal.SIGKILL, id=one.id))


def test_restart_that_fails_counts_as_a_run_and_backs_off(box: Box) -> None:
    begin(box, "exit 1", m.ON_FAILURE, 2)
    (box.folder / "plan").write_bytes(b"no plan")
    ended = box.wait()
    assert (ended.kind, ended.run, ended.arg) == (m.EXITED, 3, 126)
    ends = box.ends()
    assert [(one.run, one.code, one.b >> 32) for one in ends] == [
        (1, 1, 0), (2, 126, 100), (3, 126, 100),
    ]  # fmt: skip
    assert ends[1].a - ends[1].at_ns == 200_000_000


def test_log_goes_on_through_restarts(box: Box) -> None:
    begin(box, "echo line; exit 1", m.ON_FAILURE, 2)
    box.wait()
    assert box.output() == "line\nline\nline"


@pytest.mark.parametrize(
    "body",
    [b"", bytes(40), bytes(40) + b"/plan", b"\xff" * 40 + b"/plan\0", bytes(32) + b"\1" + bytes(9)],
)
def test_malformed_policy_is_refused(client: Client, box: Box, body: bytes) -> None:
    reply = client.ask(Message(m.POLICY, id=box.id, body=body))
    assert (reply.kind, reply.arg) == (m.FAILED, 71)  # EPROTO


class Settling:
    """A group whose monitor runs a script in the stead of `system settle`."""

    def __init__(self, folder: Path, binary: Path, root: Path, script: str) -> None:
        self.said = folder / "said"
        self.group = Group(folder, binary)
        self.group.settle = ["/bin/sh", "-c", script, str(self.said)]
        self.group.spawn()
        self.client = self.group.connect()
        self.boxes = [Box(self.group, self.client, root) for _ in range(2)]

    def lines(self) -> list[str]:
        return self.said.read_text().splitlines() if self.said.exists() else []


@pytest.fixture
def settling(
    tmp_path: Path, monitor_binary: Path, busybox_root: Path
) -> Iterator[Callable[[str], Settling]]:
    made: list[Settling] = []

    def make(script: str) -> Settling:
        (tmp_path / "settling").mkdir()
        made.append(Settling(tmp_path / "settling", monitor_binary, busybox_root, script))
        return made[0]

    yield make
    with contextlib.suppress(OSError):
        made[0].group.connect().ask(Message(m.REMOVING, id=made[0].group.id))
    made[0].group.let_go()
    made[0].group.wait_end()


def test_settling_is_done_once_for_all_that_end_together(
    settling: Callable[[str], Settling],
) -> None:
    one = settling('echo done >> "$0"')
    for box in one.boxes:
        assert box.start(plan_for(box, "exec sleep 1000"), flags=m.SETTLE).kind == m.STARTED
    for pid in one.group.processes():
        os.kill(pid, signal.SIGKILL)
    one.group.close()
    wait_until(one.lines)
    one.group.wait_end()
    assert one.lines() == ["done"]


def test_settling_starts_with_nothing_of_the_monitors(
    settling: Callable[[str], Settling],
) -> None:
    one = settling('{ env; ls /proc/self/fd; readlink /proc/self/ns/mnt; } > "$0.new"; '
                   'cat /proc/self/status >> "$0.new"; mv "$0.new" "$0"')  # fmt: skip
    box = one.boxes[0]
    box.start(plan_for(box, "true"), flags=m.REMOVE)
    one.group.close()
    wait_until(one.lines)
    text = one.said.read_text()
    variables = {line.partition("=")[0] for line in one.lines() if "=" in line}
    assert variables <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert text.count("\n0\n1\n2\n3\nmnt:") == 1  # 3: the listing itself
    assert os.readlink("/proc/self/ns/mnt") in text
    assert "SigBlk:\t0000000000000000" in text


def test_settling_that_was_killed_is_done_again(settling: Callable[[str], Settling]) -> None:
    one = settling('echo $$ >> "$0"; [ -e "$0.killed" ] || { : > "$0.killed"; kill -9 $$; }')
    box = one.boxes[0]
    box.start(plan_for(box, "true"), flags=m.SETTLE)
    one.group.close()
    wait_until(lambda: len(one.lines()) == 2)
    one.group.wait_end()


def test_settling_is_not_done_for_one_that_starts_again(
    settling: Callable[[str], Settling],
) -> None:
    one = settling('echo done >> "$0"')
    box = one.boxes[0]
    begin(box, "[ -e /tmp/n ] && exit 0; echo > /tmp/n; exit 1", m.ON_FAILURE, flags=m.SETTLE)
    box.tell_policy(m.ON_FAILURE, flags=m.RESTARTS | m.SETTLE, plan=b"")
    assert box.wait().run == 2
    one.group.close()
    wait_until(one.lines)
    one.group.wait_end()
    assert one.lines() == ["done"]


def test_settling_is_dropped_once_the_pod_is_stopped(settling: Callable[[str], Settling]) -> None:
    one = settling('echo done >> "$0"')
    box = one.boxes[0]
    box.start(plan_for(box, "exec sleep 1000"), flags=m.SETTLE)
    box.ask(m.STOP, arg=signal.SIGKILL)
    assert one.client.ask(Message(m.RELEASE_NS)).kind == m.OK
    one.group.close()
    one.group.wait_end()
    assert one.lines() == []
