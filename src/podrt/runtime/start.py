"""Starting pods and containers: every graph of a call walks at the same time.

Source: semantics.md section 4. A container starts the moment its own last dependency runs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Mapping, Sequence, Set

import msgspec
import trio

from podrt.engines import wire
from podrt.engines.monitor import Monitor
from podrt.engines.stages import describe
from podrt.errors import (
    DependencyFailed,
    EngineFailed,
    InvalidState,
    NothingToStart,
    PodrtError,
    Removed,
    WalkFailed,
)
from podrt.linux import files
from podrt.model.container import InitKind
from podrt.model.event import Action
from podrt.model.states import LIVE_PHASES, ContainerState, Phase
from podrt.model.verbs import Verb
from podrt.store.records import ContainerRecord, PodRecord

from .claims import claim, lock_of
from .context import Context, finishing
from .events import tells
from .foreign import after_failed_start, prepare_start
from .frozen import note_infra_awake, share_out, thaw_member
from .graph import Graph, check_graph
from .group import fold, open_group, set_up_namespaces
from .order import member_graph
from .policies import start_flags, tell_policy
from .prepare import device_rules, limits_of, open_plan
from .teardown import remove_container
from .timeline import Timeline
from .walk import Outcomes, walk

_logger = logging.getLogger("podrt")

_OTHER_START_S = 10.0
_OTHER_START_POLL_S = 0.005
_BLOCKED = {
    ContainerState.PAUSED: "is paused",
    ContainerState.STOPPING: "is being stopped",
    ContainerState.REMOVING: "is being removed",
    ContainerState.UNKNOWN: "is in an unknown state",
}


@tells(PodRecord, Action.START)
async def start_pod(ctx: Context, pod_id: str, *, timeline: Timeline | None = None) -> Outcomes:
    """Start a pod's containers; the outcome of each. Raises: what comes before any is touched."""
    ctx.check_open()
    async with claim(ctx, pod_id, Verb.START):
        pod, members = load_pod(ctx, pod_id, "start")
        graph = member_graph(members)
        names = {member.id: member.config.name for member in members}
        check_graph(graph, names, pod.config.name)
        parent = pod.config.cgroup_parent
        async with open_group(ctx, pod.id, parent) as monitor:
            if timeline is not None:
                timeline.expect(pod.config.name, names, graph)
            starter = Starter(ctx, monitor, pod, names, timeline=timeline)
            return await starter.run(graph)


def load_pod(ctx: Context, pod_id: str, verb: str) -> tuple[PodRecord, list[ContainerRecord]]:
    """The pod and its members, for a verb that starts them.

    Raises: Removed, InvalidState, NothingToStart.
    """
    pod = ctx.load_pod(pod_id)
    if pod.removing:
        raise InvalidState(verb, f"pod {pod.config.name}", "it is being removed")
    members = ctx.view.members(pod_id)
    if not members:
        raise NothingToStart(pod.config.name)
    return pod, members


class Starter:
    """One group's start, under its claim and with its monitor."""

    def __init__(
        self,
        ctx: Context,
        monitor: Monitor,
        pod: PodRecord | None,
        names: Mapping[str, str],
        *,
        timeline: Timeline | None = None,
    ) -> None:
        self._ctx = ctx
        self._timeline = timeline
        self._monitor = monitor
        self._pod = pod
        self._names = names

    async def run(self, graph: Graph) -> Outcomes:
        """Infra first, then init containers one by one, then everything else at once."""
        self.wish(set(graph.needs))
        await self.make_pod_cgroup()
        inits = self._inits(graph)
        await self.run_inits(inits)
        rest = graph.restricted(graph.needs.keys() - set(inits))
        return await walk(
            rest, self.act, limiter=self._ctx.limiter, on_failed_need=self.failed_need
        )

    async def run_one(self, record: ContainerRecord) -> None:
        """Start one container; the namespaces of its pod come first. Raises: PodrtError."""
        infra_id = self._pod.infra_id if self._pod is not None else ""
        self.wish({record.id, infra_id})
        await self.make_pod_cgroup()
        if infra_id:
            await self.act(infra_id)
        await self.act(record.id)

    def wish(self, nodes: Set[str]) -> None:
        """One transaction: everything that does not run gets its next run number."""

        def change(member: ContainerRecord) -> ContainerRecord:
            if member.facts.phase in LIVE_PHASES:
                return member
            return msgspec.structs.replace(
                member, run=member.run + 1, wanted="running", user_stopped=False
            )

        changes = dict.fromkeys(nodes, change)
        self._ctx.record(lambda tables: fold(self._ctx, tables, self._monitor.group_id, changes))

    async def make_pod_cgroup(self) -> None:
        """Make the pod's cgroup with the pod's limits."""
        pod = self._pod
        if pod is None or not pod.cgroup_path:
            return
        try:
            self._ctx.cgroups.create(pod.cgroup_path, pod.config.resources)
        except InvalidState:
            # The members that are paused in it shall not keep the others from starting.
            await share_out(self._ctx, self._monitor, pod)
            self._ctx.cgroups.create(pod.cgroup_path, pod.config.resources)

    def _inits(self, graph: Graph) -> list[str]:
        tables = self._ctx.store.tables
        records = [tables.get(ContainerRecord, node) for node in graph.needs]
        return [
            record.id for record in records if record is not None and record.config.init is not None
        ]

    def _ran_once(self, record: ContainerRecord) -> bool:
        """A `once` container whose removal was cut short must not run again."""
        return record.config.init is InitKind.ONCE and record.removing

    async def run_inits(self, inits: Sequence[str]) -> None:
        """Run the init containers in creation order, each to completion.

        Raises: InvalidState naming the one that failed and its code.
        """
        # An init container that runs was left by a start that was cut short: it is waited for.
        if not inits or any(
            self._ctx.view.is_running(member)
            for member in self._ctx.view.members(self._monitor.group_id)
            if not member.config.is_infra and member.config.init is None
        ):
            return
        if self._pod is not None and self._pod.infra_id:
            await self.act(self._pod.infra_id)
        for node in inits:
            await self._run_init(node)

    async def _run_init(self, node: str) -> None:
        record = self._ctx.store.tables.get(ContainerRecord, node)
        if record is not None and self._ran_once(record):
            await remove_container(self._ctx, record, self._monitor)
            return
        await self.act(node)
        record = self._ctx.store.tables.get(ContainerRecord, node)
        if record is None:
            return
        ended = await self._monitor.wait(node, self._ctx.view.facts(record).run)
        if ended.code:
            pod = self._pod.config.name if self._pod is not None else ""
            raise InvalidState(
                "start",
                f"pod {pod}",
                f"init container {record.config.name} exited with code {ended.code}",
            )
        if record.config.init is InitKind.ONCE:
            await remove_container(self._ctx, record, self._monitor)

    def failed_need(self, node: str, failed: Sequence[str]) -> PodrtError:
        """The outcome of one that was not tried because `failed`, which it needs, failed."""
        error = DependencyFailed(
            self._names.get(node, node[:12]), [self._names.get(need, need[:12]) for need in failed]
        )
        if self._timeline is not None:
            self._timeline.not_tried(node, error)
        return error

    async def act(self, node: str) -> None:
        """Start one container if it does not run. Raises: PodrtError, which is its outcome."""
        if self._timeline is None:
            await self._act(node)
            return
        with self._timeline.acting(node):
            await self._act(node)

    async def _act(self, node: str) -> None:
        record = self._ctx.store.tables.get(ContainerRecord, node)
        if record is None:
            raise Removed("container", self._names.get(node, node[:12]))
        if record.config.is_infra:
            await self._start_infra(record)
            if not record.config.has_program:
                return
        async with self._ctx.locks.hold(lock_of(record)):
            while not await self._has_started(node):
                await trio.sleep(_OTHER_START_POLL_S)

    async def _has_started(self, node: str) -> bool:
        """Try once; False if its monitor was faster and what it did is over already."""
        self._ctx.view.refresh()
        record = self._ctx.store.tables.get(ContainerRecord, node)
        if record is None:
            raise Removed("container", self._names.get(node, node[:12]))
        state = self._ctx.view.state(record)
        if state is ContainerState.RUNNING:
            return True
        what = f"container {record.config.name}"
        if state in _BLOCKED:
            raise InvalidState("start", what, f"it {_BLOCKED[state]}")
        self.check_dependencies(record, what)
        if state is ContainerState.CREATED:
            await self._monitor.release(record.id, self._ctx.view.facts(record).run)
            return True
        return await self._start_process(self._with_unused_run(record))

    def _with_unused_run(self, record: ContainerRecord) -> ContainerRecord:
        """Nothing that is journaled of a run counts after its end, so a number is used once.

        Whoever still ran when everybody else got the next number may have ended since then.
        """
        facts = self._ctx.view.facts(record)
        if facts.run < record.run or facts.phase in LIVE_PHASES:
            return record
        self.wish({record.id})
        return self._ctx.store.tables.get(ContainerRecord, record.id) or record

    async def _start_infra(self, infra: ContainerRecord) -> None:
        """What an infra container does without a process: its monitor holds the namespaces."""
        if self._pod is None:
            return
        await set_up_namespaces(self._monitor, self._pod)
        if self._ctx.view.state(infra) is ContainerState.PAUSED:
            await thaw_member(self._ctx, self._monitor, infra)
        await note_infra_awake(self._ctx, self._monitor, self._pod)

    def check_dependencies(self, record: ContainerRecord, what: str) -> None:
        """They were started, but may have died before this container's turn came.

        Raises: InvalidState naming those that do not run.
        """
        down = []
        for edge in record.config.requires:
            need = self._ctx.store.tables.get(ContainerRecord, edge.on)
            if need is None or self._ctx.view.state(need) is not ContainerState.RUNNING:
                down.append(self._names.get(edge.on, edge.on[:12]))
        if down:
            raise InvalidState(
                "start", what, f"the following dependencies are not running: {', '.join(down)}"
            )

    async def _start_process(self, record: ContainerRecord) -> bool:
        if self._ctx.view.facts(record).phase is not Phase.STARTING:
            await prepare_start(self._ctx, record)
        cgroups = self._ctx.cgroups
        cgroups.create(record.cgroup_path, limits_of(record), device_rules(record.config))
        plan_fd = open_plan(self._ctx, record)
        try:
            await self._send_start(record, plan_fd)
            return True
        except EngineFailed as exc:
            if exc.errno in (errno.EEXIST, errno.ESTALE):
                return await self._started_by_another(record)
            exc = await after_failed_start(self._ctx, record, exc)
            # Nothing lives in it, and a container that never ran leaves no cgroup behind.
            with contextlib.suppress(OSError):
                cgroups.remove(record.cgroup_path)
            raise exc.of_container(record.config.name) from exc
        finally:
            os.close(plan_fd)

    async def _send_start(self, record: ContainerRecord, plan_fd: int) -> None:
        cgroups, timeline = self._ctx.cgroups, self._timeline
        flags = start_flags(self._ctx, record)
        if timeline is not None:
            flags |= wire.START_TIMES
            timeline.sent(record.id)
        # What was sent cannot be taken back: who ends us (a stop) must find its outcome.
        with finishing("start"):
            if flags & wire.START_RESTARTS:
                await tell_policy(self._ctx, self._monitor, record)
            started = await self._monitor.start(
                record.id,
                record.run,
                plan_fd=plan_fd,
                join=cgroups.join_dirs(record.cgroup_path),
                flags=flags,
            )
            _write_pid(record, started.pid)
        if timeline is not None:
            timeline.ran(record.id, describe(started.stages, plan_fd))

    async def _started_by_another(self, record: ContainerRecord) -> bool:
        """Whether the start of a killed command, or the monitor's own, becomes a process.

        Raises: EngineFailed(ETIMEDOUT) when nothing becomes of it.
        """
        with trio.move_on_after(_OTHER_START_S):
            while True:
                self._ctx.view.refresh()
                phase = self._ctx.view.facts(record).phase
                if phase is not Phase.STARTING:
                    return phase in LIVE_PHASES
                await trio.sleep(_OTHER_START_POLL_S)
        raise EngineFailed("start", errno.ETIMEDOUT, record.config.name)


def _write_pid(record: ContainerRecord, pid: int) -> None:
    """`--pidfile`: of a process that runs already, so that a failure is not the start's."""
    if record.config.pidfile:
        try:
            files.write_atomically(record.config.pidfile, str(pid).encode(), 0o644)
        except OSError as exc:
            _logger.warning("cannot write %s: %s", record.config.pidfile, exc)


async def start_container(ctx: Context, container_id: str) -> None:
    """Start one container; in a pod its namespaces come first, its dependencies must run.

    Raises: PodrtError; a running container is no error.
    """
    ctx.check_open()
    record = ctx.load_container(container_id)
    group_id = ctx.group_id(record)
    async with claim(ctx, group_id, Verb.START):
        record, pod = load_startable(ctx, container_id, "start")
        parent = pod.config.cgroup_parent if pod is not None else record.config.cgroup_parent
        async with open_group(ctx, group_id, parent) as monitor:
            starter = Starter(ctx, monitor, pod, names_of(ctx, record))
            await starter.run_one(record)


def load_startable(
    ctx: Context, container_id: str, verb: str
) -> tuple[ContainerRecord, PodRecord | None]:
    """A container and its pod, for a verb that starts it. Raises: Removed, InvalidState."""
    record = ctx.load_container(container_id)
    pod = ctx.pod_of(record)
    if record.removing or (pod is not None and pod.removing):
        raise InvalidState(verb, f"container {record.config.name}", "it is being removed")
    return record, pod


def names_of(ctx: Context, record: ContainerRecord) -> dict[str, str]:
    """The names, by ID, of a container and of all that are in its pod."""
    names = {member.id: member.config.name for member in ctx.view.members(record.pod_id)}
    return {**names, record.id: record.config.name}


def raise_failures(verb: str, outcomes: Outcomes) -> None:
    """Raises: WalkFailed when an outcome is an error."""
    if any(error is not None for error in outcomes.values()):
        raise WalkFailed(verb, outcomes)
