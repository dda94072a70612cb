"""Removing pods and containers so that a crash at any point leaves what a second `rm` finishes.

Source: semantics.md section 6: the order, and which error counts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Sequence

import msgspec
import trio

from podrt.engines.liveness import has_monitor
from podrt.engines.monitor import Monitor
from podrt.engines.wire import Kind
from podrt.errors import (
    EngineFailed,
    InUse,
    InvalidConfig,
    InvalidState,
    MonitorGone,
    PodrtError,
)
from podrt.linux import trees
from podrt.model.resources import Resources
from podrt.model.states import ALIVE, LIVE_PHASES, ContainerState, Phase
from podrt.model.verbs import Verb
from podrt.store.records import (
    ContainerRecord,
    Delete,
    GroupRecord,
    IntentRecord,
    Op,
    PodRecord,
    Put,
)
from podrt.store.tables import Tables

from .claims import claim
from .context import Context, finishing
from .foreign import delete_made
from .frozen import is_frozen, kill_frozen
from .group import fold, open_group, wait_monitor_ended
from .namespaces import spaces_owner
from .order import member_graph
from .processes import kill_process, stop_process
from .userns import give_back
from .walk import Action, Outcomes, walk

_logger = logging.getLogger("podrt")

# What is paused or not yet in its program cannot be asked to end.
_ONLY_KILLED = frozenset({Phase.PAUSED, Phase.HELD, Phase.STARTING})
_NO_FORKS = Resources(pids_limit=1)
_UNLIMITED = 1_000_000


async def remove_pod(
    ctx: Context,
    pod_id: str,
    *,
    force: bool = False,
    timeout_s: int | None = None,
    remove_containers: bool = True,
    only_if: Callable[[PodRecord], bool] | None = None,
) -> Outcomes:
    """Remove a pod with its containers; the outcome of each container.

    `only_if` is asked once nobody else works on the pod; if it says no the pod stays.

    Raises: InvalidState naming every member that is in the way, before anything is touched;
    InvalidConfig for a grace period without `force`; the first error of the table in semantics.md
    section 6 otherwise.
    """
    ctx.check_open()
    if timeout_s is not None and not force:
        raise InvalidConfig("--time", "must be used with --force")
    verb = Verb.FORCE_REMOVE if force else Verb.REMOVE
    async with claim(ctx, pod_id, verb):
        pod = ctx.load_pod(pod_id)
        if only_if is not None and not only_if(pod):
            raise InvalidState("remove", f"pod {pod.config.name}", "it is in use again")
        members = ctx.view.members(pod_id)
        if all(member.config.is_infra for member in members):
            force = remove_containers = True
        _check_removable(ctx, pod, members, force=force, remove_containers=remove_containers)
        return await _PodRemoval(ctx, pod, members, timeout_s).run()


def _check_removable(
    ctx: Context,
    pod: PodRecord,
    members: Sequence[ContainerRecord],
    *,
    force: bool,
    remove_containers: bool,
) -> None:
    what = f"pod {pod.config.name}"
    if members and not remove_containers:
        raise InvalidState("remove", what, "it contains containers and cannot be removed")
    if force:
        return
    in_the_way = [
        f"{member.config.name} is {state}"
        for member in members
        if not member.config.is_infra
        and (state := ctx.view.state(member)) in ALIVE | {ContainerState.UNKNOWN}
    ]
    if in_the_way:
        raise InvalidState(
            "remove", what, f"{', '.join(in_the_way)}: stop them first or use --force"
        )


class _PodRemoval:
    """The steps of one removal, in the order of semantics.md section 6."""

    def __init__(
        self,
        ctx: Context,
        pod: PodRecord,
        members: list[ContainerRecord],
        timeout_s: int | None,
    ) -> None:
        self._ctx = ctx
        self._pod = pod
        self._members = members
        self._timeout_s = timeout_s
        self._error: PodrtError | None = None
        self._left: list[str] = []

    async def run(self) -> Outcomes:
        await self._mark_removing()
        outcomes = await self._remove_members()
        failed = [error for error in outcomes.values() if error is not None]
        if failed:
            # The pod stays `removing` with everything it still has; a second rm resumes.
            for error in failed[1:]:
                self._log(error)
            raise failed[0]
        with finishing("remove"):
            await self._forget_members()
            self._remove_volumes()
            await self._remove_cgroups()
            remove_group_files(self._ctx, self._pod.id)
            try:
                await self._forget_pod()
            except BaseException:
                # This is the error that counts; the one kept until now would be lost.
                if self._error is not None:
                    self._log(self._error)
                raise
        if self._error is not None:
            raise self._error
        return outcomes

    async def _mark_removing(self) -> None:
        ctx, pod = self._ctx, self._pod

        def build(tables: Tables) -> list[Op]:
            changes = {member.id: _marked for member in tables.members(pod.id)}
            current = tables.get(PodRecord, pod.id) or pod
            wish = Put(msgspec.structs.replace(current, removing=True))
            return [wish, *fold(ctx, tables, pod.id, changes)]

        await ctx.commit(build)

    def _forbid_forks(self) -> None:
        path = self._ctx.cgroups.monitor_path(self._pod.config.cgroup_parent, self._pod.id)
        if not path:
            return
        try:
            self._ctx.cgroups.update(path, _NO_FORKS)
        except (OSError, EngineFailed) as exc:
            # A pod that never started has no monitor to limit.
            if exc.errno != errno.ENOENT:
                _logger.warning("cannot limit the monitor of pod %s: %s", self._pod.id, exc)

    async def _remove_members(self) -> Outcomes:
        """Stop what runs, dependents first, then give up what the members had."""
        ctx, pod = self._ctx, self._pod
        by_id = {member.id: member for member in self._members}
        graph = member_graph(self._members).reversed()
        alive = [member for member in self._members if ctx.view.has_process(member)]
        if not alive and not has_monitor(ctx.layout, pod.id):
            return await walk(graph, self._give_up(by_id), limiter=ctx.limiter, on_failed_need=None)
        async with open_group(ctx, pod.id, pod.config.cgroup_parent) as monitor:
            await monitor.note(Kind.REMOVING, pod.id)
            self._forbid_forks()
            outcomes = await walk(
                graph,
                self._end_and_give_up(by_id, monitor),
                limiter=trio.CapacityLimiter(_UNLIMITED),
                on_failed_need=None,
            )
            if all(error is None for error in outcomes.values()):
                await monitor.release_namespaces(spaces_owner(pod))
        return outcomes

    def _give_up(self, by_id: dict[str, ContainerRecord]) -> Action:
        async def act(node: str) -> None:
            await trio.lowlevel.checkpoint()
            await delete_made(self._ctx, by_id[node])
            give_up(self._ctx, by_id[node])

        return act

    def _end_and_give_up(self, by_id: dict[str, ContainerRecord], monitor: Monitor) -> Action:
        async def act(node: str) -> None:
            await end_process(self._ctx, monitor, by_id[node], self._timeout_s)
            await delete_made(self._ctx, by_id[node])
            give_up(self._ctx, by_id[node])

        return act

    async def _forget_members(self) -> None:
        pod, members = self._pod, self._members

        def build(tables: Tables) -> list[Op]:
            current = tables.get(PodRecord, pod.id) or pod
            return [
                Put(msgspec.structs.replace(current, infra_id="")),
                *(Delete(ContainerRecord, member.id) for member in members),
            ]

        await self._ctx.commit(build, once_written=lambda: self._free_locks(members))

    async def _remove_cgroups(self) -> None:
        ctx, pod = self._ctx, self._pod
        if not await wait_monitor_ended(ctx, pod.id):
            self._keep(EngineFailed("monitor", 0, f"the monitor of pod {pod.id} does not end"))
        parent = pod.config.cgroup_parent
        for path in (ctx.cgroups.monitor_path(parent, pod.id), pod.cgroup_path):
            if not path:
                continue
            try:
                _end_settling(ctx, path)
                ctx.cgroups.remove(path)
            except OSError as exc:
                self._left.append(path)
                self._keep(EngineFailed("remove cgroup", exc.errno or 0, path))
        with contextlib.suppress(OSError):
            ctx.cgroups.remove_if_empty(parent)

    def _keep(self, error: PodrtError) -> None:
        if self._error is None:
            self._error = error
        else:
            self._log(error)

    def _log(self, error: Exception) -> None:
        _logger.error("removing pod %s: %s", self._pod.id, error)

    def _remove_volumes(self) -> None:
        """The pod's own volumes, and the files its members shared; named volumes stay."""
        try:
            trees.remove_tree(self._ctx.layout.pod(self._pod.id))
        except OSError as exc:
            self._log(exc)

    async def _forget_pod(self) -> None:
        pod_id = self._pod.id
        # What could not be removed is remembered: nothing else says that the cgroup was ours.
        left = IntentRecord(id=pod_id, kind="pod", verb="remove", made=tuple(self._left))

        def build(tables: Tables) -> list[Op]:
            kept: list[Op] = [Put(left)] if self._left else []
            # While something may still live in a cgroup its IDs are nobody else's.
            kept += [] if self._left else give_back(tables, [pod_id])
            return [Delete(PodRecord, pod_id), Delete(GroupRecord, pod_id), *kept]

        await self._ctx.commit(build, once_written=lambda: self._free_locks([self._pod]))

    def _free_locks(self, gone: Sequence[PodRecord | ContainerRecord]) -> None:
        """At once: if we are killed before, only `system check` knows whose they were."""
        for record in gone:
            error = _free_lock(self._ctx, record)
            if error is not None:
                self._keep(error)


def _free_lock(ctx: Context, record: PodRecord | ContainerRecord) -> EngineFailed | None:
    try:
        ctx.locks.free(record.lock, record.id)
    except (OSError, PodrtError) as exc:
        return EngineFailed("free lock", getattr(exc, "errno", 0) or 0, record.id)
    return None


async def end_process(
    ctx: Context, monitor: Monitor, record: ContainerRecord, timeout_s: int | None
) -> None:
    """End a member's process: stop it with its grace period, kill it if it is paused or held."""
    if not record.config.has_program:
        return
    facts = ctx.view.facts(record)
    if facts.phase in _ONLY_KILLED or (facts.phase in LIVE_PHASES and is_frozen(ctx, record)):
        await kill_frozen(ctx, monitor, record, facts.run)
        await kill_process(monitor, record, facts.run)
    elif facts.phase in LIVE_PHASES or facts.phase is Phase.BACK_OFF:
        await stop_process(monitor, record, facts.run, timeout_s)


def give_up(ctx: Context, record: ContainerRecord) -> None:
    """Remove what an ended container has besides its record: cgroup, stragglers, files.

    Raises: EngineFailed naming what stays.
    """
    if record.cgroup_path:
        try:
            ctx.cgroups.kill(record.cgroup_path)
            ctx.cgroups.remove(record.cgroup_path)
        except OSError as exc:
            raise EngineFailed("remove cgroup", exc.errno or 0, record.cgroup_path) from exc
    path = ctx.layout.container(record.id)
    try:
        trees.remove_tree(path)
    except OSError as exc:
        raise EngineFailed("remove", exc.errno or 0, path) from exc


async def remove_left_cgroup(ctx: Context, intent_id: str, path: str) -> None:
    """Remove a cgroup that an earlier removal could not; its memory goes with it.

    Raises: OSError while something that cannot be killed lives in it.
    """
    ctx.cgroups.kill(path)
    ctx.cgroups.remove(path)
    parent = path.rpartition("/")[0]
    ctx.cgroups.remove_if_empty(parent)
    # That of a monitor lies one level deeper.
    ctx.cgroups.remove_if_empty(parent.removesuffix("/monitors"))

    def build(tables: Tables) -> list[Op]:
        intent = tables.get(IntentRecord, intent_id)
        if intent is None:
            return []
        made = tuple(other for other in intent.made if other != path)
        if made:
            return [Put(msgspec.structs.replace(intent, made=made))]
        return [Delete(IntentRecord, intent_id)]

    await ctx.commit(build)


def remove_group_files(ctx: Context, group_id: str) -> None:
    """Remove a group's journal and run directory; already gone is fine."""
    group = ctx.store.tables.get(GroupRecord, group_id)
    # Who began an epoch may have been killed before it removed the journal of the one before.
    for epoch in range(1, group.epoch + 1 if group is not None else 1):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(ctx.layout.journal(group_id, epoch))
    shutil.rmtree(ctx.layout.group_run(group_id), ignore_errors=True)


def _marked(record: ContainerRecord) -> ContainerRecord:
    return msgspec.structs.replace(record, removing=True)


async def remove_container(
    ctx: Context, record: ContainerRecord, monitor: Monitor | None = None
) -> None:
    """Remove one ended container from its pod (or a lone one), under the group's claim.

    `monitor` is the connection to use, where the caller has one.
    """
    ctx.view.refresh()
    await _mark_container(ctx, record.id)
    await _finish_container(ctx, record, monitor)


async def _mark_container(ctx: Context, container_id: str) -> None:
    def mark(tables: Tables) -> list[Op]:
        current = tables.get(ContainerRecord, container_id)
        return [] if current is None else [Put(_marked(current))]

    await ctx.commit(mark)


async def _finish_container(
    ctx: Context, record: ContainerRecord, monitor: Monitor | None = None
) -> None:
    await delete_made(ctx, record)
    give_up(ctx, record)
    if monitor is not None:
        with contextlib.suppress(EngineFailed, MonitorGone):
            await monitor.note(Kind.FORGET, record.id)
    error: EngineFailed | None = None
    with finishing("remove"):
        if not record.pod_id:
            error = await _remove_own_group(ctx, record)

        def forget(tables: Tables) -> list[Op]:
            gone: list[Op] = [Delete(ContainerRecord, record.id)]
            if not record.pod_id:
                gone.append(Delete(GroupRecord, record.id))
            if error is not None:
                # Nothing else would say that the cgroup was ours.
                left = (error.path,)
                gone.append(
                    Put(IntentRecord(id=record.id, kind="container", verb="remove", made=left))
                )
            else:
                gone += give_back(tables, [record.id])
            return gone

        unfreed: list[EngineFailed | None] = []
        await ctx.commit(forget, once_written=lambda: unfreed.append(_free_lock(ctx, record)))
    for failed in (error, *unfreed):
        if failed is not None:
            raise failed


def _end_settling(ctx: Context, path: str) -> None:
    """In a dead monitor's cgroup there is at most a `system settle` that has not come far yet."""
    with contextlib.suppress(EngineFailed):
        ctx.cgroups.kill(path)


async def _remove_own_group(ctx: Context, record: ContainerRecord) -> EngineFailed | None:
    """Remove what a container outside a pod has as its own group; the cgroup that stayed."""
    await wait_monitor_ended(ctx, record.id)
    parent = record.config.cgroup_parent
    path = ctx.cgroups.monitor_path(parent, record.id)
    error = None
    try:
        if path:
            _end_settling(ctx, path)
            ctx.cgroups.remove(path)
    except OSError as exc:
        error = EngineFailed("remove cgroup", exc.errno or 0, path)
    with contextlib.suppress(OSError):
        ctx.cgroups.remove_if_empty(parent)
    remove_group_files(ctx, record.id)
    with contextlib.suppress(OSError):
        trees.remove_tree(ctx.layout.pod(record.id))
    return error


async def remove_container_verb(
    ctx: Context,
    container_id: str,
    *,
    force: bool = False,
    timeout_s: int | None = None,
    only_if: Callable[[ContainerRecord], bool] | None = None,
) -> None:
    """`rm`: remove a container; one that runs needs `force`. `only_if` as for `remove_pod`.

    Raises: InvalidState for a running one or an infra container; InUse naming its dependents.
    """
    ctx.check_open()
    record = ctx.load_container(container_id)
    async with claim(ctx, ctx.group_id(record), Verb.FORCE_REMOVE if force else Verb.REMOVE):
        record = ctx.load_container(container_id)
        if only_if is not None and not only_if(record):
            raise InvalidState("remove", f"container {record.config.name}", "it is in use again")
        _check_container(ctx, record, force=force)
        # Before its monitor is told, which starts it no more from then on.
        await _mark_container(ctx, record.id)
        if ctx.view.has_process(record) or has_monitor(ctx.layout, record.group_id):
            with contextlib.suppress(MonitorGone):
                await _leave_monitor(ctx, record, timeout_s)
        await _finish_container(ctx, record)


async def _leave_monitor(ctx: Context, record: ContainerRecord, timeout_s: int | None) -> None:
    """End the container's process, let its monitor forget it and start it no more."""
    async with open_group(ctx, record.group_id, parent_of(ctx, record)) as monitor:
        if not record.pod_id:
            await monitor.note(Kind.REMOVING, record.id)
        await end_process(ctx, monitor, record, timeout_s)
        with contextlib.suppress(EngineFailed):
            await monitor.note(Kind.FORGET, record.id)


def _check_container(ctx: Context, record: ContainerRecord, *, force: bool) -> None:
    what = f"container {record.config.name}"
    pod = ctx.pod_of(record)
    if record.config.is_infra and pod is not None:
        raise InUse(
            what, [f"pod {pod.config.name}"],
            f"it is the infra container of pod {pod.config.name} and cannot be removed "
            "without removing the pod",
        )  # fmt: skip
    users = [
        member.config.name
        for member in ctx.view.members(record.pod_id)
        if any(edge.on == record.id for edge in member.config.requires)
    ]
    if users and record.pod_id:
        raise InUse(what, users)
    if not force and ctx.view.live_state(record) in ALIVE:
        raise InvalidState("remove", what, "it is running: stop it first or use --force")


def parent_of(ctx: Context, record: ContainerRecord) -> str:
    """The cgroup parent under which a container's group lives."""
    pod = ctx.pod_of(record)
    return pod.config.cgroup_parent if pod is not None else record.config.cgroup_parent
