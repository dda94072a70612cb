"""podrt's command line as the guest's tests use it, and how they read cgroup files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from doubles.command_server import CommandServer

CGROUP = Path("/sys/fs/cgroup")
PARENT = "/podrt_test_vm"
IMAGE = "localhost/busybox:latest"
# Software emulation is slow; what has not happened by then never will.
PATIENCE_S = 60.0


class Cli:
    """`podrt` on one root: under emulation an interpreter takes ten seconds to load it, so one
    process does that and forks for each command."""

    def __init__(self, server: CommandServer) -> None:
        self._server = server

    def __call__(self, *words: str, code: int | None = 0) -> str:
        """Run a command that must end with `code` (None: any); its standard output, stripped."""
        done = self._server.run(*words)
        if code is not None:
            assert done.code == code, f"podrt {' '.join(words)}: {done.code} {done.out}\n{done.err}"
        return done.out.strip()

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
