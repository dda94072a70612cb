"""Copies of pods and of containers: the same wishes under new names, with what is asked besides."""

from __future__ import annotations

import msgspec

from podrt.errors import InvalidConfig, InvalidState
from podrt.model.container import ContainerConfig, Dependency
from podrt.model.pod import PodConfig
from podrt.model.resources import Resources
from podrt.model.userns import HOST_USERS
from podrt.store.records import ContainerRecord, PodRecord
from podrt.store.tables import Tables

from . import create
from .context import Context
from .update import merged

_SUFFIX = "-clone"
_PLAIN = PodConfig()


async def clone_pod(ctx: Context, pod_id: str, given: PodConfig) -> PodRecord:
    """A pod like this one with copies of its containers; `given` says what is otherwise.

    Raises: Removed, InvalidState, and what `create_pod` raises.
    """
    ctx.check_open()
    pod = ctx.load_pod(pod_id)
    if pod.removing:
        raise InvalidState("clone", f"pod {pod.config.name}", "it is being removed")
    members = [member for member in ctx.view.members(pod_id) if not member.config.is_infra]
    taken: set[str] = set()
    name = given.name or _free_name(ctx.store.tables, pod.config.name, taken)
    config = _with_changes(pod, given, name)
    names = {
        member.id: _free_name(ctx.store.tables, member.config.name, taken) for member in members
    }
    containers = [_member(member, names) for member in members]
    return await create.create_pod(ctx, config, containers)


def _with_changes(pod: PodRecord, given: PodConfig, name: str) -> PodConfig:
    old = pod.config
    foreign = given.host_namespaces - (old.share or frozenset()) - old.host_namespaces
    if foreign:
        kind = min(foreign)
        raise InvalidConfig(f"--{kind}", f"the pod does not share {kind}: no member would be in it")
    # A pod without a host name of its own has its name.
    hostname = given.hostname or ("" if old.hostname == old.name else old.hostname)
    plain = {
        field: getattr(given, field)
        for field in ("infra_command", "cgroup_parent", "shm_bytes", "restart_policy", "userns")
        if getattr(given, field) != getattr(_PLAIN, field)
    }
    security = old.security if given.security == _PLAIN.security else given.security
    return msgspec.structs.replace(
        old,
        name=name,
        namespace=pod.namespace,
        hostname=hostname,
        infra_name=given.infra_name,
        labels={**old.labels, **given.labels},
        sysctls={**old.sysctls, **given.sysctls},
        resources=merged(old.resources, given.resources),
        host_namespaces=old.host_namespaces | given.host_namespaces,
        mounts=(*old.mounts, *(one for one in given.mounts if one not in old.mounts)),
        devices=(*old.devices, *(one for one in given.devices if one not in old.devices)),
        security=security,
        **plain,
    )


def _member(record: ContainerRecord, names: dict[str, str]) -> ContainerConfig:
    """A member as it was asked for; its dependencies are the copies of what they were."""
    config = record.config
    requires = tuple(Dependency(names.get(edge.on, edge.on), edge.kind) for edge in config.requires)
    return msgspec.structs.replace(
        config, name=names[record.id], pod="", requires=requires, pidfile=""
    )


async def clone_container(
    ctx: Context, container_id: str, *, name: str, image: str, pod: str | None, limits: Resources
) -> ContainerRecord:
    """A container like this one; `pod` None leaves it where it is, `name` "" has one made up.

    Raises: Removed, InvalidState, and what `create_container` raises.
    """
    ctx.check_open()
    record = ctx.load_container(container_id)
    config = record.config
    if config.is_infra:
        raise InvalidState("clone", f"container {config.name}", "it is an infra container")
    moves = pod is not None and ctx.view.pod(pod).id != record.pod_id
    changed = msgspec.structs.replace(
        config,
        name=name or _free_name(ctx.store.tables, config.name, set()),
        image=image or config.image,
        rootfs="" if image else config.rootfs,
        pod=record.pod_id if pod is None else pod,
        resources=merged(config.resources, limits),
        pidfile="",
    )
    if moves:
        changed = msgspec.structs.replace(changed, cgroup_parent="", userns=HOST_USERS)
    return await create.create_container(ctx, changed)


def _free_name(tables: Tables, name: str, taken: set[str]) -> str:
    """The first of "NAME-clone", "NAME-clone1", ... that nobody has; it is taken then."""
    stem, found, _ = name.rpartition(_SUFFIX)
    base = (stem if found else name) + _SUFFIX
    number = 0
    while True:
        candidate = f"{base}{number or ''}"
        if tables.id_of_name(candidate) is None and candidate not in taken:
            taken.add(candidate)
            return candidate
        number += 1
