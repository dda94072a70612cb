"""Many processes work on the same fifty pods and are killed at random; then all has to fit.

What was acknowledged holds, no verb hangs or answers what it may not, looking never fails. After
one `system check --repair` the state is the kernel's: every process, cgroup, directory and lock
belongs to an object that is there, and removing the objects leaves nothing.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from doubles.agreement import cgroups_below, check_kernel, check_listings
from doubles.commands import SOURCES, Podrt, command_environment
from doubles.storm_ledger import Story, read_deeds, read_kills
from doubles.storm_worker import BOUND_S, Config
from podrt.config import Settings
from podrt.runtime.view import open_view
from podrt.store.records import ContainerRecord, PodRecord


def rage(config: Config) -> None:
    """Let a storm rage to its end; its worker processes must all have ended well."""
    words = [sys.executable, "-m", "doubles.storm", msgspec.json.encode(config).decode()]
    tests = str(Path(__file__).parents[1])
    environment = command_environment()
    environment |= {"PYTHONPATH": f"{SOURCES}:{tests}", "PODRT_DEBUG_LOCKS": "1"}
    storm = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = storm.communicate(timeout=config.seconds + 3 * BOUND_S)
    finally:
        storm.kill()
        storm.wait()
    stacks = [path.read_text() for path in Path(config.folder).glob("*.stacks")]
    assert storm.returncode == 0, "\n".join([said, *stacks])
    assert not any(stacks), "\n".join(stacks)


def wait_commands_ended(root: Path) -> None:
    """Commands whose caller was killed work on for a moment."""
    deadline = time.monotonic() + BOUND_S
    while left := commands_on(root):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def commands_on(root: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0] == b"podrt-monitor":
                continue  # its words hold the command that settles
            if b"podrt" in words and str(root).encode() in words:
                found.append(b" ".join(words).decode())
    return found


def check_ledger(story: Story, settings: Settings) -> None:
    """Answers are allowed ones, and what is there is what was acknowledged."""
    assert story.kills and any(deed.is_done for deed in story.deeds), "no storm at all"
    problems = [*story.problems()]
    with open_view(settings) as view:
        records: list[PodRecord | ContainerRecord] = [*view.pods(), *view.containers()]
    found = {record.id: record.config.name for record in records}
    problems += [*story.contradictions(found), *story.strangers(found)]
    assert not problems, "\n".join(problems)


def test_storm_of_killed_workers_leaves_the_state_of_the_kernel(
    podrt: Podrt, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    seed = int(os.environ.get("PODRT_STORM_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"PODRT_STORM_SEED={seed}")
    folder = tmp_path / "ledgers"
    folder.mkdir()
    rage(
        Config(
            root=str(podrt.root),
            runroot=str(podrt.runroot),
            cgroup_parent=podrt.cgroup_parent,
            folder=str(folder),
            seed=seed,
            workers=rounds(6, 32),
            tasks=2,
            seconds=rounds(4, 60),
            worker_kills_s=rounds(3, 5),
            monitor_kills_s=rounds(1, 2),
        )
    )
    wait_commands_ended(podrt.root)
    story = Story(read_deeds(folder), read_kills(folder / "kills"))
    print(story.summary())
    print(podrt("system", "check", "--repair"))
    assert podrt("system", "check") == ""
    settings = Settings(root=str(podrt.root), runroot=str(podrt.runroot))
    check_kernel(settings, podrt.cgroup_parent)
    check_ledger(story, settings)
    with open_view(settings) as view:
        assert list(check_listings(view, podrt)) == []
    podrt("pod", "rm", "--all", "--force", "--time", "0")
    podrt("rm", "--all", "--force", "--time", "0")
    check_kernel(settings, podrt.cgroup_parent)
    assert podrt.is_clean()
    assert [folder for _, folder in cgroups_below(podrt.cgroup_parent)] == []
