"""Containers made by another OCI runtime: what the verbs do for them besides.

The runtime's `delete` is podrt's part: before each start, when an ended one is cleaned up or
removed, and when a monitor was killed between the runtime's `create` and the news that it
started. Source: architecture.md decision 9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from podrt.engines import oci
from podrt.engines.oci import Bundle, Engine
from podrt.errors import EngineFailed, Unsupported
from podrt.model.resources import Resources
from podrt.model.runtimespec import Spec
from podrt.model.states import Facts, Phase
from podrt.store.records import ContainerRecord

from .claims import lock_of
from .context import Context

# The runtime's commands run beside the monitor: one each for all that start at once, and those
# written in Go have a dozen threads and as many MB.
_MONITOR_LIMITS = Resources(pids_limit=8192, memory_bytes=4 << 30)


def engine_of(record: ContainerRecord) -> Engine | None:
    """The runtime that makes a container, None for podrt's own engine."""
    return Engine(record.engine) if record.engine else None


def check_engine(engine: Engine, spec: Spec) -> None:
    """Refuse what a runtime would leave out without a word. Raises: Unsupported."""
    if spec.linux is not None and spec.linux.personality is not None and engine.name != "crun":
        raise Unsupported("--personality", f"{engine.name} does not set it")


def bundle_of(ctx: Context, record: ContainerRecord, engine: Engine) -> Bundle:
    """Where a container's bundle is."""
    return Bundle(
        container_id=record.id,
        directory=ctx.layout.container(record.id),
        state_dir=ctx.layout.engine_dir(engine.name),
    )


async def delete_made(ctx: Context, record: ContainerRecord) -> None:
    """Delete what another runtime has of a container whose process has ended, or must."""
    engine = engine_of(record)
    if engine is None:
        return
    await oci.delete(engine, bundle_of(ctx, record, engine))
    if record.cgroup_path:
        with contextlib.suppress(OSError):
            ctx.cgroups.kill(record.cgroup_path)


async def delete_strays(ctx: Context, members: Iterable[ContainerRecord]) -> None:
    """Delete what a dead monitor had made and not started; it died between the two."""
    for member in members:
        if not member.engine:
            continue
        async with ctx.locks.hold(lock_of(member)):
            ctx.view.refresh()
            if not _is_program(ctx.view.facts(member)):
                await delete_made(ctx, member)


def _is_program(facts: Facts) -> bool:
    return facts.phase in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPING, Phase.STARTING)


async def prepare_start(ctx: Context, record: ContainerRecord) -> None:
    """Before another runtime makes a container: nothing of an earlier run is in its way."""
    engine = engine_of(record)
    if engine is None:
        return
    await delete_made(ctx, record)
    oci.forget_complaints(bundle_of(ctx, record, engine))
    pod = ctx.pod_of(record)
    parent = record.config.cgroup_parent if pod is None else pod.config.cgroup_parent
    path = ctx.cgroups.monitor_path(parent, record.group_id)
    if path:
        ctx.cgroups.update(path, _MONITOR_LIMITS)


async def after_failed_start(
    ctx: Context, record: ContainerRecord, error: EngineFailed
) -> EngineFailed:
    """`error` in the runtime's words; what it had made by then is deleted."""
    engine = engine_of(record)
    if engine is None:
        return error
    await delete_made(ctx, record)
    return oci.read_failure(engine, bundle_of(ctx, record, engine), error)
