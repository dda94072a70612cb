"""Limits of a container or of a whole pod."""

from __future__ import annotations

import msgspec

DEFAULT_PIDS = 2048


class DeviceRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A bound for one block device, by its numbers: bytes or operations a second, or a weight."""

    major: int
    minor: int
    rate: int


class Resources(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What cgroups limit; None leaves the kernel's default.

    Units: `_us` microseconds, `_bytes` bytes; `cpu_shares` as cgroup v1 counts (1024 is one
    share); `pids_limit` -1 is unlimited; `memory_swap_bytes` is memory plus swap, -1 unlimited.
    Source: podman's --cpus, --cpu-*, --memory*, --pids-limit, --blkio-weight*, --device-read-*,
    --device-write-*.
    """

    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    memory_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swap_bytes: int | None = None
    pids_limit: int | None = None
    blkio_weight: int | None = None
    blkio_weight_devices: tuple[DeviceRate, ...] | None = None
    device_read_bps: tuple[DeviceRate, ...] | None = None
    device_write_bps: tuple[DeviceRate, ...] | None = None
    device_read_iops: tuple[DeviceRate, ...] | None = None
    device_write_iops: tuple[DeviceRate, ...] | None = None

    @property
    def is_unset(self) -> bool:
        """Whether no limit is asked for."""
        return all(value is None for value in msgspec.structs.astuple(self))


NO_LIMITS = Resources()
