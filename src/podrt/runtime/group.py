"""A group's monitor as the verbs use it: connect or start one, and fold its journal.

A group is a pod, or a container outside a pod; its monitor, journal and run directory carry the
group's ID.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec
import trio

from podrt.engines.liveness import has_monitor
from podrt.engines.monitor import Monitor, Started, open_monitor
from podrt.engines.plan_namespaces import map_text
from podrt.errors import EngineFailed, Removed, StoreCorrupt, StoreFailed
from podrt.linux import process
from podrt.model.resources import Resources
from podrt.spec.userns import to_maps
from podrt.store.journal import Kind, create_journal, read_first
from podrt.store.records import ContainerRecord, GroupRecord, Op, PodRecord, Put
from podrt.store.tables import Tables

from .context import Context
from .foreign import delete_strays
from .namespaces import CLONE_FLAGS, pod_namespace_flags, spaces_owner
from .policies import WHEN_ENDED, is_kept, is_left_undone, settle_command, start_flags, tell_policy

Change = Callable[[ContainerRecord], ContainerRecord]
"""A wish about one container; gets the record with its newest facts."""

# A monitor forks nothing once it serves; the bound only keeps a broken one small.
_MONITOR_LIMITS = Resources(pids_limit=512, memory_bytes=256 << 20)
# Who is killed before he creates a journal leaves its number out; this often in a row is enough.
_MISSING_EPOCHS = 3
_ENDING_S = 10.0
_ENDING_POLL_S = 0.001


def members_of(tables: Tables, group_id: str) -> list[ContainerRecord]:
    """The containers of a group: a pod's members, or the one container itself."""
    alone = tables.get(ContainerRecord, group_id)
    return [alone] if alone is not None else tables.members(group_id)


def fold(
    ctx: Context, tables: Tables, group_id: str, change: Mapping[str, Change | None]
) -> list[Op]:
    """The operations that make a wish, and move what was journaled so far into the log with it.

    `change` says, by container ID, what the wish does to a record (None: nothing); who is gone
    is left out. Whoever else the journal tells something new about is folded as well, so that
    what the log has folded is never read again.
    """
    unfolded = ctx.view.unfolded(group_id)
    ops: list[Op] = [] if unfolded.group is None else [Put(unfolded.group)]
    for key in {**change, **dict.fromkeys(unfolded.ids)}:
        member = tables.get(ContainerRecord, key)
        if member is None:
            continue
        facts = ctx.view.facts(member)
        # The monitor numbers the runs it starts by itself.
        folded = msgspec.structs.replace(member, facts=facts, run=max(member.run, facts.run))
        wish = change.get(key)
        wished = wish(folded) if wish is not None else folded
        if wished != member:
            ops.append(Put(wished))
    return ops


@contextlib.asynccontextmanager
async def open_group(
    ctx: Context, group_id: str, cgroup_parent: str, *, may_start: bool = True
) -> AsyncIterator[Monitor]:
    """Connect to the group's monitor, starting one (and giving it what a dead one left) if needed.

    Raises: MonitorGone when none serves and `may_start` is false; Removed when the group is gone;
    EngineFailed.
    """

    began = False

    def new_journal() -> int:
        nonlocal began
        began = True
        return _begin_epoch(ctx, group_id)

    def arguments() -> tuple[str, ...]:
        path = ctx.cgroups.monitor_path(cgroup_parent, group_id)
        if not path:
            return settle_command(ctx, group_id)
        ctx.cgroups.create(path, _MONITOR_LIMITS)
        return (*ctx.cgroups.join_dirs(path), *settle_command(ctx, group_id))

    opened = open_monitor(
        ctx.layout,
        group_id,
        new_journal=new_journal if may_start else None,
        arguments=arguments,
    )
    async with opened as monitor:
        ctx.view.refresh()
        if may_start:
            await _adopt(ctx, monitor)
        if began:
            await delete_strays(ctx, members_of(ctx.store.tables, group_id))
        yield monitor


def _begin_epoch(ctx: Context, group_id: str) -> int:
    """Fold the former journal and create the next one; returns its descriptor."""
    _end_lost_monitor(ctx, group_id)
    former = 0
    epoch = 0

    def build(tables: Tables) -> list[Op]:
        nonlocal former, epoch
        if not (tables.get(PodRecord, group_id) or tables.get(ContainerRecord, group_id)):
            raise Removed("pod or container", group_id[:12])
        group = tables.get(GroupRecord, group_id)
        former = group.epoch if group is not None else 0
        epoch = former + 1
        # A crash may have left a file of this number; its facts, if any, were never promised.
        while os.path.exists(ctx.layout.journal(group_id, epoch)):
            epoch += 1
        # Also of those about whom nothing new was journaled: a process may have been lost.
        members = dict.fromkeys(member.id for member in members_of(tables, group_id))
        folded = fold(ctx, tables, group_id, members)
        return [*folded, Put(GroupRecord(id=group_id, epoch=epoch))]

    try:
        ctx.record(build)
    except Removed:
        # Nobody else will ever want it: its ID is not used again.
        shutil.rmtree(ctx.layout.group_run(group_id), ignore_errors=True)
        raise
    fd = create_journal(ctx.layout.journal(group_id, epoch), ctx.boot_id, group_id)
    _remove_journals(ctx, group_id, former)
    return fd


def _remove_journals(ctx: Context, group_id: str, epoch: int) -> None:
    """Remove the journal of `epoch` and older ones, which those who were killed here have left."""
    missing = 0
    while epoch and missing < _MISSING_EPOCHS:
        try:
            os.unlink(ctx.layout.journal(group_id, epoch))
            missing = 0
        except FileNotFoundError:
            missing += 1
        epoch -= 1


def _end_lost_monitor(ctx: Context, group_id: str) -> None:
    """Kill the former monitor if it still lives: its run directory, and with it the lock that
    makes a monitor the only one, was removed. What it watched is taken over from it."""
    group = ctx.store.tables.get(GroupRecord, group_id)
    if group is None:
        return
    with contextlib.suppress(StoreCorrupt, StoreFailed, OSError):
        first = read_first(ctx.layout.journal(group_id, group.epoch))
        if first is not None and first.boot_id == ctx.boot_id and first.kind == Kind.MONITOR_UP:
            process.kill(first.pid, first.start_ticks)


async def _adopt(ctx: Context, monitor: Monitor) -> None:
    """Hand the monitor the processes whose monitor died, and the namespaces they are in.

    With them go their policies, and what became of those that have ended meanwhile or wait to be
    started again. Every opener does: who started the monitor may have been killed before it came
    to this.
    """
    group_id = monitor.group_id
    members = members_of(ctx.store.tables, group_id)
    left_over = [member for member in members if ctx.view.is_unwatched(member)]
    for member in left_over:
        facts = ctx.view.facts(member)
        is_member_kept = is_kept(ctx, member)
        with contextlib.suppress(EngineFailed):
            if is_member_kept:
                await tell_policy(ctx, monitor, member, facts)
            # One that ended meanwhile has its end believed from the kernel.
            left = Started(facts.pid, facts.start_ticks)
            flags = start_flags(ctx, member)
            if not is_member_kept:
                flags &= ~WHEN_ENDED
            await monitor.adopt(member.id, facts.run, left, ctx.layout.log(member.id), flags=flags)
    if left_over:
        ctx.view.refresh()
    undone = [member for member in members if is_left_undone(ctx, member)]
    pod = ctx.store.tables.get(PodRecord, group_id)
    if (left_over or undone) and pod is not None:
        with contextlib.suppress(EngineFailed):
            await set_up_namespaces(monitor, pod)
    for member in undone:
        with contextlib.suppress(EngineFailed):
            await tell_policy(ctx, monitor, member, ctx.view.facts(member))


async def set_up_namespaces(monitor: Monitor, pod: PodRecord) -> None:
    """Let the monitor hold what the pod shares; a pod without an infra container shares nothing.

    It takes them from a member that it adopted, else it makes them. Raises: EngineFailed.
    """
    if pod.infra_id:
        flags = pod_namespace_flags(pod.config)
        hostname = pod.config.hostname or pod.config.name
        texts: tuple[str, ...] = ()
        if pod.userns is not None:
            flags |= CLONE_FLAGS["user"]
            maps = to_maps(pod.userns)
            texts = (map_text(maps.uid_map), map_text(maps.gid_map))
        await monitor.setup(spaces_owner(pod), flags, pod.config.shm_bytes, hostname, maps=texts)


async def wait_monitor_ended(ctx: Context, group_id: str) -> bool:
    """Wait shortly for an idle monitor to end; whether it did."""
    with trio.move_on_after(_ENDING_S):
        while has_monitor(ctx.layout, group_id):
            await trio.sleep(_ENDING_POLL_S)
        return True
    return False
