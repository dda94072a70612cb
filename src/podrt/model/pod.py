"""What a caller asks of a pod, as a frozen value."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from .container import NO_SECURITY, Device, Mount, Security
from .etc_files import DEFAULT_FILES, EtcFiles
from .resources import NO_LIMITS, Resources
from .userns import HOST_USERS, UserNamespace

DEFAULT_SHARE = frozenset({"ipc", "net", "uts"})
SHAREABLE = frozenset({"ipc", "net", "uts", "pid", "cgroup"})


class ExitPolicy(enum.StrEnum):
    """What becomes of a pod whose containers end."""

    CONTINUE = "continue"
    STOP = "stop"
    STOP_ANY = "stop-any"


class PodConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A pod as the caller wants it; every field may be left out.

    `share` None is the default (ipc, net, uts; nothing without an infra container); `infra`
    None makes one unless nothing is shared; `infra_command` and `infra_image` give it a program of
    its own; `use_pod_cgroup` is podman's --share-parent;
    `hostname` "" is the pod's name; `namespace` None takes the runtime's label; `userns` is for
    all members; `etc` adds to `add_hosts`; `host_namespaces` are those that members would share
    and have the host's instead ("uts", "pid"); `mounts`, `devices` and `security` are every
    member's as well.
    """

    name: str = ""
    namespace: str | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    hostname: str = ""
    share: frozenset[str] | None = None
    infra: bool | None = None
    infra_name: str = ""
    infra_command: tuple[str, ...] = ()
    infra_image: str = ""
    cgroup_parent: str = ""
    use_pod_cgroup: bool = True
    resources: Resources = NO_LIMITS
    sysctls: Mapping[str, str] = {}
    shm_bytes: int = 64_000 << 10
    exit_policy: ExitPolicy = ExitPolicy.CONTINUE
    restart_policy: str = ""
    add_hosts: tuple[str, ...] = ()
    userns: UserNamespace = HOST_USERS
    etc: EtcFiles = DEFAULT_FILES
    host_namespaces: frozenset[str] = frozenset()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    security: Security = NO_SECURITY
