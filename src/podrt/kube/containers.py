"""One Kubernetes container as podrt's configuration of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from podrt.errors import InvalidConfig, Unsupported
from podrt.linux.caps import NAMES
from podrt.model.container import (
    DEFAULT_STOP_TIMEOUT_S,
    ContainerConfig,
    Dependency,
    InitKind,
    Mount,
    NamespaceMode,
    Namespaces,
    Security,
)
from podrt.model.ids import check_name
from podrt.model.resources import Resources

from .quantities import parse_bytes, parse_millis
from .types import Container, PodSpec, ResourceRequirements, SeccompProfile, below

_PERIOD_US = 100_000
# The kernel refuses quotas below a millisecond and fewer than two shares.
_MIN_QUOTA_US = 1000
_MIN_SHARES = 2
_MAX_ID = (1 << 31) - 1
_MAX_GRACE_S = 1 << 30
_VARIABLE = re.compile(r"\$(\$|\(([^)]*)\))")


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What a container has from its pod: the pod's name, spec and edges, and its volumes."""

    pod_name: str
    spec: PodSpec
    requires: Mapping[str, tuple[Dependency, ...]]
    init_kind: InitKind
    mounts_of: Callable[[Container, str], tuple[Mount, ...]]


def container_config(
    container: Container, frame: Frame, place: str, *, is_init: bool
) -> ContainerConfig:
    """The configuration of `container`, which stands at `place` in its file.

    Raises: InvalidConfig or Unsupported naming the field.
    """
    spec = frame.spec
    grace_s = spec.termination_grace_period_seconds
    if grace_s is not None and not 0 <= grace_s <= _MAX_GRACE_S:
        raise InvalidConfig(_pod_field(place, "terminationGracePeriodSeconds"), f"{grace_s}")
    env = _env(container, place)
    return ContainerConfig(
        image=container.image,
        name=container_name(frame.pod_name, container.name, below(place, "name")),
        entrypoint=tuple(_expanded(word, env) for word in container.command) or None,
        command=_command(container, env),
        env=env,
        workdir=_absolute(container.working_dir, below(place, "workingDir")),
        user=_user(container, spec, place),
        groups=tuple(str(group) for group in spec.security_context.supplemental_groups),
        requires=frame.requires.get(container.name, ()),
        init=frame.init_kind if is_init else None,
        namespaces=_namespaces(spec),
        security=_security(container, spec, below(place, "securityContext")),
        resources=_resources(container.resources, below(place, "resources")),
        mounts=frame.mounts_of(container, place),
        sysctls={sysctl.name: sysctl.value for sysctl in spec.security_context.sysctls},
        read_only=container.security_context.read_only_root_filesystem,
        stop_timeout_s=DEFAULT_STOP_TIMEOUT_S if grace_s is None else grace_s,
    )


def container_name(pod_name: str, name: str, field: str) -> str:
    """podman's name of a pod's container: `<pod>-<container>`. Raises: InvalidConfig."""
    check_name(name, field)
    return check_name(f"{pod_name}-{name}", field)


def _pod_field(place: str, name: str) -> str:
    """A field of the pod's spec, seen from the place of a container in it."""
    return below(place[: place.rindex(".")], name)


def _command(container: Container, env: Mapping[str, str]) -> tuple[str, ...] | None:
    # A command of its own comes without the image's arguments.
    if not container.args:
        return () if container.command else None
    return tuple(_expanded(word, env) for word in container.args)


def _env(container: Container, place: str) -> dict[str, str]:
    env: dict[str, str] = {}
    for at, variable in enumerate(container.env):
        field = f"{below(place, 'env')}[{at}].name"
        if not variable.name or "=" in variable.name or "\0" in variable.name + variable.value:
            raise InvalidConfig(field, f"{variable.name!r} is not a variable's name")
        env[variable.name] = _expanded(variable.value, env)
    return env


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """`text` with $(NAME) replaced by what `env` knows; the rest stays, and $$ is a $.

    Source: Kubernetes, "Define dependent environment variables".
    """

    def value(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return env.get(match.group(2), match.group(0))

    return _VARIABLE.sub(value, text)


def _absolute(path: str, field: str) -> str:
    if path and not path.startswith("/"):
        raise InvalidConfig(field, f"{path!r} is not an absolute path")
    return path


def _user(container: Container, spec: PodSpec, place: str) -> str:
    own, pod = container.security_context, spec.security_context
    field = below(place, "securityContext")
    uid = pod.run_as_user if own.run_as_user is None else own.run_as_user
    gid = pod.run_as_group if own.run_as_group is None else own.run_as_group
    for number in (uid, gid, *pod.supplemental_groups):
        if number is not None and not 0 <= number <= _MAX_ID:
            raise InvalidConfig(field, f"{number} is not a user's or group's number")
    if own.run_as_non_root or pod.run_as_non_root:
        if uid is None:
            raise Unsupported(below(field, "runAsNonRoot"), "it needs runAsUser beside it")
        if uid == 0:
            raise InvalidConfig(below(field, "runAsUser"), "0 is root, against runAsNonRoot")
    if uid is None and gid is not None:
        raise Unsupported(below(field, "runAsGroup"), "it needs runAsUser beside it")
    return "" if uid is None else f"{uid}" if gid is None else f"{uid}:{gid}"


def _namespaces(spec: PodSpec) -> Namespaces:
    def mode(is_host: bool, otherwise: NamespaceMode) -> NamespaceMode:
        return NamespaceMode.HOST if is_host else otherwise

    return Namespaces(
        net=mode(spec.host_network, NamespaceMode.POD),
        ipc=mode(spec.host_ipc, NamespaceMode.POD),
        pid=mode(spec.host_pid, NamespaceMode.PRIVATE),
    )


def _security(container: Container, spec: PodSpec, place: str) -> Security:
    own = container.security_context
    if own.privileged and not own.allow_privilege_escalation:
        raise InvalidConfig(
            below(place, "allowPrivilegeEscalation"), "cannot be false for a privileged container"
        )
    profile = own.seccomp_profile or spec.security_context.seccomp_profile
    return Security(
        privileged=own.privileged,
        cap_add=_capabilities(own.capabilities.add, f"{place}.capabilities.add"),
        cap_drop=_capabilities(own.capabilities.drop, f"{place}.capabilities.drop"),
        no_new_privileges=not own.allow_privilege_escalation,
        seccomp=_seccomp(profile, f"{place}.seccompProfile"),
        unmask=("ALL",) if own.proc_mount == "Unmasked" else (),
    )


def _capabilities(names: Sequence[str], field: str) -> tuple[str, ...]:
    for name in names:
        if name.upper() != "ALL" and f"CAP_{name.upper().removeprefix('CAP_')}" not in NAMES:
            raise InvalidConfig(field, f"unknown capability: {name}")
    return tuple(name.lower() if name.upper() == "ALL" else name for name in names)


def _seccomp(profile: SeccompProfile | None, field: str) -> str:
    if profile is None or profile.type == "RuntimeDefault":
        return ""
    if profile.type == "Unconfined":
        return "unconfined"
    if not profile.localhost_profile.startswith("/"):
        raise InvalidConfig(below(field, "localhostProfile"), "must be an absolute path")
    return profile.localhost_profile


def _resources(wanted: ResourceRequirements, place: str) -> Resources:
    limits, requests = f"{place}.limits", f"{place}.requests"
    cpu = _optional(wanted.limits.cpu, f"{limits}.cpu", parse_millis)
    memory = _optional(wanted.limits.memory, f"{limits}.memory", parse_bytes)
    cpu_request = _optional(wanted.requests.cpu, f"{requests}.cpu", parse_millis)
    memory_request = _optional(wanted.requests.memory, f"{requests}.memory", parse_bytes)
    for request, limit, name in ((cpu_request, cpu, "cpu"), (memory_request, memory, "memory")):
        if request is not None and limit is not None and request > limit:
            raise InvalidConfig(f"{requests}.{name}", "is more than the limit")
    # A limit without a request requests as much, as in Kubernetes.
    share = cpu if cpu_request is None else cpu_request
    return Resources(
        cpu_period_us=None if cpu is None else _PERIOD_US,
        cpu_quota_us=None if cpu is None else max(_MIN_QUOTA_US, cpu * _PERIOD_US // 1000),
        cpu_shares=None if share is None else max(_MIN_SHARES, share * 1024 // 1000),
        memory_bytes=memory,
        memory_reservation_bytes=memory_request,
    )


def _optional(
    value: str | float | None, field: str, parse: Callable[[str | float, str], int]
) -> int | None:
    """The parsed quantity; none and 0 are no limit."""
    return None if value is None else parse(value, field) or None
