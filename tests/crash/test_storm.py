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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from doubles.commands import SOURCES, Podrt, command_environment
from doubles.storm import monitors
from doubles.storm_ledger import Story, read_deeds, read_kills
from doubles.storm_worker import BOUND_S, Config
from podrt.config import Settings
from podrt.linux.process import alive
from podrt.locks.locks import Locks
from podrt.model.states import ALIVE
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, GroupRecord, IntentRecord, PodRecord

CGROUP_ROOT = Path("/sys/fs/cgroup")
SETTLING_S = 20.0


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


# --- the kernel ---------------------------------------------------------------------------------


def cgroups_below(parent: str) -> Iterator[tuple[str, Path]]:
    """(path below the hierarchy, directory) of the cgroups in every hierarchy."""
    tops = {path.resolve() for path in CGROUP_ROOT.iterdir() if path.is_dir()} | {CGROUP_ROOT}
    for top in tops:
        below = top / parent.lstrip("/")
        for folder, _, _ in os.walk(below) if below.is_dir() else ():
            yield "/" + str(Path(folder).relative_to(top)), Path(folder)


def processes_in(folder: Path) -> set[int]:
    try:
        return {int(word) for word in (folder / "cgroup.procs").read_text().split()}
    except (FileNotFoundError, OSError):
        return set()


def known_cgroups(view: View, parent: str) -> dict[str, str]:
    """Path -> the object whose cgroup it is."""
    paths = {parent: "parent", f"{parent}/monitors": "parent"}
    for pod in view.pods():
        paths[pod.cgroup_path] = f"pod {pod.config.name}"
        paths[f"{parent}/monitors/{pod.id}"] = f"monitor of pod {pod.config.name}"
    for record in view.containers():
        paths[record.cgroup_path] = f"container {record.config.name}"
        if not record.pod_id:
            paths[f"{parent}/monitors/{record.id}"] = f"monitor of {record.config.name}"
    return paths


def check_processes(view: View, parent: str) -> Iterator[str]:
    """Running containers have their process where it belongs, and nothing else lives there."""
    paths = known_cgroups(view, parent)
    owners = {record.cgroup_path: record for record in view.containers()}
    monitor_pids = set(monitors(set(os.listdir(view.layout.run_dir))))
    found: dict[str, set[int]] = {}
    for path, folder in cgroups_below(parent):
        if path not in paths:
            yield f"cgroup {folder} belongs to nothing"
        found.setdefault(path, set()).update(processes_in(folder))
    for path, pids in found.items():
        record = owners.get(path)
        if record is None:
            strangers = pids - monitor_pids
            if strangers:
                yield f"{path} ({paths.get(path)}): processes {strangers}"
        elif pids and view.state(record) not in ALIVE:
            yield f"{record.config.name} is {view.state(record)} and has processes {pids}"
    for record in view.containers():
        if view.state(record) in ALIVE and not record.config.is_infra:
            facts = view.facts(record)
            if not alive(facts.pid, facts.start_ticks):
                yield f"{record.config.name} is {view.state(record)} without process {facts.pid}"
            elif facts.pid not in found.get(record.cgroup_path, ()):
                yield f"{record.config.name} runs as {facts.pid} outside its cgroup"


def check_listings(view: View, podrt: Podrt) -> Iterator[str]:
    """What the commands print is what the library says."""
    rows = {row["Id"]: row for row in podrt.listed("ps", "-a")}
    records = {record.id: record for record in view.containers()}
    if rows.keys() != records.keys():
        yield f"ps lists {rows.keys() ^ records.keys()}"
    for key, row in rows.items():
        is_alive = view.state(records[key]) in ALIVE
        if is_alive != (row["State"] in ("running", "stopping", "paused")):
            yield f"{row['Names']} is {row['State']}, not {view.state(records[key])}"
        if is_alive and not row["IsInfra"] and row["Pid"] != view.facts(records[key]).pid:
            yield f"{row['Names']} is not process {row['Pid']}"
    states = {row["Id"]: row["Status"] for row in podrt.listed("pod", "ps")}
    if states != {pod.id: str(view.pod_state(pod)) for pod in view.pods()}:
        yield f"pod ps: {states}"


def check_places(view: View) -> Iterator[str]:
    """Directories, journals and records of groups belong to objects that are there."""
    tables = view.store.tables
    known = {record.id for kind in (PodRecord, ContainerRecord) for record in tables.all(kind)}
    layout = view.layout
    for place in (layout.containers_dir, layout.pods_dir, layout.journal_dir, layout.run_dir):
        for name in os.listdir(place):
            if name.partition(".")[0] not in known:
                yield f"{place}/{name} belongs to nothing"
    for kind in (IntentRecord, GroupRecord):
        for key in tables.ids(kind):
            if kind is IntentRecord or key not in known:
                yield f"{kind.__name__} {key} is left"


def check_locks(view: View) -> Iterator[str]:
    """One lock for each object, and nobody holds or claims one."""
    records: list[Any] = [*view.pods(), *view.containers()]
    locks = Locks.open(view.layout.locks)
    try:
        owners = sorted(locks.owners())
        entries = list(locks.table.entries())
        half_done = locks.repair()
    finally:
        locks.close()
    if owners != sorted((record.lock, record.id) for record in records):
        yield f"locks {sorted(set(owners) ^ {(one.lock, one.id) for one in records})}"
    for entry in entries:
        holders = [one for one in (entry.holder, entry.claim and entry.claim.holder) if one]
        if any(holder.alive for holder in holders):
            yield f"held: {entry}"
        if entry.is_torn:
            yield f"half done: {entry}"
    if half_done:
        yield f"{half_done} locks had not come back"


def check_kernel(settings: Settings, parent: str) -> None:
    """State and kernel say the same; what ends by itself has time to end."""
    deadline = time.monotonic() + SETTLING_S
    while True:
        with open_view(settings) as view:
            found = [
                *check_processes(view, parent),
                *check_places(view),
                *check_locks(view),
            ]
        if not found:
            return
        assert time.monotonic() < deadline, "\n".join(found)
        time.sleep(0.1)


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
