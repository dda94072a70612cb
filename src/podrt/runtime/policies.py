"""What a group's monitor is told so that policies are kept while no podrt runs.

The monitor starts containers again by itself; for what needs the library (exit policies, the
removal of `--rm` containers) it runs `podrt system settle`. Source: semantics.md section 8,
architecture.md decision 6.
"""

from __future__ import annotations

import sys
import time

from podrt.engines import wire
from podrt.engines.monitor import Monitor
from podrt.model.pod import ExitPolicy
from podrt.model.restarts import RestartKind
from podrt.model.states import Facts, Phase
from podrt.store.journal import Flag
from podrt.store.records import ContainerRecord, GroupRecord

from .context import Context

WHEN_ENDED = wire.START_RESTARTS | wire.START_SETTLE | wire.START_REMOVE
"""The flags of a start that say what follows a container's end."""


def is_ordinary(record: ContainerRecord) -> bool:
    """Whether it is one of the containers a pod is there for."""
    return not record.config.is_infra and record.config.init is None


def start_flags(ctx: Context, record: ContainerRecord) -> int:
    """The flags with which a container is started, by hand or by its monitor."""
    flags = wire.START_UNIFIED if ctx.cgroups.unified else 0
    if record.config.is_infra:
        return flags | wire.START_LEADS
    if ctx.view.restart_policy(record).kind is not RestartKind.NO:
        flags |= wire.START_RESTARTS
    return flags | (_settle_flags(ctx, record) if is_ordinary(record) else 0)


def _settle_flags(ctx: Context, record: ContainerRecord) -> int:
    """What may have to be done once it has ended for good."""
    pod = ctx.pod_of(record)
    flags = wire.START_REMOVE if record.config.auto_remove else 0
    if pod is not None and pod.config.exit_policy is not ExitPolicy.CONTINUE:
        flags |= wire.START_SETTLE
    return flags


def settle_command(ctx: Context, group_id: str) -> tuple[str, ...]:
    """The monitor's command line for `system settle`; the interpreter looks at no environment."""
    if not sys.executable:
        return ()
    settings = ctx.settings
    return (
        "--", sys.executable, "-I", "-m", "podrt", "--root", settings.root,
        "--runroot", settings.runroot, "--cgroup-manager", settings.cgroup_manager,
        "system", "settle", group_id,
    )  # fmt: skip


async def tell_policy(
    ctx: Context, monitor: Monitor, record: ContainerRecord, known: Facts | None = None
) -> None:
    """Tell the monitor a container's restart policy as it is now; it need not run.

    `known` is what a monitor that does not know the container is told of it. Raises: EngineFailed.
    """
    policy = ctx.view.restart_policy(record)
    needs = [edge.on for edge in record.config.requires]
    pod = ctx.pod_of(record)
    infra = ctx.store.tables.get(ContainerRecord, pod.infra_id) if pod is not None else None
    if infra is not None and infra.config.has_program:
        needs.append(infra.id)
    message = wire.Policy(
        kind=policy.kind,
        most=policy.most,
        needs=needs,
        plan=ctx.layout.plan(record.id),
        join=ctx.cgroups.join_dirs(record.cgroup_path) if record.cgroup_path else (),
    )
    if known is not None:
        message = message._replace(restarts=known.restarts, delay_ms=_last_delay_ms(known))
        if not _has_process(known):
            message = message._replace(
                code=known.exit_code,
                exit_flags=Flag.CODE_UNKNOWN if known.code_unknown else 0,
                ended_at_ns=known.finished_at_ns or time.time_ns(),
            )
    run = known.run if known is not None else record.run
    await monitor.tell_policy(record.id, run, message, flags=start_flags(ctx, record))


def _has_process(facts: Facts) -> bool:
    return facts.phase not in (Phase.BACK_OFF, Phase.EXITED)


def _last_delay_ms(facts: Facts) -> int:
    """The delay before the one that was going on, which then is waited for once more."""
    if facts.phase is not Phase.BACK_OFF:
        return 0
    return min(max(0, facts.due_at_ns - facts.finished_at_ns) // 2_000_000, 2**31)


def is_kept(ctx: Context, record: ContainerRecord) -> bool:
    """Whether the end of a container means something: nobody wished that it ends."""
    if record.removing or record.wanted != "running":
        return False
    return bool(start_flags(ctx, record) & WHEN_ENDED)


def is_left_undone(ctx: Context, record: ContainerRecord) -> bool:
    """Whether it waits, or has ended unseen, and the group's newest monitor knows nothing of it.

    What ended with another boot is left to who asks for it.
    """
    facts = ctx.view.facts(record)
    if not is_kept(ctx, record) or facts.by_user or facts.boot_id != ctx.boot_id:
        return False
    if facts.phase is Phase.BACK_OFF:
        group = ctx.store.tables.get(GroupRecord, record.group_id)
        return group is None or facts.epoch != group.epoch
    return facts.phase is Phase.EXITED and facts.code_unknown and not facts.finished_at_ns
