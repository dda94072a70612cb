"""What a power cut and a boot do to a host, done to one test's place only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from doubles.commands import monitors_of
from podrt.linux import features

CGROUPS = Path("/sys/fs/cgroup")


def end_everything(runroot: Path, cgroup_parent: str, pids: list[int]) -> None:
    """Kill the monitors, then their processes; empty what a boot finds empty."""
    for pid in [*monitors_of(str(runroot)), *pids]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    trees = [f"{base}{cgroup_parent}" for base in (CGROUPS, *CGROUPS.iterdir())]
    folders = [Path(found) for tree in trees for found, _, _ in os.walk(tree)]
    for folder in folders:
        _thaw(folder)
    for folder in reversed(folders):
        _remove_cgroup(folder)
    shutil.rmtree(runroot)


def _thaw(folder: Path) -> None:
    for knob, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (folder / knob).exists():
            (folder / knob).write_text(word)


def _remove_cgroup(folder: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # a process is still ending in it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def next_boot(patch: pytest.MonkeyPatch) -> str:
    """From here on this process takes the kernel's boot for another one; its ID."""
    boot = os.urandom(16).hex()
    patch.setattr(features, "boot_id", lambda: boot)
    return boot
