"""Limits as the specification writes them."""

from __future__ import annotations

import functools

import msgspec

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci
from podrt.model.resources import DEFAULT_PIDS, DeviceRate, Resources

DEFAULT_PERIOD_US = 100_000


@functools.lru_cache(maxsize=256)
def effective(wanted: Resources) -> Resources:
    """A container's limits with podman's defaults: 2048 processes, as much swap as memory.

    A pids limit of 0 or below is none.
    """
    pids = DEFAULT_PIDS if wanted.pids_limit is None else wanted.pids_limit
    memory, swap = wanted.memory_bytes, wanted.memory_swap_bytes
    if swap is None and memory is not None and memory > 0:
        swap = memory * 2
    return msgspec.structs.replace(
        wanted, pids_limit=pids if pids > 0 else -1, memory_swap_bytes=swap
    )


@functools.lru_cache(maxsize=64)
def limits(wanted: Resources, devices: tuple[oci.DeviceRule, ...]) -> oci.Resources:
    """`linux.resources`; podman's default pids limit where none is asked for.

    Raises: InvalidConfig.
    """
    wanted = effective(wanted)
    return oci.Resources(
        devices=devices,
        memory=_memory(wanted),
        cpu=_cpu(wanted),
        pids=oci.Pids(limit=wanted.pids_limit or -1),
        block_io=_block_io(wanted),
    )


def _block_io(wanted: Resources) -> oci.BlockIo | None:
    weight = wanted.blkio_weight
    found = oci.BlockIo(
        weight=None if weight is None else _within("--blkio-weight", weight, 10, 1000),
        weight_device=tuple(
            oci.WeightDevice(
                major=one.major,
                minor=one.minor,
                weight=_within("--blkio-weight-device", one.rate, 10, 1000),
            )
            for one in wanted.blkio_weight_devices or ()
        ),
        throttle_read_bps_device=_throttles(wanted.device_read_bps),
        throttle_write_bps_device=_throttles(wanted.device_write_bps),
        throttle_read_iops_device=_throttles(wanted.device_read_iops),
        throttle_write_iops_device=_throttles(wanted.device_write_iops),
    )
    return None if found == oci.BlockIo() else found


def _throttles(rates: tuple[DeviceRate, ...] | None) -> tuple[oci.ThrottleDevice, ...]:
    return tuple(
        oci.ThrottleDevice(major=one.major, minor=one.minor, rate=one.rate) for one in rates or ()
    )


def _within(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidConfig(field, f"{value} is not between {least} and {most}")
    return value


def _memory(wanted: Resources) -> oci.Memory | None:
    limit, swap = wanted.memory_bytes, wanted.memory_swap_bytes
    if limit is None and swap is None and wanted.memory_reservation_bytes is None:
        return None
    if swap is not None and limit is None:
        raise InvalidConfig("--memory-swap", "--memory must be set when --memory-swap is set")
    if swap is not None and limit is not None and swap != -1 and swap < limit:
        raise InvalidConfig("--memory-swap", "is lower than --memory")
    return oci.Memory(limit=limit, reservation=wanted.memory_reservation_bytes, swap=swap)


def _cpu(wanted: Resources) -> oci.Cpu | None:
    period = wanted.cpu_period_us
    if wanted.cpu_quota_us is not None and period is None:
        period = DEFAULT_PERIOD_US
    cpu = oci.Cpu(
        shares=wanted.cpu_shares,
        quota=wanted.cpu_quota_us,
        period=period,
        cpus=wanted.cpuset_cpus or "",
        mems=wanted.cpuset_mems or "",
    )
    return None if cpu == oci.Cpu() else cpu
