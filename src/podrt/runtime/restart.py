"""Restarting: one ordered stop and one ordered start under one claim.

Source: semantics.md section 5; Pod.Restart of the seed, which restarts one after the other and
the infra container under its members' feet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from podrt.errors import DependencyFailed, InvalidState, PodrtError
from podrt.model.event import Action
from podrt.model.states import ContainerState, Phase
from podrt.model.verbs import Verb
from podrt.store.records import ContainerRecord, PodRecord

from .claims import claim
from .context import Context
from .events import tells
from .frozen import stop_running
from .graph import Graph, check_graph
from .group import open_group
from .order import member_graph
from .start import Starter, load_pod, load_startable, names_of
from .stop import clean_up, stop_members, wish_stopped
from .teardown import parent_of
from .walk import Outcomes, walk

_SKIPPED = frozenset({ContainerState.PAUSED, ContainerState.UNKNOWN})


@tells(PodRecord, Action.RESTART)
async def restart_pod(ctx: Context, pod_id: str, *, timeout_s: int | None = None) -> Outcomes:
    """Stop a pod's containers and start all of them again; the outcome of each.

    Members that did not run are started too; init containers do not run again, only those that
    never came to a good end. Paused members are skipped; who depends on one gets an error and is
    left as it is.
    """
    ctx.check_open()
    async with claim(ctx, pod_id, Verb.RESTART):
        pod, members = load_pod(ctx, pod_id, "restart")
        graph = member_graph(members)
        names = {member.id: member.config.name for member in members}
        check_graph(graph, names, pod.config.name)
        async with open_group(ctx, pod_id, pod.config.cgroup_parent) as monitor:
            skipped = _skipped(ctx, members)
            errors = blocked(graph, names, skipped)
            left_alone = skipped | errors.keys()
            stopped = await stop_members(ctx, monitor, pod, timeout_s=timeout_s, but=left_alone)
            inits = [member for member in members if member.config.init is not None]
            owed = [member.id for member in inits if not _has_succeeded(ctx, member)]
            rest = graph.restricted(
                graph.needs.keys() - left_alone - {member.id for member in inits}
            )
            starter = Starter(ctx, monitor, pod, names)
            started = await _start_again(ctx, starter, rest, stopped, owed)
        return {member.id: None for member in members} | errors | started


def _skipped(ctx: Context, members: Sequence[ContainerRecord]) -> frozenset[str]:
    """Who is not touched. The infra container's namespaces stay up under a paused member."""
    return frozenset(
        member.id
        for member in members
        if not member.config.is_infra and ctx.view.state(member) in _SKIPPED
    )


def _has_succeeded(ctx: Context, init: ContainerRecord) -> bool:
    facts = ctx.view.facts(init)
    return facts.phase is Phase.EXITED and not facts.exit_code and not facts.code_unknown


def blocked(graph: Graph, names: Mapping[str, str], skipped: Set[str]) -> dict[str, PodrtError]:
    """Who cannot be started again because something it needs is skipped: ID -> its error."""
    found: dict[str, PodrtError] = {}
    waiting = list(skipped)
    while waiting:
        for user in graph.needed_by[waiting.pop(0)]:
            if user in found or user in skipped:
                continue
            down = [need for need in graph.needs[user] if need in skipped]
            failed = [need for need in graph.needs[user] if need in found]
            found[user] = (
                InvalidState(
                    "restart",
                    f"container {names[user]}",
                    "the following dependencies are not running: "
                    + ", ".join(names[need] for need in down),
                )
                if down
                else DependencyFailed(names[user], [names[need] for need in failed])
            )
            waiting.append(user)
    return found


async def _start_again(
    ctx: Context, starter: Starter, graph: Graph, stopped: Outcomes, inits: Sequence[str]
) -> Outcomes:
    """Run `inits`, then start all of `graph` but those that could not be stopped.

    Those keep the error of their stop. Raises: InvalidState when an init container fails.
    """
    failed = {node: error for node, error in stopped.items() if error is not None}
    starter.wish((graph.needs.keys() | set(inits)) - failed.keys())
    await starter.make_pod_cgroup()
    await starter.run_inits(inits)

    async def act(node: str) -> None:
        if node in failed:
            raise failed[node]
        await starter.act(node)

    return await walk(graph, act, limiter=ctx.limiter, on_failed_need=starter.failed_need)


@tells(ContainerRecord, Action.RESTART)
async def restart_container(
    ctx: Context, container_id: str, *, timeout_s: int | None = None
) -> None:
    """Stop one container and start it again; one that does not run is only started.

    Raises: InvalidState when it is paused, or when something it needs does not run.
    """
    ctx.check_open()
    record = ctx.load_container(container_id)
    group_id = ctx.group_id(record)
    async with claim(ctx, group_id, Verb.RESTART):
        record, pod = load_startable(ctx, container_id, "restart")
        what = f"container {record.config.name}"
        if record.config.is_infra:
            raise InvalidState("restart", f"infra {what}", "restart the pod instead")
        if ctx.view.state(record) in _SKIPPED:
            raise InvalidState(
                "restart", what, "unable to restart a container in a paused or unknown state"
            )
        async with open_group(ctx, group_id, parent_of(ctx, record)) as monitor:
            starter = Starter(ctx, monitor, pod, names_of(ctx, record))
            # What could not be started again is better left running.
            starter.check_dependencies(record, what)
            if ctx.view.is_unfinished(record):
                await wish_stopped(ctx, group_id, [record])
                await stop_running(ctx, monitor, record, timeout_s)
            for error in (await clean_up(ctx, group_id, [record])).values():
                raise error
            await starter.run_one(record)
