from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from podrt._fast import calls
from podrt.linux import process


def test_identify_finds_this_process_alive() -> None:
    me = process.myself()
    assert me == process.identify(os.getpid())
    assert me.is_alive
    field = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    assert me.start_ticks == int(field)


def test_identify_of_a_free_number_finds_nobody() -> None:
    assert process.identify(2**22 + 1) is None
    assert calls.start_ticks(2**22 + 1) == 0
    assert not process.alive(2**22 + 1, 0)


def test_alive_with_another_start_time_is_false() -> None:
    assert not process.alive(os.getpid(), process.myself().start_ticks + 1)


@pytest.mark.parametrize("pid", [0, -1])
def test_alive_of_no_process_is_false(pid: int) -> None:
    assert not process.alive(pid, 1)


def test_alive_of_a_zombie_is_false() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "exit 0"])
    who = process.identify(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert calls.process_stat(child.pid)[0] == "Z"
    assert who is not None
    assert not who.is_alive
    child.wait()
    assert process.identify(child.pid) is None


@pytest.mark.parametrize("name", ["a b", ") R 1 2", "((", "S) 9 9 9"])
def test_start_ticks_of_an_odd_name_are_right(name: str, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    program = tmp_path / name
    program.symlink_to(sleep)
    before = process.myself().start_ticks
    # A multi-call binary would look at its name: sleep is told by argv[0] what it is.
    child = subprocess.Popen(["sleep", "60"], executable=program)
    try:
        # exec closes the pipe Popen waits for a moment before it sets the name.
        while Path(f"/proc/{child.pid}/comm").read_text().strip() != name:
            assert child.poll() is None
        state, ticks = calls.process_stat(child.pid)
        assert state in ("S", "R", "D")
        assert ticks >= before
    finally:
        child.kill()
        child.wait()
