"""podrt's command line as the guest's tests use it, and how they read cgroup files."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PARENT = "/podrt_test_vm"
IMAGE = "localhost/busybox:latest"
# Software emulation is slow; what has not happened by then never will.
PATIENCE_S = 60.0


class Cli:
    """`podrt` with its own root and runroot."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = ["--root", str(folder / "root"), "--runroot", str(folder / "runroot")]
        self.program = [sys.executable, "-m", "podrt", *store]

    def __call__(self, *words: str, code: int | None = 0, stdin: str = "") -> str:
        """Run a command that must end with `code` (None: any); its standard output, stripped."""
        result = subprocess.run(
            [*self.program, *words], input=stdin, capture_output=True, text=True, check=False
        )
        if code is not None:
            said = f"{result.stdout}\n{result.stderr}"
            assert result.returncode == code, f"podrt {' '.join(words)}: {result.returncode} {said}"
        return result.stdout.strip()

    def run_limited(self, pod: str, *flags: str, program: str) -> Path:
        """Run a shell program in a new container of the pod; the container's cgroup."""
        identity = self("run", "--detach", "--pod", pod, *flags, IMAGE, "/bin/sh", "-c", program)
        return CGROUP / PARENT[1:] / pod / identity


def read_counts(path: Path) -> dict[str, int]:
    """A cgroup file of "name number" lines."""
    return {name: int(number) for name, number in map(str.split, path.read_text().splitlines())}


def wait_until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)
