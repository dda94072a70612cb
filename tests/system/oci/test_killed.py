"""A command that is killed half-way leaves nothing that `delete --force` does not remove."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from doubles.commands import command_environment
from doubles.oci_runtime import Bundle, OciRuntime, wait_for

SECRET = "podrt-oci-killed"


def processes_with(word: str) -> list[int]:
    """The processes that have `word` among their arguments or environment, but the test's own."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if word.encode() in text:
            found.append(int(entry.name))
    return found


def test_create_and_start_killed_at_random_moments_leave_nothing(
    oci: OciRuntime, bundle: Bundle, rounds: Callable[[int, int], int]
) -> None:
    word = f"{SECRET}-{os.getpid()}"
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    bundle.process["env"] = ["PATH=/bin", f"WORD={word}"]
    path = bundle.args("sleep", "1000").written()
    chance = random.Random(5)
    for _ in range(rounds(6, 200)):
        for words in (["create", "-b", path, "one"], ["start", "one"]):
            with subprocess.Popen(
                [*oci.command, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=command_environment(),
            ) as process:  # fmt: skip
                try:
                    process.wait(chance.uniform(0.05, 0.4))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
        oci("delete", "--force", "one")
        assert not list(Path("/sys/fs/cgroup").glob(f"*{bundle.cgroup}"))
        wait_for(lambda: not processes_with(word), "the end of all processes")
        assert set(os.listdir(oci.root) if oci.root.exists() else []) <= {"@seccomp"}
