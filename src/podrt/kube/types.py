"""The part of Kubernetes' API that podrt honours, as types; and what it knows but does not do.

Fields that mean nothing on a single host are ignored, fields that would change what runs are
Unsupported, and all others are unknown: a misspelt field must not be dropped silently.

Source: Kubernetes API reference, v1 Pod and apps/v1 Deployment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from podrt.errors import InvalidConfig, Unsupported


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """An object in which a field podrt does not know is an error."""


Quantity = str | int | float
_T = TypeVar("_T")


class ObjectMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`metadata`; what else a cluster writes there is tolerated."""

    name: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class Capabilities(_Strict, frozen=True, kw_only=True):
    """`securityContext.capabilities`."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(_Strict, frozen=True, kw_only=True):
    """`securityContext.seccompProfile`; a localhost profile is a path on this host."""

    type: Literal["RuntimeDefault", "Unconfined", "Localhost"]
    localhost_profile: str = ""


class SecurityContext(_Strict, frozen=True, kw_only=True):
    """A container's `securityContext`."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool = False
    privileged: bool = False
    capabilities: Capabilities = Capabilities()
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool = True
    seccomp_profile: SeccompProfile | None = None
    proc_mount: Literal["Default", "Unmasked"] = "Default"


class Sysctl(_Strict, frozen=True, kw_only=True):
    """One of `securityContext.sysctls`."""

    name: str
    value: str


class PodSecurityContext(_Strict, frozen=True, kw_only=True):
    """A pod's `securityContext`, the default of its containers."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool = False
    supplemental_groups: tuple[int, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    seccomp_profile: SeccompProfile | None = None
    fs_group: int | None = None


class EnvVar(_Strict, frozen=True, kw_only=True):
    """One of `env`."""

    name: str
    value: str = ""


class Port(_Strict, frozen=True, kw_only=True):
    """One of `ports`: information only, since containers of a pod share their network."""

    container_port: int
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class Limits(_Strict, frozen=True, kw_only=True):
    """`resources.limits` and `resources.requests`."""

    cpu: Quantity | None = None
    memory: Quantity | None = None


class ResourceRequirements(_Strict, frozen=True, kw_only=True):
    """`resources`."""

    limits: Limits = Limits()
    requests: Limits = Limits()


class VolumeMount(_Strict, frozen=True, kw_only=True):
    """One of `volumeMounts`."""

    name: str
    mount_path: str
    read_only: bool = False


class Container(_Strict, frozen=True, kw_only=True):
    """A container or an init container."""

    name: str
    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    working_dir: str = ""
    ports: tuple[Port, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: tuple[VolumeMount, ...] = ()
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    security_context: SecurityContext = SecurityContext()


class EmptyDir(_Strict, frozen=True, kw_only=True):
    """A volume that lives as long as its pod."""

    medium: Literal["", "Memory"] = ""
    size_limit: Quantity | None = None


class HostPath(_Strict, frozen=True, kw_only=True):
    """A file or directory of the host."""

    path: str
    type: Literal[
        "",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
        "CharDevice",
        "BlockDevice",
    ] = ""


class Volume(_Strict, frozen=True, kw_only=True):
    """One of `volumes`: exactly one source is given."""

    name: str
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None


class HostAlias(_Strict, frozen=True, kw_only=True):
    """One of `hostAliases`: a line of /etc/hosts."""

    ip: str
    hostnames: tuple[str, ...] = ()


class PodSpec(_Strict, frozen=True, kw_only=True):
    """A pod's `spec`."""

    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    hostname: str = ""
    host_network: bool = False
    host_aliases: tuple[HostAlias, ...] = ()
    host_ipc: bool = msgspec.field(name="hostIPC", default=False)
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    share_process_namespace: bool = False
    security_context: PodSecurityContext = PodSecurityContext()
    termination_grace_period_seconds: int | None = None


class Pod(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A v1 Pod."""

    metadata: ObjectMeta
    spec: PodSpec


class PodTemplate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A Deployment's `spec.template`."""

    spec: PodSpec
    metadata: ObjectMeta = ObjectMeta()


class DeploymentSpec(_Strict, frozen=True, kw_only=True):
    """A Deployment's `spec`; how a cluster would roll it out does not matter here."""

    template: PodTemplate
    replicas: int = 1
    selector: Any = None
    strategy: Any = None
    min_ready_seconds: Any = None
    revision_history_limit: Any = None
    progress_deadline_seconds: Any = None
    paused: bool = False


class Deployment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An apps/v1 Deployment."""

    metadata: ObjectMeta
    spec: DeploymentSpec


# Scheduling, accounts and registries of a cluster, and where messages for its API server go.
_IGNORED = {
    "spec": (
        "affinity automountServiceAccountToken dnsPolicy enableServiceLinks imagePullSecrets "
        "nodeName nodeSelector preemptionPolicy priority priorityClassName schedulerName "
        "serviceAccount serviceAccountName tolerations topologySpreadConstraints"
    ),
    "container": "terminationMessagePath terminationMessagePolicy",
    "pod security": "fsGroupChangePolicy",
}
_UNSUPPORTED = {
    "spec": (
        "activeDeadlineSeconds dnsConfig ephemeralContainers hostUsers os overhead "
        "readinessGates resourceClaims resources runtimeClassName schedulingGates "
        "setHostnameAsFQDN subdomain"
    ),
    "container": (
        "envFrom lifecycle livenessProbe readinessProbe resizePolicy restartPolicy startupProbe "
        "stdin stdinOnce tty volumeDevices"
    ),
    "pod security": (
        "appArmorProfile seLinuxChangePolicy seLinuxOptions supplementalGroupsPolicy windowsOptions"
    ),
    "security": "appArmorProfile seLinuxOptions windowsOptions",
    "resources": "claims",
    "limits": "ephemeral-storage hugepages-1Gi hugepages-2Mi",
    "env": "valueFrom",
    "port": "hostIP hostPort",
    "mount": "mountPropagation recursiveReadOnly subPath subPathExpr",
    "volume": (
        "awsElasticBlockStore azureDisk azureFile cephfs cinder configMap csi downwardAPI "
        "ephemeral fc flexVolume flocker gcePersistentDisk gitRepo glusterfs image iscsi nfs "
        "persistentVolumeClaim photonPersistentDisk portworxVolume projected quobyte rbd "
        "scaleIO secret storageos vsphereVolume"
    ),
}
IGNORED = {level: frozenset(names.split()) for level, names in _IGNORED.items()}
UNSUPPORTED = {level: frozenset(names.split()) for level, names in _UNSUPPORTED.items()}
_REASONS = {
    "hostPort": "a pod's ports are not published yet",
    "readinessProbe": "health checks are not built yet",
    "livenessProbe": "health checks are not built yet",
    "startupProbe": "health checks are not built yet",
}
# Where the levels above stand below a pod's spec: field -> (level of it or of its items).
_BELOW = {
    "spec": {
        "containers": "container",
        "initContainers": "container",
        "volumes": "volume",
        "securityContext": "pod security",
    },
    "container": {
        "env": "env",
        "ports": "port",
        "volumeMounts": "mount",
        "resources": "resources",
        "securityContext": "security",
    },
    "resources": {"limits": "limits", "requests": "limits"},
}
_MAX_SHOWN = 200
_PLACE = re.compile(r" - at `(?:key in )?\$(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")


def shown(text: str) -> str:
    """`text` as it may stand in a one-line message."""
    cut = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
    return cut if cut.isprintable() else repr(cut)


def below(place: str, key: str) -> str:
    """The place of the field `key` of the object at `place` ("shop.yaml:", "shop.yaml: spec")."""
    return f"{place} {key}" if place.endswith(":") else f"{place}.{key}"


def prune(value: Any, place: str, level: str = "spec") -> Any:
    """`value`, an object of `level`, without what is ignored there.

    Raises: Unsupported naming the first field that is known and not honoured; one that is false
    or empty asks for nothing and is left out.
    """
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        path = below(place, key)
        if key in IGNORED.get(level, ()):
            continue
        if key in UNSUPPORTED.get(level, ()):
            if item:
                raise Unsupported(path, _REASONS.get(key, ""))
            continue
        next_level = _BELOW.get(level, {}).get(key)
        kept[key] = item if next_level is None else _prune_items(item, path, next_level)
    return kept


def _prune_items(value: Any, path: str, level: str) -> Any:
    if isinstance(value, list):
        return [prune(item, f"{path}[{at}]", level) for at, item in enumerate(value)]
    return prune(value, path, level)


def convert(value: Any, kind: type[_T], place: str) -> _T:
    """`value` as a `kind`. Raises: InvalidConfig naming the field below `place`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _worded(str(error), place) from None


def _worded(text: str, place: str) -> InvalidConfig:
    at = _PLACE.search(text)
    if at is not None:
        text = text[: at.start()]
        inner = at.group(1).lstrip(".")
        place = below(place, inner) if inner else place
    unknown, missing = _UNKNOWN.fullmatch(text), _MISSING.fullmatch(text)
    if unknown is not None:
        return InvalidConfig(below(place, unknown.group(1)), "unknown field")
    if missing is not None:
        return InvalidConfig(below(place, missing.group(1)), "is missing")
    reason = " ".join(text.replace("`", "").split())
    return InvalidConfig(place.removesuffix(":"), reason[:1].lower() + reason[1:])
