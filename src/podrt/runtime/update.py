"""Changing limits and restart policies of pods and containers that exist, running or not.

The kernel is asked first: what it refuses is an error that changes nothing, what it takes is
written to the log and holds for every later start. Monitors are told last: one that ends before
leaves that to the next one, or to the same update once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Set
from typing import Any

import msgspec

from podrt.cgroups import knobs
from podrt.errors import InvalidConfig, InvalidState, PodrtError
from podrt.linux import files
from podrt.model import runtimespec as oci
from podrt.model.resources import DeviceRate, Resources
from podrt.model.restarts import parse_restart
from podrt.model.verbs import Verb
from podrt.spec import resources
from podrt.store.records import ContainerRecord, Op, PodRecord, Put
from podrt.store.tables import Tables

from .claims import claim
from .context import Context
from .foreign import bundle_of, engine_of
from .group import members_of, open_group
from .policies import is_ordinary, tell_policy
from .prepare import check_restart, device_rules
from .teardown import parent_of

# The kernel's value for "none"; what is missing here cannot be set back.
_NO_LIMIT = {
    "cpu_quota_us": -1,
    "cpu_period_us": 100_000,
    "cpu_shares": 1024,
    "memory_bytes": -1,
    "memory_swap_bytes": -1,
    "pids_limit": -1,
}

_encode_json = msgspec.json.Encoder().encode


def merged(old: Resources, new: Resources) -> Resources:
    """`old` with what `new` sets.

    Memory and swap go together: swap that nobody asked for follows the memory limit.
    """
    given = {
        name: value for name in new.__struct_fields__ if (value := getattr(new, name)) is not None
    }
    return msgspec.structs.replace(old, **given)


async def update_container(
    ctx: Context, container_id: str, limits: Resources, restart: str | None = None
) -> None:
    """Give a container new limits and, if it is not None, another restart policy.

    Raises: InvalidConfig, Unsupported, InvalidState, Removed.
    """
    ctx.check_open()
    group_id = ctx.group_id(ctx.load_container(container_id))
    async with claim(ctx, group_id, Verb.UPDATE):
        record = ctx.load_container(container_id)
        what = f"container {record.config.name}"
        if record.config.is_infra:
            raise InvalidState("update", f"infra {what}", "its pod is updated instead")
        if record.removing:
            raise InvalidState("update", what, "it is being removed")
        changes: dict[str, Any] = {}
        if restart is not None:
            changes["restart_policy"] = restart
            check_restart(msgspec.structs.replace(record.config, restart_policy=restart))
        if not limits.is_unset:
            changes["resources"] = _limit_container(ctx, record, limits)

        def build(tables: Tables) -> list[Op]:
            current = tables.get(ContainerRecord, container_id) or record
            config = msgspec.structs.replace(current.config, **changes)
            return [Put(msgspec.structs.replace(current, config=config))]

        await ctx.commit(build)
        if restart is not None:
            await _tell_policies(ctx, group_id, parent_of(ctx, record), {container_id})


def _limit_container(ctx: Context, record: ContainerRecord, limits: Resources) -> Resources:
    """Limit its cgroup and its specification; returns all its limits."""
    if not record.cgroup_path:
        raise InvalidConfig("", f"container {record.config.name} has no cgroup to limit")
    old = record.config.resources
    wanted = merged(old, limits)
    # Says what is wrong with the two of them together before anything is touched.
    found = resources.limits(wanted, device_rules(record.config))
    _turn(ctx, record.cgroup_path, resources.effective(old), resources.effective(wanted))
    _rewrite_specs(ctx, record, found)
    return wanted


async def update_pod(
    ctx: Context, pod_id: str, limits: Resources, restart: str | None = None
) -> None:
    """Give a pod's cgroup new limits and its members, with `restart`, another default policy.

    Raises: InvalidConfig, Unsupported, InvalidState, Removed.
    """
    ctx.check_open()
    async with claim(ctx, pod_id, Verb.UPDATE):
        pod = ctx.load_pod(pod_id)
        if pod.removing:
            raise InvalidState("update", f"pod {pod.config.name}", "it is being removed")
        changes: dict[str, Any] = {}
        if restart is not None:
            changes["restart_policy"] = restart
            parse_restart(restart)
        if not limits.is_unset:
            changes["resources"] = _limit_pod(ctx, pod, limits)

        def build(tables: Tables) -> list[Op]:
            current = tables.get(PodRecord, pod_id) or pod
            config = msgspec.structs.replace(current.config, **changes)
            return [Put(msgspec.structs.replace(current, config=config))]

        await ctx.commit(build)
        if restart is not None:
            members = {one.id for one in ctx.view.members(pod_id) if not one.config.restart_policy}
            await _tell_policies(ctx, pod_id, pod.config.cgroup_parent, members)


def _limit_pod(ctx: Context, pod: PodRecord, limits: Resources) -> Resources:
    """Limit its cgroup; returns all its limits."""
    if not pod.cgroup_path:
        raise InvalidConfig("", f"pod {pod.config.name} has no cgroup of its own to limit")
    old = pod.config.resources
    wanted = merged(old, limits)
    _turn(ctx, pod.cgroup_path, old, wanted)
    return wanted


async def _tell_policies(
    ctx: Context, group_id: str, cgroup_parent: str, concerned: Set[str]
) -> None:
    """Tell their monitor the policies of those that run or wait; the others' starts do.

    Where it died another one is started: who waits would never be told that there is nothing to
    wait for. Raises: MonitorGone, EngineFailed.
    """

    def unfinished() -> list[ContainerRecord]:
        ctx.view.refresh()
        members = [one for one in members_of(ctx.store.tables, group_id) if one.id in concerned]
        kept = [one for one in members if is_ordinary(one) and not one.removing]
        return [one for one in kept if ctx.view.is_unfinished(one)]

    if not unfinished():
        return
    async with open_group(ctx, group_id, cgroup_parent) as monitor:
        for member in unfinished():
            await tell_policy(ctx, monitor, member, ctx.view.facts(member))


def _turn(ctx: Context, path: str, old: Resources, new: Resources) -> None:
    """Limit a cgroup, if it is there; when it refuses a part it gets back what it had."""
    knobs.check(new)
    if not ctx.cgroups.exists(path):
        return
    try:
        ctx.cgroups.update(path, new)
    except PodrtError:
        with contextlib.suppress(PodrtError):
            ctx.cgroups.update(path, _undoing(old, new))
        raise


def _undoing(old: Resources, new: Resources) -> Resources:
    """What sets back all that `new` sets: to the old limit or, if there was none, to none."""
    given = {
        name: value
        if (value := getattr(old, name)) is not None
        else _no_limit(name, getattr(new, name))
        for name in new.__struct_fields__
        if getattr(new, name) is not None
    }
    return Resources(**given)


def _no_limit(name: str, given: object) -> Any:
    if isinstance(given, tuple) and name != "blkio_weight_devices":
        return tuple(DeviceRate(one.major, one.minor, 0) for one in given) or None
    return _NO_LIMIT.get(name)


def _rewrite_specs(ctx: Context, record: ContainerRecord, limits: oci.Resources) -> None:
    """The specification is what other runtimes start it from."""
    engine = engine_of(record)
    bundles = [] if engine is None else [bundle_of(ctx, record, engine).config]
    for path in (ctx.layout.spec(record.id), *bundles):
        with open(path, "rb") as file:
            spec = msgspec.json.decode(file.read(), type=oci.Spec)
        if spec.linux is not None:
            linux = msgspec.structs.replace(spec.linux, resources=limits)
            spec = msgspec.structs.replace(spec, linux=linux)
            files.write_atomically(path, _encode_json(spec), 0o600)
