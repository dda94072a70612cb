"""What is due once containers of a group have ended for good: `system settle`.

Their monitor starts it, because exit policies and the removal of `--rm` containers need the
library. It reads what is due from the state, so that it may run twice, or be killed and run again.
Source: semantics.md section 8, architecture.md decision 6.
"""

from __future__ import annotations

import contextlib
import logging
import os

from podrt.errors import InUse, InvalidState, Removed
from podrt.model.pod import ExitPolicy
from podrt.model.states import ENDED, ContainerState
from podrt.model.verbs import Verb
from podrt.store.records import ContainerRecord, PodRecord

from .claims import claim
from .context import Context
from .group import members_of, open_group
from .policies import is_ordinary
from .start import raise_failures
from .stop import stop_members
from .teardown import remove_container_verb

_logger = logging.getLogger("podrt")


async def settle(ctx: Context, group_id: str) -> None:
    """Stop a pod whose exit policy says so, and remove ended `--rm` containers of the group.

    Raises: Removed when the group is gone; Busy when a stronger verb took over; WalkFailed.
    """
    ctx.check_open()
    ctx.view.refresh()
    _leave_cgroup(ctx)
    async with claim(ctx, group_id, Verb.SETTLE):
        ctx.view.refresh()
        pod = ctx.store.tables.get(PodRecord, group_id)
        if pod is not None and is_stop_due(ctx, pod):
            async with open_group(ctx, pod.id, pod.config.cgroup_parent) as monitor:
                outcomes = await stop_members(ctx, monitor, pod, timeout_s=None, by_user=False)
            raise_failures("stop", outcomes)
    ctx.view.refresh()
    for record in members_of(ctx.store.tables, group_id):
        if is_removal_due(ctx, record):
            await _remove(ctx, record)


def _leave_cgroup(ctx: Context) -> None:
    """The monitor's cgroup goes with the group, so nobody who removes it may be in there."""
    for directory in ctx.cgroups.join_dirs("/podrt"):
        # Only the top may hold processes beside cgroups, on v2.
        with contextlib.suppress(OSError):
            with open(f"{os.path.dirname(directory)}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))


def is_stop_due(ctx: Context, pod: PodRecord) -> bool:
    """Whether the pod's exit policy says that what still runs of it is to be stopped."""
    policy = pod.config.exit_policy
    members = ctx.view.members(pod.id)
    if pod.removing or policy is ExitPolicy.CONTINUE:
        return False
    if not any(_has_something_to_stop(ctx, member) for member in members):
        return False
    ordinary = [member for member in members if is_ordinary(member)]
    if policy is ExitPolicy.STOP_ANY and _has_one_ended(ctx, pod, ordinary):
        return True
    # Of a pod without any, the last one was a container that is removed at its end.
    has_ended = not ordinary or any(ctx.view.state(member) in ENDED for member in ordinary)
    return has_ended and not any(ctx.view.is_unfinished(member) for member in ordinary)


def _has_something_to_stop(ctx: Context, member: ContainerRecord) -> bool:
    if ctx.view.is_unfinished(member) or ctx.view.state(member) is ContainerState.STOPPED:
        return True
    return member.config.is_infra and ctx.view.is_running(member)


def _has_one_ended(ctx: Context, pod: PodRecord, ordinary: list[ContainerRecord]) -> bool:
    """Whether one has ended since the pod was started, not in an earlier life of it."""
    infra = ctx.store.tables.get(ContainerRecord, pod.infra_id) if pod.infra_id else None
    up = [infra] if infra is not None else [one for one in ordinary if ctx.view.is_running(one)]
    began_at_ns = min((ctx.view.facts(one).started_at_ns for one in up), default=0)
    return any(
        ctx.view.state(member) in ENDED and ctx.view.facts(member).finished_at_ns >= began_at_ns
        for member in ordinary
    )


def is_removal_due(ctx: Context, record: ContainerRecord) -> bool:
    """Whether a container has ended that was to be removed at its end."""
    is_over = ctx.view.live_state(record) in ENDED
    return record.config.auto_remove and is_ordinary(record) and is_over


async def _remove(ctx: Context, record: ContainerRecord) -> None:
    def is_still_due(current: ContainerRecord) -> bool:
        return is_removal_due(ctx, current)

    try:
        await remove_container_verb(ctx, record.id, only_if=is_still_due)
    except Removed:
        pass
    except (InUse, InvalidState) as exc:
        # Others need it, or it was started again meanwhile.
        _logger.info("container %s stays: %s", record.config.name, exc)
