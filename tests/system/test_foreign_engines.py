"""An OCI runtime given by its path, cut off between its `create` and its `start`, or failing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles.commands import Podrt, command_environment, monitors_of
from doubles.places import is_gone

REAL = shutil.which("runc") or shutil.which("crun")
PATIENCE_S = 20.0


def wait_for(look: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class Gated:
    """A runtime that stands still before `start` while its gate is closed."""

    def __init__(self, podrt: Podrt, folder: Path) -> None:
        self.podrt = podrt
        self.gate = folder / "gate"
        self.reached = folder / "reached"
        self.program = folder / "gated"
        self.program.write_text(
            f"#!/bin/sh\ncase \" $* \" in *' start '*)\n"
            f"  if [ -e {self.gate} ]; then : > {self.reached}; fi\n"
            f"  while [ -e {self.gate} ]; do sleep 0.02; done;;\nesac\n"
            f'exec {REAL} "$@"\n'
        )
        self.program.chmod(0o755)
        self.gate.touch()
        parent = ("--cgroup-parent", podrt.cgroup_parent)
        self.id = podrt(
            "--runtime", str(self.program), "create", "--name", "c", *parent, "base", "sleep", "99"
        ).strip()

    def start_until_gate(self) -> tuple[subprocess.Popen[bytes], int]:
        """A start that stands before the gate, and the process the runtime has made."""
        starting = subprocess.Popen(
            self.podrt.words("start", "c"),
            env=command_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.reached.exists)
        pid = int((self.podrt.root / "containers" / self.id / "engine.pid").read_text())
        assert not is_gone(pid)
        return starting, pid

    def pid(self) -> int:
        return int(self.podrt("inspect", "--format", "{{.State.Pid}}", "c"))


@pytest.fixture
def gated(podrt: Podrt, tmp_path: Path) -> Iterator[Gated]:
    if REAL is None:
        pytest.skip("needs runc or crun")
    found = Gated(podrt, tmp_path)
    yield found
    found.gate.unlink(missing_ok=True)


def test_monitor_killed_between_create_and_start_leaves_what_the_next_start_deletes(
    gated: Gated,
) -> None:
    starting, made = gated.start_until_gate()
    for monitor in monitors_of(str(gated.podrt.runroot)):
        os.kill(monitor, signal.SIGKILL)
    assert starting.wait() != 0
    assert gated.podrt("inspect", "--format", "{{.State.Status}}", "c").strip() != "running"
    gated.gate.unlink()
    gated.podrt("start", "c")
    assert is_gone(made)
    assert gated.pid() != made
    assert Path(f"/proc/{gated.pid()}/comm").read_text().strip() == "sleep"


def test_monitor_killed_between_create_and_start_leaves_what_rm_deletes(gated: Gated) -> None:
    starting, made = gated.start_until_gate()
    for monitor in monitors_of(str(gated.podrt.runroot)):
        os.kill(monitor, signal.SIGKILL)
    starting.wait()
    gated.podrt("rm", "--force", "c")
    assert is_gone(made)
    assert not (gated.podrt.runroot / "engines" / "gated" / gated.id).exists()


def test_command_killed_between_create_and_start_does_not_stop_the_start(gated: Gated) -> None:
    starting, made = gated.start_until_gate()
    starting.kill()
    starting.wait()
    gated.gate.unlink()
    wait_for(lambda: Path(f"/proc/{made}/comm").read_text().strip() == "sleep")
    gated.podrt("start", "c")
    assert gated.pid() == made


def test_runtime_that_fails_is_quoted_in_one_line(podrt: Podrt, tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text(
        '#!/bin/sh\nwhile [ "$1" != --log ]; do shift; done\n'
        'printf "%s\\n" \'{"level":"warning","msg":"hm"}\' >> "$2"\n'
        'printf "%s\\n" \'{"level":"error","msg":"no room\\nfor it"}\' >> "$2"\nexit 1\n'
    )
    program.chmod(0o755)
    parent = ("--cgroup-parent", podrt.cgroup_parent)
    podrt("--engine", str(program), "create", "--name", "c", *parent, "base", "true")
    said = podrt.fails(125, "start", "c")
    assert said == "cannot start container c: broken: no room for it"
    program.write_text("#!/bin/sh\nexit 3\n")
    said = podrt.fails(125, "start", "c")
    assert "run OCI runtime" in said
    assert f"{program} ended with code 3" in said
