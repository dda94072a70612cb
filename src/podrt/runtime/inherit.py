"""What a container gets from others: its pod's mounts, devices and rules, another's volumes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from podrt.errors import InvalidConfig
from podrt.model.container import (
    ContainerConfig,
    Mount,
    MountKind,
    NamespaceMode,
    Namespaces,
    Security,
)
from podrt.model.pod import PodConfig
from podrt.volumes import POD_PREFIX, volume_path

from .view import View

_FROM_OPTIONS = frozenset({"ro", "rw", "z"})


def inherit(pod: PodConfig, config: ContainerConfig) -> ContainerConfig:
    """`config` as a member of `pod`; what it has from the pod already is not added twice."""
    own_mounts, own_devices = config.mounts, config.devices
    return msgspec.structs.replace(
        config,
        mounts=(*(one for one in pod.mounts if one not in own_mounts), *own_mounts),
        devices=(*(one for one in pod.devices if one not in own_devices), *own_devices),
        security=_security(pod.security, config.security),
        namespaces=_namespaces(pod.host_namespaces, config.namespaces),
    )


def _security(pod: Security, own: Security) -> Security:
    return msgspec.structs.replace(
        own,
        no_new_privileges=own.no_new_privileges or pod.no_new_privileges,
        seccomp=own.seccomp or pod.seccomp,
        mask=tuple(dict.fromkeys((*pod.mask, *own.mask))),
        unmask=tuple(dict.fromkeys((*pod.unmask, *own.unmask))),
    )


def _namespaces(hosts: frozenset[str], own: Namespaces) -> Namespaces:
    """Where members would share a namespace that the pod has of the host, they have the host's."""
    uts, pid = own.uts, own.pid
    if "uts" in hosts and uts is NamespaceMode.POD:
        uts = NamespaceMode.HOST
    if "pid" in hosts and pid is NamespaceMode.POD:
        pid = NamespaceMode.HOST
    return msgspec.structs.replace(own, uts=uts, pid=pid)


def mounts_from(view: View, words: Sequence[str], own: Sequence[Mount]) -> tuple[Mount, ...]:
    """The binds and volumes of other containers, but for destinations of `own`.

    Shape: a word is "CONTAINER[:OPTIONS]". Raises: NotFound, Ambiguous, InvalidConfig.
    """
    found: dict[str, Mount] = {}
    for word in words:
        name, _, text = word.partition(":")
        options = tuple(option for option in text.split(",") if option)
        for option in options:
            if option not in _FROM_OPTIONS:
                reason = f"invalid option {option!r}: only z, ro and rw can be used"
                raise InvalidConfig("--volumes-from", reason)
        record = view.container(name)
        for mount in record.config.mounts:
            if mount.kind in (MountKind.BIND, MountKind.VOLUME):
                taken = _taken(view, record.group_id, mount, options)
                found.setdefault(taken.destination, taken)
    mine = {mount.destination for mount in own}
    return tuple(mount for mount in found.values() if mount.destination not in mine)


def _taken(view: View, group_id: str, mount: Mount, options: tuple[str, ...]) -> Mount:
    access = {"ro", "rw"} & set(options)
    kept = tuple(one for one in mount.options if not (access and one in ("ro", "rw")))
    taken = msgspec.structs.replace(mount, options=(*kept, *sorted(access)))
    if not mount.source.startswith(POD_PREFIX):
        return taken
    # A volume of its group is a directory for everybody else.
    path = volume_path(view.layout, group_id, mount.source)
    return msgspec.structs.replace(taken, kind=MountKind.BIND, source=path)
