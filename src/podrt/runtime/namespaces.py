"""Which namespaces a pod shares, as the kernel's flags."""

from __future__ import annotations

from podrt.model.pod import DEFAULT_SHARE, PodConfig
from podrt.store.records import PodRecord

CLONE_FLAGS = {
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "user": 0x10000000,
}
"""CLONE_NEW* of the types a monitor can hold. Source: clone(2)."""


_OF_A_PROCESS = frozenset({"pid", "cgroup"})


def shared_types(config: PodConfig) -> frozenset[str]:
    """The namespace types a pod's members share."""
    if config.infra is False:
        return frozenset()
    return DEFAULT_SHARE if config.share is None else config.share


def pod_namespace_flags(config: PodConfig) -> int:
    """CLONE_NEW* of what the pod's monitor makes; pid and cgroup come with the infra's process."""
    shared = sum(CLONE_FLAGS.get(name, 0) for name in shared_types(config))
    if config.infra and not shared and not has_infra_program(config):
        # Nobody joins it; an infra container runs as long as it has something.
        return CLONE_FLAGS["uts"]
    return shared


def has_infra_program(config: PodConfig) -> bool:
    """Whether the infra container runs something: some namespaces only a process can bring."""
    asked = bool(config.infra_command or config.infra_image)
    return asked or bool(_OF_A_PROCESS & shared_types(config))


def spaces_owner(pod: PodRecord) -> str:
    """Under which ID the journal keeps what the monitor holds.

    An infra container without a process runs while the namespaces are there.
    """
    return pod.infra_id if pod.infra_id and not has_infra_program(pod.config) else pod.id
