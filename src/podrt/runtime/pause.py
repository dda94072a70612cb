"""Pausing and unpausing: only running ones freeze, only paused ones thaw.

A pod whose members all run is frozen by one write to its cgroup and journaled once, under its
own ID. Being paused is journaled before the freeze and its end after the thaw: whoever is killed
in between leaves a container that is said to be paused and runs (unpausing mends it), never one
that stands still and is said to run, which no stop could end.
Source: semantics.md section 5; Pod.Pause and Pod.Unpause of the seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from podrt.engines.monitor import Monitor
from podrt.engines.wire import Kind
from podrt.errors import InvalidState, PodrtError, Unsupported
from podrt.linux import proc
from podrt.model.event import Action
from podrt.model.states import ContainerState, Phase
from podrt.model.verbs import Verb
from podrt.store.records import ContainerRecord, PodRecord

from .claims import claim
from .context import Context, finishing
from .events import tells
from .frozen import note_infra_awake, thaw_member
from .graph import build_graph
from .group import open_group
from .teardown import parent_of
from .walk import Outcomes, walk


@tells(PodRecord, Action.PAUSE)
async def pause_pod(ctx: Context, pod_id: str) -> Outcomes:
    """Freeze a pod's running containers; the outcome of each member."""
    ctx.check_open()
    async with claim(ctx, pod_id, Verb.PAUSE):
        pod, members = _load_pod(ctx, pod_id, "pause")
        outcomes: Outcomes = {member.id: None for member in members}
        running = {member.id: member for member in members if _can_freeze(ctx, member)}
        if not running:
            return outcomes
        async with open_group(ctx, pod_id, pod.config.cgroup_parent) as monitor:
            ordinary = [member.id for member in members if _is_ordinary(member)]
            if pod.cgroup_path and list(running) == ordinary:
                return outcomes | await _freeze_pod(ctx, monitor, pod, list(running.values()))

            async def act(node: str) -> None:
                await _freeze_member(ctx, monitor, running[node])

            graph = build_graph(dict.fromkeys(running, ()))
            return outcomes | await walk(graph, act, limiter=ctx.limiter, on_failed_need=None)


@tells(PodRecord, Action.UNPAUSE)
async def unpause_pod(ctx: Context, pod_id: str) -> Outcomes:
    """Thaw a pod's paused containers; the outcome of each member."""
    ctx.check_open()
    async with claim(ctx, pod_id, Verb.PAUSE):
        pod, members = _load_pod(ctx, pod_id, "unpause")
        outcomes: Outcomes = {member.id: None for member in members}
        paused = [member for member in members if _is_paused(ctx, member)]
        if not paused:
            return outcomes
        async with open_group(ctx, pod_id, pod.config.cgroup_parent) as monitor:
            with finishing("unpause"):
                outcomes |= await _thaw_pod(ctx, monitor, pod, paused)
        return outcomes


async def pause_container(ctx: Context, container_id: str) -> None:
    """Freeze one container. Raises: InvalidState when it does not run."""
    ctx.check_open()
    record = ctx.load_container(container_id)
    async with claim(ctx, ctx.group_id(record), Verb.PAUSE):
        record = ctx.load_container(container_id)
        _refuse_infra(ctx, record, "pause")
        if not _can_freeze(ctx, record):
            state = ctx.view.state(record)
            word = "created" if state is ContainerState.CONFIGURED else str(state)
            raise InvalidState(
                "pause",
                f"container {record.config.name}",
                "it is already paused"
                if state is ContainerState.PAUSED
                else f'"{word}" is not running, can\'t pause',
            )
        async with open_group(ctx, ctx.group_id(record), parent_of(ctx, record)) as monitor:
            await _freeze_member(ctx, monitor, record)


async def unpause_container(ctx: Context, container_id: str) -> None:
    """Thaw one container. Raises: InvalidState when it is not paused."""
    ctx.check_open()
    record = ctx.load_container(container_id)
    async with claim(ctx, ctx.group_id(record), Verb.PAUSE):
        record = ctx.load_container(container_id)
        _refuse_infra(ctx, record, "unpause")
        if not _is_paused(ctx, record):
            raise InvalidState(
                "unpause", f"container {record.config.name}", "it is not paused, can't unpause"
            )
        async with open_group(ctx, ctx.group_id(record), parent_of(ctx, record)) as monitor:
            with finishing("unpause"):
                error = await _thawed(ctx, monitor, record)
        if error is not None:
            raise error


def _load_pod(ctx: Context, pod_id: str, verb: str) -> tuple[PodRecord, list[ContainerRecord]]:
    pod = ctx.load_pod(pod_id)
    if pod.removing:
        raise InvalidState(verb, f"pod {pod.config.name}", "it is being removed")
    return pod, ctx.view.members(pod_id)


def _refuse_infra(ctx: Context, record: ContainerRecord, verb: str) -> None:
    if record.config.is_infra:
        pod = ctx.pod_of(record)
        name = pod.config.name if pod is not None else record.pod_id[:12]
        raise InvalidState(verb, f"infra container of pod {name}", f"{verb} the pod instead")


def _is_ordinary(member: ContainerRecord) -> bool:
    return member.config.has_program and member.config.init is None


def _is_paused(ctx: Context, member: ContainerRecord) -> bool:
    return member.config.has_program and ctx.view.state(member) is ContainerState.PAUSED


def _can_freeze(ctx: Context, member: ContainerRecord) -> bool:
    """Whether it runs, or is said to be paused because a pause was cut off before its freeze."""
    if not member.config.has_program:
        return False
    state = ctx.view.state(member)
    if state is ContainerState.PAUSED and member.cgroup_path:
        return not ctx.cgroups.is_frozen(member.cgroup_path)
    return state is ContainerState.RUNNING


async def _freeze_pod(
    ctx: Context, monitor: Monitor, pod: PodRecord, members: Sequence[ContainerRecord]
) -> Outcomes:
    try:
        await _freeze(ctx, monitor, pod.id, pod.cgroup_path)
    except PodrtError as exc:
        return {member.id: exc for member in members}
    for member in members:
        await _let_killed_die(ctx, monitor, member)
    return {}


async def _freeze_member(ctx: Context, monitor: Monitor, record: ContainerRecord) -> None:
    if not record.cgroup_path:
        raise Unsupported("pause", f"container {record.config.name} has no cgroup")
    await _freeze(ctx, monitor, record.id, record.cgroup_path)
    await _let_killed_die(ctx, monitor, record)


async def _freeze(ctx: Context, monitor: Monitor, owner_id: str, path: str) -> None:
    """Journal that `owner_id` (a container or a whole pod) is paused, and freeze its cgroup."""
    with finishing("pause"):
        await monitor.note(Kind.PAUSE, owner_id)
        try:
            # A process in the middle of a slow system call is waited for.
            await trio.to_thread.run_sync(ctx.cgroups.freeze, path)
        except PodrtError:
            await monitor.note(Kind.UNPAUSE, owner_id)
            raise


async def _let_killed_die(ctx: Context, monitor: Monitor, record: ContainerRecord) -> None:
    """One that was killed (which takes no claim) as it froze cannot end on v1 until it thaws."""
    ctx.view.refresh()
    facts = ctx.view.facts(record)
    if facts.phase is Phase.PAUSED and proc.is_killed(facts.pid):
        await thaw_member(ctx, monitor, record)


async def _thaw_pod(
    ctx: Context, monitor: Monitor, pod: PodRecord, paused: Sequence[ContainerRecord]
) -> Outcomes:
    """Thaw members, each frozen alone or with the pod; journal it once if that went well."""
    outcomes: Outcomes = {}
    for member in paused:
        outcomes[member.id] = _thaw(ctx, member.cgroup_path)
    failed = _thaw(ctx, pod.cgroup_path)
    if failed is not None:
        return dict.fromkeys(outcomes, failed)
    if not any(outcomes.values()):
        await monitor.note(Kind.UNPAUSE, pod.id)
        return outcomes
    for node, error in outcomes.items():
        if error is None:
            await monitor.note(Kind.UNPAUSE, node)
    await note_infra_awake(ctx, monitor, pod)
    return outcomes


def _thaw(ctx: Context, path: str) -> PodrtError | None:
    try:
        if path:
            ctx.cgroups.thaw(path)
    except PodrtError as exc:
        return exc
    return None


async def _thawed(ctx: Context, monitor: Monitor, record: ContainerRecord) -> PodrtError | None:
    """Thaw and journal it; the error if the kernel refuses."""
    try:
        await thaw_member(ctx, monitor, record)
        await monitor.note(Kind.UNPAUSE, record.id)
    except PodrtError as exc:
        return exc
    return None
