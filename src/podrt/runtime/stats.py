"""What containers and pods use, from the files of their cgroups.

Synchronous and free of Trio; it takes no lock. All cgroups of a look are read in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from podrt.cgroups.base import CgroupManager, Stats
from podrt.linux import proc
from podrt.model.states import ALIVE
from podrt.store.records import ContainerRecord, PodRecord

from .namespaces import shared_types
from .view import View


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one container (or a pod, `container_id` "") uses at `at_ns`.

    `figures` is None for one that has no process; `network` is (received, sent) bytes, None
    where there is no interface but loopback. Units: `_ns` nanoseconds since 1970.
    """

    pod_id: str
    container_id: str
    name: str
    figures: Stats | None
    network: tuple[int, int] | None
    started_at_ns: int
    at_ns: int

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return self.container_id or self.pod_id

    @property
    def cpu_percent_of_life(self) -> float:
        """The share of one CPU it used since it started."""
        elapsed_ns = self.at_ns - self.started_at_ns
        if self.figures is None or elapsed_ns <= 0:
            return 0.0
        return 100 * self.figures.cpu_ns / elapsed_ns

    def cpu_percent_since(self, former: Usage | None) -> float:
        """The share of one CPU it used since a former look (since it started if there is none)."""
        if former is None or former.figures is None or self.figures is None:
            return self.cpu_percent_of_life
        elapsed_ns = self.at_ns - former.at_ns
        used_ns = self.figures.cpu_ns - former.figures.cpu_ns
        # A restart in between begins a new count.
        if elapsed_ns <= 0 or used_ns < 0:
            return self.cpu_percent_of_life
        return 100 * used_ns / elapsed_ns


def container_usage(
    view: View, cgroups: CgroupManager, records: Sequence[ContainerRecord]
) -> list[Usage]:
    """What each container uses now."""
    alive = {record.id: record for record in records if _has_figures(view, record)}
    at_ns = time.time_ns()
    found = cgroups.stats_many([record.cgroup_path for record in alive.values()])
    figures = dict(zip(alive, found, strict=True))
    return [
        Usage(
            pod_id=record.pod_id,
            container_id=record.id,
            name=record.config.name,
            figures=figures.get(record.id),
            network=proc.network_bytes(view.facts(record).pid) if record.id in alive else None,
            started_at_ns=view.facts(record).started_at_ns,
            at_ns=at_ns,
        )
        for record in records
    ]


def _has_figures(view: View, record: ContainerRecord) -> bool:
    return view.state(record) in ALIVE and record.config.has_program and bool(record.cgroup_path)


def pod_usage(
    view: View, cgroups: CgroupManager, pod: PodRecord, members: Sequence[Usage]
) -> Usage:
    """What a pod uses as a whole: its cgroup's figures, else the sum of its `members`."""
    alive = [member for member in members if member.figures is not None]
    figures = None
    if alive and pod.cgroup_path:
        figures = cgroups.stats_many([pod.cgroup_path])[0]
    elif alive:
        figures = _sum([member.figures for member in alive if member.figures is not None])
    networks = [member.network for member in alive if member.network is not None]
    if "net" in shared_types(pod.config):
        # It is the same one that every member sees.
        networks = networks[:1]
    return Usage(
        pod_id=pod.id,
        container_id="",
        name=pod.config.name,
        figures=figures,
        network=(sum(one[0] for one in networks), sum(one[1] for one in networks))
        if networks
        else None,
        started_at_ns=min((member.started_at_ns for member in alive), default=0),
        at_ns=members[0].at_ns if members else time.time_ns(),
    )


_SUMMED = (
    "cpu_ns", "cpu_user_ns", "cpu_system_ns", "memory_bytes", "memory_limit_bytes", "pids",
    "pids_limit", "read_bytes", "written_bytes",
)  # fmt: skip
_LIMITS = frozenset({"memory_limit_bytes", "pids_limit"})


def _sum(parts: Sequence[Stats]) -> Stats:
    """All together; a limit only if each has one."""
    found: dict[str, int | None] = {}
    for name in _SUMMED:
        values = [getattr(part, name) for part in parts]
        known = [value for value in values if value is not None]
        is_whole = len(known) == len(values) or name not in _LIMITS
        found[name] = sum(known) if known and is_whole else None
    return msgspec.structs.replace(Stats(), **found)
