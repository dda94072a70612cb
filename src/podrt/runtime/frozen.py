"""What a frozen cgroup asks of verbs that are about one member, or about ending it.

A pod whose members are all paused is frozen in one write, at the pod's cgroup; nothing can be
started, thawed or (on cgroup v1) killed below a frozen cgroup.
"""

from __future__ import annotations

import signal

from podrt.engines.monitor import Monitor
from podrt.engines.wire import Kind
from podrt.errors import EngineFailed, PodrtError
from podrt.model.states import Phase
from podrt.store.records import ContainerRecord, PodRecord

from .context import Context
from .processes import raise_unless_gone, stop_process


async def share_out(ctx: Context, monitor: Monitor, pod: PodRecord, *, but: str = "") -> None:
    """Turn the freeze of a pod's cgroup into one of each paused member's, `but` one's.

    Whoever is cut off in between leaves nobody running that is said to be paused.
    """
    if not pod.cgroup_path or not ctx.cgroups.is_frozen(pod.cgroup_path):
        return
    for member in ctx.view.members(pod.id):
        is_paused = ctx.view.facts(member).phase is Phase.PAUSED
        # The infra container serves those that go on.
        stays = member.id != but and not member.config.is_infra
        if is_paused and stays and member.cgroup_path:
            # Below a frozen cgroup everything stands already: this waits for nothing.
            ctx.cgroups.freeze(member.cgroup_path)
    ctx.cgroups.thaw(pod.cgroup_path)
    await note_infra_awake(ctx, monitor, pod)


async def note_infra_awake(ctx: Context, monitor: Monitor, pod: PodRecord) -> None:
    """Journal that the infra container, paused with the whole pod, is so no more."""
    infra = ctx.store.tables.get(ContainerRecord, pod.infra_id) if pod.infra_id else None
    if infra is not None and ctx.view.facts(infra).phase is Phase.PAUSED:
        await monitor.note(Kind.UNPAUSE, infra.id)


async def thaw_member(ctx: Context, monitor: Monitor, record: ContainerRecord) -> None:
    """Let one container run again, whether it was frozen alone or with its pod."""
    if not record.cgroup_path:
        return
    pod = ctx.pod_of(record)
    if pod is not None:
        await share_out(ctx, monitor, pod, but=record.id)
    ctx.cgroups.thaw(record.cgroup_path)


def is_frozen(ctx: Context, record: ContainerRecord) -> bool:
    """What the kernel says: who froze it, or began to end it frozen, may have been killed."""
    try:
        return bool(record.cgroup_path) and ctx.cgroups.is_frozen(record.cgroup_path)
    except (OSError, PodrtError):
        return False


async def stop_running(
    ctx: Context, monitor: Monitor, record: ContainerRecord, timeout_s: int | None
) -> None:
    """Stop a process that is said to run; should it be frozen all the same, it is thawed first."""
    if is_frozen(ctx, record):
        await thaw_member(ctx, monitor, record)
    await stop_process(monitor, record, ctx.view.facts(record).run, timeout_s)


async def thaw_if_killed(
    ctx: Context, monitor: Monitor, record: ContainerRecord, number: int
) -> None:
    """After a signal: a SIGKILL stays pending below a frozen v1 cgroup until it is thawed."""
    if number == signal.SIGKILL and is_frozen(ctx, record):
        await thaw_member(ctx, monitor, record)


async def kill_frozen(ctx: Context, monitor: Monitor, record: ContainerRecord, run: int) -> None:
    """Kill a process that may be frozen, before it could do anything more."""
    try:
        await monitor.signal(record.id, run, signal.SIGKILL)
    except EngineFailed as exc:
        raise_unless_gone(exc)
    await thaw_member(ctx, monitor, record)
