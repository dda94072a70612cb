"""One Kubernetes container as podrt's configuration of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

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
from .types import Container, PodSpec, ResourceRequirements, SeccompProfile, below, shown

_PERIOD_US = 100_000
# The kernel refuses quotas below a millisecond and fewer than two shares.
_MIN_QUOTA_US = 1000
_MIN_SHARES = 2
_MAX_ID = (1 << 31) - 1
_MAX_GRACE_S = 1 << 30
# Far above what a kernel takes as arguments and environment of one program (6 MiB).
MAX_EXPANDED = 8 << 20
_VARIABLE = re.compile(r"\$(\$|\(([^)]*)\))")


class Frame(msgspec.Struct, kw_only=True):
    """What a container has from its pod: spec and volumes.

    `text_left` is how many more characters $(NAME) may expand to in this call of podrt: a few
    lines that name each other could otherwise fill the memory.
    """

    spec: PodSpec
    init_kind: InitKind
    mounts_of: Callable[[Container, str], tuple[Mount, ...]]
    text_left: int = MAX_EXPANDED


def container_config(
    container: Container, frame: Frame, place: str, *, is_init: bool
) -> ContainerConfig:
    """The configuration of `container`, which stands at `place` in its file.

    Its name is not yet the pod's and its own, and it requires nothing yet: see `in_pod`.
    Raises: InvalidConfig or Unsupported naming the field.
    """
    spec = frame.spec
    grace_s = spec.termination_grace_period_seconds
    if grace_s is not None and not 0 <= grace_s <= _MAX_GRACE_S:
        field = below(place[: place.rindex(".")], "terminationGracePeriodSeconds")
        raise InvalidConfig(field, f"{grace_s} is out of range")
    expand = _Expander(frame, place)
    env = _env(container, place, expand)
    return ContainerConfig(
        image=container.image,
        name=container.name,
        entrypoint=tuple(expand(word, env) for word in container.command) or None,
        command=_command(container, env, expand),
        env=env,
        workdir=_absolute(container.working_dir, below(place, "workingDir")),
        user=_user(container, spec, place),
        groups=tuple(str(group) for group in spec.security_context.supplemental_groups),
        init=frame.init_kind if is_init else None,
        namespaces=_namespaces(spec),
        security=_security(container, spec, below(place, "securityContext")),
        resources=_resources(container.resources, below(place, "resources")),
        mounts=frame.mounts_of(container, place),
        sysctls={sysctl.name: sysctl.value for sysctl in spec.security_context.sysctls},
        read_only=container.security_context.read_only_root_filesystem,
        stop_timeout_s=DEFAULT_STOP_TIMEOUT_S if grace_s is None else grace_s,
    )


def in_pod(
    config: ContainerConfig, pod_name: str, requires: Sequence[str], place: str
) -> ContainerConfig:
    """`config` in the pod `pod_name`, requiring its containers `requires`."""
    return msgspec.structs.replace(
        config,
        name=container_name(pod_name, config.name, below(place, "name")),
        requires=tuple(Dependency(f"{pod_name}-{need}") for need in requires),
    )


def container_name(pod_name: str, name: str, field: str) -> str:
    """podman's name of a pod's container: `<pod>-<container>`. Raises: InvalidConfig."""
    check_name(name, field)
    return check_name(f"{pod_name}-{name}", field)


class _Expander:
    """Replaces $(NAME) by what an environment knows; the rest stays, and $$ is a $.

    Source: Kubernetes, "Define dependent environment variables". Raises: InvalidConfig.
    """

    def __init__(self, frame: Frame, place: str) -> None:
        self._frame = frame
        self._place = place

    def __call__(self, text: str, env: Mapping[str, str]) -> str:
        if "$" not in text:
            return text
        pieces = list(self._pieces(text, env))
        return "".join(pieces)

    def _pieces(self, text: str, env: Mapping[str, str]) -> Iterator[str]:
        at = 0
        for match in _VARIABLE.finditer(text):
            yield self._counted(text[at : match.start()])
            is_dollar = match.group(1) == "$"
            yield self._counted("$" if is_dollar else env.get(match.group(2), match.group(0)))
            at = match.end()
        yield self._counted(text[at:])

    def _counted(self, piece: str) -> str:
        self._frame.text_left -= len(piece)
        if self._frame.text_left < 0:
            raise InvalidConfig(
                self._place, f"its variables expand to more than {MAX_EXPANDED >> 20} MiB"
            )
        return piece


def _command(
    container: Container, env: Mapping[str, str], expand: _Expander
) -> tuple[str, ...] | None:
    # A command of its own comes without the image's arguments.
    if not container.args:
        return () if container.command else None
    return tuple(expand(word, env) for word in container.args)


def _env(container: Container, place: str, expand: _Expander) -> dict[str, str]:
    env: dict[str, str] = {}
    for at, variable in enumerate(container.env):
        field = f"{below(place, 'env')}[{at}].name"
        if not variable.name or "=" in variable.name or "\0" in variable.name + variable.value:
            raise InvalidConfig(field, f"{shown(variable.name)!r} is not a variable's name")
        env[variable.name] = expand(variable.value, env)
    return env


def _absolute(path: str, field: str) -> str:
    if path and not path.startswith("/"):
        raise InvalidConfig(field, f"{shown(path)} is not an absolute path")
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
        pid=mode(spec.host_pid, NamespaceMode.POD),
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
            raise InvalidConfig(field, f"unknown capability: {shown(name)}")
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
