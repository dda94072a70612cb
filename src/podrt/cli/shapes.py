"""What listings and inspect show of an object, in podman's field names."""

from __future__ import annotations

import math
import time
from typing import Any

from podrt.model.container import ContainerConfig
from podrt.model.ids import short_id
from podrt.model.image import Image
from podrt.model.restarts import parse_restart
from podrt.model.states import ALIVE, PODMAN_WORDS, ContainerState, Facts
from podrt.runtime.namespaces import shared_types
from podrt.runtime.view import View
from podrt.store.records import ContainerRecord, PodRecord

from .output import age, rfc3339
from .users_shape import users_of

_NEVER = "0001-01-01T00:00:00Z"


def state_word(state: ContainerState) -> str:
    """A state in podman's words."""
    return PODMAN_WORDS.get(state, str(state))


def status_text(state: ContainerState, facts: Facts) -> str:
    """The STATUS column: what it does and since when."""
    if state in ALIVE:
        word = "Up" if state is not ContainerState.PAUSED else "Paused"
        return f"{word} {age(facts.started_at_ns).removesuffix(' ago')}"
    if state is ContainerState.RESTARTING:
        left_s = max(0, math.ceil((facts.due_at_ns - time.time_ns()) / 10**9))
        code = "unknown" if facts.code_unknown else str(facts.exit_code)
        return f"Restarting ({code}) in {left_s} s"
    if state in (ContainerState.STOPPED, ContainerState.EXITED):
        code = "unknown" if facts.code_unknown else str(facts.exit_code)
        # Of what ended unseen (a reboot, nobody watched) nobody knows when.
        since = f" {age(facts.finished_at_ns)}" if facts.finished_at_ns else ""
        return f"Exited ({code}){since}"
    return state_word(state).capitalize()


def pod_row(view: View, pod: PodRecord) -> dict[str, Any]:
    """A pod in `pod ps --format json`."""
    members = view.members(pod.id)
    return {
        "Cgroup": pod.config.cgroup_parent,
        "Containers": [
            {
                "Id": member.id,
                "Names": member.config.name,
                "Status": state_word(view.state(member)),
                "RestartCount": view.facts(member).restarts,
            }
            for member in members
        ],
        "Created": rfc3339(pod.created_at_ns),
        "Id": pod.id,
        "InfraId": pod.infra_id,
        "Name": pod.config.name,
        "Namespace": pod.namespace,
        "Networks": [],
        "Status": str(view.pod_state(pod)),
        "Labels": dict(pod.config.labels),
    }


def pod_document(view: View, pod: PodRecord) -> dict[str, Any]:
    """A pod in `pod inspect`. A member that cannot be read shows `unknown`."""
    members = view.members(pod.id)
    limits = pod.config.resources
    return {
        "Id": pod.id,
        "Name": pod.config.name,
        "Namespace": pod.namespace,
        "Created": rfc3339(pod.created_at_ns),
        "ExitPolicy": str(pod.config.exit_policy),
        "State": str(view.pod_state(pod)),
        "Hostname": pod.config.hostname,
        "Labels": dict(pod.config.labels),
        "CreateCgroup": pod.config.use_pod_cgroup,
        "CgroupParent": pod.config.cgroup_parent,
        "CgroupPath": pod.cgroup_path,
        "CreateInfra": bool(pod.infra_id),
        "InfraContainerID": pod.infra_id,
        "SharedNamespaces": sorted(shared_types(pod.config)),
        "RestartPolicy": parse_restart(pod.config.restart_policy).name,
        "NumContainers": len(members),
        "Containers": [
            {
                "Id": member.id,
                "Name": member.config.name,
                "State": _readable_state(view, member),
                "Requires": [edge.on for edge in member.config.requires],
            }
            for member in members
        ],
        "cpu_quota": limits.cpu_quota_us or 0,
        "cpu_period": limits.cpu_period_us or 0,
        "cpu_shares": limits.cpu_shares or 0,
        "cpuset_cpus": limits.cpuset_cpus or "",
        "memory_limit": limits.memory_bytes or 0,
        "memory_swap": limits.memory_swap_bytes or 0,
        "blkio_weight": limits.blkio_weight or 0,
        "LockNumber": pod.lock,
    }


def _readable_state(view: View, member: ContainerRecord) -> str:
    try:
        return state_word(view.state(member))
    except Exception:
        return str(ContainerState.UNKNOWN)


def container_row(view: View, record: ContainerRecord) -> dict[str, Any]:
    """A container in `ps --format json`."""
    state, facts = view.state(record), view.facts(record)
    pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
    is_alive = state in ALIVE
    return {
        "AutoRemove": record.config.auto_remove,
        "Command": list(record.config.command or ()),
        "Created": record.created_at_ns // 10**9,
        "CreatedAt": age(record.created_at_ns),
        "CreatedHuman": age(record.created_at_ns),
        "Exited": bool(facts.finished_at_ns) and not is_alive,
        "ExitedAt": facts.finished_at_ns // 10**9,
        "ExitCode": 0 if is_alive else facts.exit_code,
        "Id": record.id,
        "Image": record.config.image,
        "ImageID": record.image_id,
        "IsInfra": record.config.is_infra,
        "Labels": dict(record.config.labels),
        "Mounts": [mount.destination for mount in record.config.mounts],
        "Names": [record.config.name],
        "Namespaces": {},
        "Networks": [],
        "Pid": facts.pid if is_alive else 0,
        "Pod": record.pod_id,
        "PodName": pod.config.name if pod is not None else "",
        "Ports": None,
        "Restarts": facts.restarts,
        "StartedAt": facts.started_at_ns // 10**9,
        "State": state_word(state),
        "Status": status_text(state, facts),
    }


def container_document(view: View, record: ContainerRecord) -> dict[str, Any]:
    """A container in `inspect`."""
    state, facts = view.state(record), view.facts(record)
    config = record.config
    policy = view.restart_policy(record)
    is_alive = state in ALIVE
    return {
        "Id": record.id,
        "Created": rfc3339(record.created_at_ns),
        "Name": config.name,
        "Image": record.image_id,
        "ImageName": config.image,
        "Pod": record.pod_id,
        "IsInfra": config.is_infra,
        "State": {
            "Status": state_word(state),
            "Running": state is ContainerState.RUNNING,
            "Paused": state is ContainerState.PAUSED,
            "Restarting": state is ContainerState.RESTARTING,
            "RestartAt": rfc3339(facts.due_at_ns) if facts.due_at_ns else _NEVER,
            "OOMKilled": facts.oom_killed,
            "Pid": facts.pid if is_alive else 0,
            "ExitCode": 0 if is_alive else facts.exit_code,
            "ExitCodeKnown": not facts.code_unknown,
            "StartedAt": rfc3339(facts.started_at_ns) if facts.started_at_ns else _NEVER,
            "FinishedAt": rfc3339(facts.finished_at_ns) if facts.finished_at_ns else _NEVER,
            "CgroupPath": record.cgroup_path,
            "Runs": max(record.run, facts.run),
        },
        "RestartCount": facts.restarts,
        "Dependencies": [edge.on for edge in config.requires],
        "LogPath": view.layout.log(record.id),
        "OCIConfigPath": view.layout.spec(record.id),
        "Mounts": [_mount(mount) for mount in config.mounts],
        "Config": _config(config),
        "HostConfig": {
            **_host_config(config),
            "RestartPolicy": {"Name": policy.name, "MaximumRetryCount": policy.most},
            **users_of(view, record),
        },
        "LockNumber": record.lock,
    }


def _mount(mount: Any) -> dict[str, Any]:
    return {
        "Type": str(mount.kind),
        "Source": mount.source,
        "Destination": mount.destination,
        "Options": list(mount.options),
        "RW": "ro" not in mount.options,
    }


def _config(config: ContainerConfig) -> dict[str, Any]:
    return {
        "Hostname": config.hostname,
        "User": config.user,
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "Cmd": list(config.command or ()),
        "Entrypoint": list(config.entrypoint or ()),
        "WorkingDir": config.workdir or "/",
        "Labels": dict(config.labels),
        "Annotations": dict(config.annotations),
        "StopSignal": config.stop_signal or 15,
        "StopTimeout": config.stop_timeout_s,
        "Umask": f"{config.umask:04o}",
        "InitContainer": str(config.init or ""),
    }


def _host_config(config: ContainerConfig) -> dict[str, Any]:
    limits = config.resources
    return {
        "Privileged": config.security.privileged,
        "ReadonlyRootfs": config.read_only,
        "CapAdd": list(config.security.cap_add),
        "CapDrop": list(config.security.cap_drop),
        "AutoRemove": config.auto_remove,
        "Memory": limits.memory_bytes or 0,
        "MemorySwap": limits.memory_swap_bytes or 0,
        "MemoryReservation": limits.memory_reservation_bytes or 0,
        "CpuQuota": limits.cpu_quota_us or 0,
        "CpuPeriod": limits.cpu_period_us or 0,
        "CpuShares": limits.cpu_shares or 0,
        "CpusetCpus": limits.cpuset_cpus or "",
        "CpusetMems": limits.cpuset_mems or "",
        "PidsLimit": limits.pids_limit or 0,
        "ShmSize": config.shm_bytes,
        "CgroupParent": config.cgroup_parent,
    }


def image_row(image: Image) -> dict[str, Any]:
    """An image in `image ls --format json`."""
    return {
        "Id": image.id,
        "Names": list(image.references),
        "Digest": image.manifest_digest,
        "Size": image.size_bytes,
        "Created": image.created_at_ns // 10**9,
        "CreatedAt": rfc3339(image.created_at_ns),
        "Labels": dict(image.defaults.labels),
    }


def image_document(image: Image) -> dict[str, Any]:
    """An image in `inspect`."""
    defaults = image.defaults
    return {
        "Id": image.id,
        "Digest": image.manifest_digest,
        "RepoTags": list(image.references),
        "Created": rfc3339(image.created_at_ns),
        "Size": image.size_bytes,
        "Architecture": image.architecture,
        "Os": "linux",
        "Config": {
            "Entrypoint": list(defaults.entrypoint),
            "Cmd": list(defaults.command),
            "Env": list(defaults.env),
            "WorkingDir": defaults.workdir,
            "User": defaults.user,
            "Labels": dict(defaults.labels),
            "StopSignal": defaults.stop_signal,
        },
        "RootFS": {"Type": "layers", "Layers": [f"sha256:{layer}" for layer in image.layers]},
    }


def short_image(image: Image) -> str:
    """An image's ID as people see it."""
    return short_id(image.id)
