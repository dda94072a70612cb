"""Which namespaces a pod shares, as the kernel's flags."""

from __future__ import annotations

from podrt.model.pod import DEFAULT_SHARE, PodConfig

CLONE_FLAGS = {
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "user": 0x10000000,
}
"""CLONE_NEW* of the types a monitor can hold. Source: clone(2)."""


def shared_types(config: PodConfig) -> frozenset[str]:
    """The namespace types a pod's members share."""
    if config.infra is False:
        return frozenset()
    return DEFAULT_SHARE if config.share is None else config.share


def pod_namespace_flags(config: PodConfig) -> int:
    """CLONE_NEW* of what the pod's monitor makes."""
    return sum(CLONE_FLAGS[name] for name in shared_types(config))
