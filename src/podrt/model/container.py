"""What a caller asks of a container, as a frozen value."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from .etc_files import DEFAULT_FILES, EtcFiles
from .resources import NO_LIMITS, Resources
from .userns import HOST_USERS, UserNamespace

DEFAULT_STOP_TIMEOUT_S = 10
DEFAULT_STOP_SIGNAL = 15


class DependencyKind(enum.StrEnum):
    """What a dependent waits for: the dependency started, reports healthy, or has completed."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"


class Dependency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """An edge: the container with ID (at create also the name) `on` must be `kind` first."""

    on: str
    kind: DependencyKind = DependencyKind.STARTED


class InitKind(enum.StrEnum):
    """Whether an init container runs at the first start only, or at every start."""

    ONCE = "once"
    ALWAYS = "always"


class MountKind(enum.StrEnum):
    """Where a mount's content comes from."""

    BIND = "bind"
    TMPFS = "tmpfs"
    VOLUME = "volume"
    DEVPTS = "devpts"
    RAMFS = "ramfs"


class Mount(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One mount of a container.

    `source` is a host path (bind), a volume's name (volume) or "" (all others); `options` are
    mount(8) words ("ro", "nosuid", "rprivate", "size=64m").
    """

    kind: MountKind
    destination: str
    source: str = ""
    options: tuple[str, ...] = ()


class Device(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A device node of the host given to a container; `access` is some of "rwm"."""

    source: str
    destination: str
    access: str = "rwm"


class Ulimit(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A resource limit by its short name ("nofile"); -1 is unlimited."""

    name: str
    soft: int
    hard: int


class NamespaceMode(enum.StrEnum):
    """Whose namespace a container lives in."""

    POD = "pod"
    PRIVATE = "private"
    HOST = "host"


class Namespaces(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The namespace of each type; "pod" means private where the pod does not share that type."""

    net: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    uts: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    cgroup: NamespaceMode = NamespaceMode.POD


class Security(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Privileges beside the default profile.

    `cap_add` and `cap_drop` hold names with or without CAP_, or "all"; `seccomp` is "" (the
    default profile), "unconfined" or the path of a profile; `mask` and `unmask` are paths
    ("ALL" unmasks everything).
    """

    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: str = ""
    mask: tuple[str, ...] = ()
    unmask: tuple[str, ...] = ()


NO_SECURITY = Security()


class ContainerConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A container as the caller wants it. Only `image` (or `rootfs`) is needed.

    `entrypoint` and `command` None take the image's; `pod` is a pod's ID or name, "" none;
    `user` is "uid[:gid]" or names looked up in the image; `requires` are IDs or names in the
    same pod; `stop_signal` 0 takes the image's, else TERM; `oom_score_adj` None leaves it.
    `unset_env` names variables of the image, `merge_env` has values in which $NAME is one of them;
    `device_rules` are "c 1:3 rwm"; `timezone` is a file's name below zoneinfo or "local";
    `pidfile` is written at every start that a caller makes.
    Units: `_s` seconds, `_bytes` bytes.
    """

    image: str = ""
    rootfs: str = ""
    name: str = ""
    pod: str = ""
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    workdir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    umask: int = 0o022
    hostname: str = ""
    requires: tuple[Dependency, ...] = ()
    init: InitKind | None = None
    is_infra: bool = False
    namespaces: Namespaces = Namespaces()
    userns: UserNamespace = HOST_USERS
    security: Security = NO_SECURITY
    resources: Resources = NO_LIMITS
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: Mapping[str, str] = {}
    shm_bytes: int = 64_000 << 10
    read_only: bool = False
    terminal: bool = False
    stdin_open: bool = False
    stop_signal: int = 0
    stop_timeout_s: int = DEFAULT_STOP_TIMEOUT_S
    restart_policy: str = ""
    auto_remove: bool = False
    oom_score_adj: int | None = None
    cgroup_parent: str = ""
    log_max_bytes: int = 0
    etc: EtcFiles = DEFAULT_FILES
    unset_env: tuple[str, ...] = ()
    unset_all_env: bool = False
    merge_env: Mapping[str, str] = {}
    device_rules: tuple[str, ...] = ()
    read_only_tmpfs: bool = True
    personality: str = ""
    timezone: str = ""
    pidfile: str = ""

    @property
    def has_program(self) -> bool:
        """Whether there is something to run: an infra container may only hold namespaces."""
        return not self.is_infra or self.entrypoint is not None
