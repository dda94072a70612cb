"""Stopping and killing: dependents first, everything that may end at once ends at once.

Source: semantics.md section 5. Only running containers are touched; one that fails does not keep
the others from being stopped.
"""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Iterable, Sequence, Set

import msgspec
import trio

from podrt.engines.monitor import Monitor
from podrt.errors import EngineFailed, InvalidState, PodrtError
from podrt.model.event import Action
from podrt.model.states import ALIVE, ContainerState
from podrt.model.verbs import Verb
from podrt.store.records import ContainerRecord, Op, PodRecord
from podrt.store.tables import Tables

from .claims import claim
from .context import Context
from .events import note, tells
from .foreign import delete_made
from .frozen import stop_running, thaw_if_killed
from .graph import build_graph
from .group import fold, open_group
from .namespaces import spaces_owner
from .order import member_graph
from .processes import raise_unless_gone
from .teardown import parent_of
from .walk import Outcomes, walk

# Waiting for a grace period is no work, so stopping is not held back by the limit on it.
_UNLIMITED = 1_000_000
_ENDING_SIGNALS = frozenset(
    {signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT}
)


@tells(PodRecord, Action.STOP)
async def stop_pod(ctx: Context, pod_id: str, *, timeout_s: int | None = None) -> Outcomes:
    """Stop a pod's running containers, dependents first, and clean up after what was stopped."""
    ctx.check_open()
    async with claim(ctx, pod_id, Verb.STOP):
        pod = ctx.load_pod(pod_id)
        if pod.removing:
            raise InvalidState("stop", f"pod {pod.config.name}", "it is being removed")
        async with open_group(ctx, pod_id, pod.config.cgroup_parent) as monitor:
            return await stop_members(ctx, monitor, pod, timeout_s=timeout_s)


async def stop_members(
    ctx: Context,
    monitor: Monitor,
    pod: PodRecord,
    *,
    timeout_s: int | None,
    but: Set[str] = frozenset(),
    by_user: bool = True,
) -> Outcomes:
    """Stop what runs of a pod in reverse graph order, the infra last; clean up what ended.

    Those in `but`, and who is paused, are left alone; the infra stays with them. `by_user` as for
    `wish_stopped`.
    """
    members = ctx.view.members(pod.id)
    stoppable = [
        member
        for member in members
        if member.id not in but
        and ctx.view.is_unfinished(member)
        and ctx.view.state(member) is not ContainerState.PAUSED
    ]
    asked = [member for member in stoppable if not member.config.is_infra]
    await wish_stopped(ctx, pod.id, asked, by_user=by_user)
    by_id = {member.id: member for member in stoppable}
    graph = member_graph(members).restricted(by_id).reversed()

    async def act(node: str) -> None:
        if by_id[node].config.is_infra:
            ctx.view.refresh()
            if any(ctx.view.has_process(one) for one in members if one.id != node):
                return
            await wish_stopped(ctx, pod.id, [by_id[node]], by_user=by_user)
        await stop_running(ctx, monitor, by_id[node], timeout_s)

    outcomes = await walk(graph, act, limiter=trio.CapacityLimiter(_UNLIMITED), on_failed_need=None)
    _add_clean_up(outcomes, await clean_up(ctx, pod.id, members))
    if not any(ctx.view.is_unfinished(member) for member in members):
        await _release(ctx, monitor, pod)
    return {member.id: outcomes.get(member.id) for member in members}


async def wish_stopped(
    ctx: Context, group_id: str, members: Sequence[ContainerRecord], *, by_user: bool = True
) -> None:
    """One transaction: these are stopped because the user says so, or else a policy.

    It is on the disk before anything is done to one that a reboot would start again.
    """

    def change(member: ContainerRecord) -> ContainerRecord:
        return msgspec.structs.replace(
            member, wanted="stopped", user_stopped=by_user or member.user_stopped
        )

    def build(tables: Tables) -> list[Op]:
        return fold(ctx, tables, group_id, changes)

    changes = {member.id: change for member in members}
    if any(ctx.view.restart_policy(member).outlives_boot for member in members):
        await ctx.commit(build)
    elif changes:
        ctx.record(build)


async def clean_up(
    ctx: Context, group_id: str, members: Iterable[ContainerRecord]
) -> dict[str, PodrtError]:
    """Remove the cgroups of ended containers and mark their runs as cleaned up.

    Shape: container ID -> the error of its clean-up; those without one are left out.
    """
    ctx.view.refresh()
    errors: dict[str, PodrtError] = {}
    cleaned: dict[str, int] = {}
    for member in members:
        state = ctx.view.state(member)
        if not member.config.has_program or state is not ContainerState.STOPPED:
            continue
        await delete_made(ctx, member)
        try:
            ctx.cgroups.remove(member.cgroup_path)
            cleaned[member.id] = max(member.run, ctx.view.facts(member).run)
        except OSError as exc:
            errors[member.id] = EngineFailed("cleanup", exc.errno or 0, member.cgroup_path)

    def change(member: ContainerRecord) -> ContainerRecord:
        return msgspec.structs.replace(member, cleaned_run=cleaned[member.id])

    if cleaned:
        changes = dict.fromkeys(cleaned, change)
        ctx.record(lambda tables: fold(ctx, tables, group_id, changes))
    return errors


def _add_clean_up(outcomes: Outcomes, errors: dict[str, PodrtError]) -> None:
    for node, error in errors.items():
        if outcomes.get(node) is None:
            outcomes[node] = error


async def _release(ctx: Context, monitor: Monitor, pod: PodRecord) -> None:
    """Give up the namespaces and the pod's cgroup: nothing lives in them any more."""
    await monitor.release_namespaces(spaces_owner(pod))
    if pod.cgroup_path:
        with contextlib.suppress(OSError):
            # Still in use: a member outside our knowledge lives there; `rm` will say so.
            ctx.cgroups.remove(pod.cgroup_path)


async def stop_container(ctx: Context, container_id: str, *, timeout_s: int | None = None) -> None:
    """Stop one container and clean up after it; one that does not run is no error."""
    ctx.check_open()
    record = ctx.load_container(container_id)
    group_id = ctx.group_id(record)
    async with claim(ctx, group_id, Verb.STOP):
        record = ctx.load_container(container_id)
        if record.config.is_infra:
            pod = ctx.pod_of(record)
            name = pod.config.name if pod is not None else record.pod_id[:12]
            raise InvalidState("stop", f"infra container of pod {name}", "stop the pod instead")
        if record.removing:
            raise InvalidState("stop", f"container {record.config.name}", "it is being removed")
        state = ctx.view.state(record)
        if state is ContainerState.PAUSED:
            raise InvalidState("stop", f"container {record.config.name}", "it is paused")
        if ctx.view.is_unfinished(record):
            await wish_stopped(ctx, group_id, [record])
            async with open_group(ctx, group_id, parent_of(ctx, record)) as monitor:
                await stop_running(ctx, monitor, record, timeout_s)
        errors = await clean_up(ctx, group_id, [record])
        if record.id in errors:
            raise errors[record.id]


@tells(ContainerRecord, Action.KILL)
async def kill_container(ctx: Context, container_id: str, number: int) -> None:
    """Send a signal to a running container. Raises: InvalidState when it does not run."""
    ctx.check_open()
    record = ctx.load_container(container_id)
    what = f"container {record.config.name}"
    if not record.config.has_program or not _is_killable(ctx, record, number):
        raise InvalidState("kill", what, "can only kill running containers")
    await _wish_killed(ctx, ctx.group_id(record), [record], number)
    async with open_group(ctx, ctx.group_id(record), parent_of(ctx, record)) as monitor:
        try:
            await monitor.signal(record.id, ctx.view.facts(record).run, number)
        except EngineFailed as exc:
            if exc.errno != errno.ESRCH:
                raise
            raise InvalidState("kill", what, "can only kill running containers") from exc
        await thaw_if_killed(ctx, monitor, record, number)


@tells(PodRecord, Action.KILL)
async def kill_pod(ctx: Context, pod_id: str, number: int) -> Outcomes:
    """Send a signal to every running container of a pod, all at once."""
    ctx.check_open()
    _killable_pod(ctx, pod_id)
    if number not in _ENDING_SIGNALS:
        return await _signal_members(ctx, pod_id, number)
    async with claim(ctx, pod_id, Verb.KILL):
        return await _signal_members(ctx, pod_id, number)


def _killable_pod(ctx: Context, pod_id: str) -> PodRecord:
    pod = ctx.load_pod(pod_id)
    if pod.removing:
        raise InvalidState("kill", f"pod {pod.config.name}", "it is being removed")
    return pod


async def _signal_members(ctx: Context, pod_id: str, number: int) -> Outcomes:
    pod = _killable_pod(ctx, pod_id)
    members = ctx.view.members(pod_id)
    running = {
        member.id: member
        for member in members
        if member.config.has_program and _is_killable(ctx, member, number)
    }
    outcomes: Outcomes = {member.id: None for member in members}
    if not running:
        return outcomes
    await _wish_killed(ctx, pod_id, list(running.values()), number)
    async with open_group(ctx, pod_id, pod.config.cgroup_parent) as monitor:

        async def act(node: str) -> None:
            try:
                await monitor.signal(node, ctx.view.facts(running[node]).run, number)
            except EngineFailed as exc:
                raise_unless_gone(exc)
            await thaw_if_killed(ctx, monitor, running[node], number)

        graph = build_graph(dict.fromkeys(running, ()))
        outcomes |= await walk(graph, act, limiter=ctx.limiter, on_failed_need=None)
    killed = [node for node in running if outcomes[node] is None]
    note(ctx, ContainerRecord, killed, Action.KILL)
    return outcomes


def _is_killable(ctx: Context, record: ContainerRecord, number: int) -> bool:
    """Whether it runs, or waits to be started again, which a signal that ends calls off."""
    state = ctx.view.state(record)
    is_waiting = state is ContainerState.RESTARTING and number in _ENDING_SIGNALS
    return is_waiting or state in ALIVE


async def _wish_killed(
    ctx: Context, group_id: str, members: Sequence[ContainerRecord], number: int
) -> None:
    # HUP or USR1 ask a program to do something else than to end.
    if number in _ENDING_SIGNALS:
        await wish_stopped(ctx, group_id, members)
