"""State and kernel side by side: every process, cgroup, directory and lock has its object."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from doubles.commands import Podrt
from doubles.storm import monitors
from podrt.config import Settings
from podrt.linux.process import alive
from podrt.locks.locks import Locks
from podrt.model.states import ALIVE
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, GroupRecord, IntentRecord, PodRecord

CGROUP_ROOT = Path("/sys/fs/cgroup")
SETTLING_S = 20.0


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
