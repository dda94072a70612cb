from __future__ import annotations

import os
import signal
import subprocess
import sys

from podrt.linux import proc

STAT = (
    "42 (a) b (c) S 7 40 40 34817 42 4194560 9 0 0 0 150 25 0 0 20 5 1 0 1234 2359296 300 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
STATUS = {
    "NSpid": "42\t6\t1",
    "Uid": "1\t2\t3\t4",
    "Gid": "5\t6\t7\t8",
    "Groups": "9 10 ",
    "VmRSS": "1200 kB",
    "CapEff": "00000000a80425fb",
    "Seccomp": "2",
}


def test_parse_takes_a_name_with_blanks_and_parentheses() -> None:
    found = proc.parse_process(42, STAT, STATUS, "sh\0-c\0a b\0")
    assert (found.command, found.state, found.ppid, found.pgid) == ("a) b (c", "S", 7, 40)
    assert found.arguments == ("sh", "-c", "a b")
    assert (found.user_ticks, found.system_ticks, found.start_ticks) == (150, 25, 1234)
    assert (found.nice, found.tty, found.virtual_bytes) == (5, 34817, 2359296)
    assert found.resident_bytes == 1200 << 10
    assert found.ns_pids == (42, 6, 1)
    assert (found.uids, found.gids, found.groups) == ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10))
    assert (found.cap_effective, found.cap_bounding, found.seccomp) == (0xA80425FB, 0, 2)


def test_read_of_this_process_agrees_with_the_system_calls() -> None:
    found = proc.read_process(os.getpid())
    assert found is not None
    assert (found.pid, found.ppid, found.pgid) == (os.getpid(), os.getppid(), os.getpgid(0))
    assert (found.uids[:3], found.gids[:3]) == (os.getresuid(), os.getresgid())
    assert set(found.groups) == set(os.getgroups())
    assert found.ns_pids[-1] == os.getpid()
    assert found.resident_bytes > 1 << 20 and found.nice == os.nice(0)


def test_read_of_a_process_that_is_gone_finds_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert proc.read_process(child.pid) is None
    assert proc.descendants(child.pid) == (child.pid,)
    assert proc.network_bytes(child.pid) is None
    assert not proc.is_killed(child.pid)


def test_descendants_are_all_children_however_deep() -> None:
    script = "import os,time\nfor _ in range(3):\n  os.fork() and time.sleep(1000)\nprint()\n"
    script += "time.sleep(1000)"
    words = [sys.executable, "-u", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        family = proc.descendants(child.pid)
        os.killpg(child.pid, signal.SIGKILL)
    assert len(family) == 4 and family[0] == child.pid


def test_figures_of_this_host_make_sense() -> None:
    assert not proc.is_killed(os.getpid())
    own = proc.read_process(os.getpid())
    assert own is not None and own.start_ticks / proc.TICKS_PER_S <= proc.uptime_s()
    assert own.resident_bytes < proc.memory_bytes()
