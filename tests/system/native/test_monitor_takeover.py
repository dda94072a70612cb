"""What a monitor may believe of the processes and links that a dead one left, and what it does
with processes that nobody expected."""

from __future__ import annotations

import os
import secrets
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Client, Group, Message, plan_of

FREEZER = Path("/sys/fs/cgroup/freezer")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + m.PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def replace_monitor(group: Group, box: Box) -> None:
    os.kill(group.pid, signal.SIGKILL)
    group.close()
    group.wait_end()
    group.spawn()
    box.client = group.connect()


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_adopting_a_program_with_an_inner_pipe_takes_nothing_from_it(
    box: Box, group: Group
) -> None:
    script = (
        "sleep 1000 | cat > /tmp/out & reader=$!;"
        'while [ "$(readlink /proc/$reader/fd/0)" = /dev/null ]; do sleep 0.01; done;'
        "exec > /proc/$reader/fd/0;"
        "n=0; while :; do n=$((n+1)); echo $n; sleep 0.002; done"
    )
    begun = box.start(plan_of(box.ops(["sh", "-c", script])))
    out = box.folder / "upper/tmp/out"
    wait_until(lambda: len(lines_of(out)) > 3)
    replace_monitor(group, box)
    assert box.ask(m.ADOPT, a=begun.a, b=begun.b, body=bytes(box.log)).kind == m.STARTED
    before = len(lines_of(out))
    wait_until(lambda: len(lines_of(out)) > before + 50)
    numbers = out.read_text().split()[:before]
    assert numbers == [str(n) for n in range(1, before + 1)]
    assert box.lines() == []


def test_member_that_left_the_namespaces_of_its_pod_does_not_give_its_own(
    box: Box, group: Group, client: Client
) -> None:
    setup = Message(m.SETUP, arg=m.NEWNET | m.NEWUTS, id=group.id, body=b"shop")
    former = struct.unpack("=3Q", client.ask(setup).body)
    joins = [m.op(m.SETNS, m.u32(kind), m.text("")) for kind in (m.NEWNET, m.NEWUTS)]
    script = ["busybox", "unshare", "-n", "sh", "-c", "echo up; sleep 1000"]
    begun = box.start(plan_of(box.ops(script, early=joins), m.NEWNS | m.NEWPID | m.NEWIPC))
    wait_until(lambda: box.output() == "up")
    own = os.stat(f"/proc/{begun.a}/ns/net").st_ino
    assert own != former[0]
    replace_monitor(group, box)
    assert box.ask(m.ADOPT, a=begun.a, b=begun.b, body=bytes(box.log)).kind == m.STARTED
    net, _ipc, _uts = struct.unpack("=3Q", box.client.ask(setup).body)
    assert net not in (0, own, os.stat("/proc/self/ns/net").st_ino)


def test_links_to_namespaces_go_with_their_monitor(
    box: Box, group: Group, client: Client
) -> None:  # fmt: skip
    setup = Message(m.SETUP, arg=m.NEWNET | m.NEWUTS, id=group.id, body=b"shop")
    assert client.ask(setup).kind == m.OK
    link = group.run_dir / "ns/net"
    assert os.readlink(link).startswith(f"/proc/{group.pid}/")
    replace_monitor(group, box)
    assert not os.path.lexists(link)
    assert box.client.ask(setup).kind == m.OK
    assert os.readlink(link).startswith(f"/proc/{group.pid}/")
    assert box.client.ask(Message(m.RELEASE_NS, id=group.id)).kind == m.OK
    assert os.listdir(link.parent) == []


@pytest.mark.skipif(not FREEZER.is_dir(), reason="needs the v1 freezer")
def test_stop_of_a_frozen_container_waits_without_spinning(box: Box, group: Group) -> None:
    cgroup = FREEZER / f"podrt_test_{secrets.token_hex(6)}"
    cgroup.mkdir()
    try:
        box.start(plan_of(box.ops(["sleep", "1000"])), join=[str(cgroup)])
        (cgroup / "freezer.state").write_text("FROZEN")
        wait_until(lambda: (cgroup / "freezer.state").read_text() == "FROZEN\n")
        req = box.client.send(Message(m.STOP, run=1, arg=signal.SIGTERM, a=30, id=box.id))
        time.sleep(0.05)
        before = cpu_ticks(group.pid)
        time.sleep(0.3)
        assert cpu_ticks(group.pid) - before <= 2
        (cgroup / "freezer.state").write_text("THAWED")
        end = box.client.receive(req)
        # Both signals are pending by then; the kernel delivers either first.
        assert (end.kind, end.b) == (m.EXITED, 1)
        assert end.arg in (137, 143)
    finally:
        (cgroup / "freezer.state").write_text("THAWED")
        box.ask(m.STOP, arg=signal.SIGKILL)
        cgroup.rmdir()


def test_orphans_are_reaped(box: Box, group: Group) -> None:
    flags = m.NEWNS | m.NEWIPC | m.NEWUTS
    script = "sleep 0.1 & echo $!"
    box.start(plan_of(box.ops(["sh", "-c", script]), flags))
    assert box.wait().arg == 0
    pid = int(box.output())
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert cpu_ticks(group.pid) < 50
