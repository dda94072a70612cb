"""The flags that limit a container or a pod, and the limits they ask for."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Sequence

from podrt.errors import InvalidConfig
from podrt.model.resources import DeviceRate, Resources

from .flags import Parser, size_bytes, split_list, whole_number

_PERIOD_US = 100_000


def add_limit_flags(parser: Parser) -> None:
    """podman's limit flags."""
    for name, metavar, text in (
        ("--cpus", "NUMBER", "processors, also a part of one"),
        ("--cpu-period", "MICROSECONDS", "length of a scheduling period"),
        ("--cpu-quota", "MICROSECONDS", "time on a processor in a period"),
        ("--cpuset-cpus", "LIST", "processors to run on"),
        ("--cpuset-mems", "LIST", "memory nodes to use"),
        ("--memory-reservation", "BYTES", "memory to be left under pressure"),
        ("--memory-swap", "BYTES", "memory and swap together; -1 unlimited"),
        ("--blkio-weight", "NUMBER", "share of block input and output"),
    ):
        parser.add_argument(name, default=None, metavar=metavar, help=text)
    for name, metavar, text in (
        ("--blkio-weight-device", "DEVICE:WEIGHT", "share of one device"),
        ("--device-read-bps", "DEVICE:BYTES", "bytes a second to read from a device"),
        ("--device-write-bps", "DEVICE:BYTES", "bytes a second to write to a device"),
        ("--device-read-iops", "DEVICE:NUMBER", "reads a second from a device"),
        ("--device-write-iops", "DEVICE:NUMBER", "writes a second to a device"),
    ):
        parser.many(name, metavar=metavar, help=text)
    parser.add_argument("--cpu-shares", "-c", default=None, metavar="NUMBER", help="share of time")
    parser.add_argument("--memory", "-m", default=None, metavar="BYTES", help="memory")


def limits_of(args: argparse.Namespace, pids_limit: str | None = None) -> Resources:
    """The limits that the flags ask for. Raises: InvalidConfig."""
    quota = whole_number("--cpu-quota", args.cpu_quota)
    period = whole_number("--cpu-period", args.cpu_period)
    if args.cpus is not None:
        if quota is not None or period is not None:
            raise InvalidConfig("--cpus", "cannot be used with --cpu-period or --cpu-quota")
        quota, period = cpu_quota_us(args.cpus), _PERIOD_US
    return Resources(
        cpu_quota_us=quota,
        cpu_period_us=period,
        cpu_shares=whole_number("--cpu-shares", args.cpu_shares),
        cpuset_cpus=args.cpuset_cpus,
        cpuset_mems=args.cpuset_mems,
        memory_bytes=size_bytes("--memory", args.memory),
        memory_reservation_bytes=size_bytes("--memory-reservation", args.memory_reservation),
        memory_swap_bytes=size_bytes("--memory-swap", args.memory_swap),
        pids_limit=whole_number("--pids-limit", pids_limit),
        blkio_weight=whole_number("--blkio-weight", args.blkio_weight),
        blkio_weight_devices=_rates("--blkio-weight-device", args.blkio_weight_device),
        device_read_bps=_rates("--device-read-bps", args.device_read_bps),
        device_write_bps=_rates("--device-write-bps", args.device_write_bps),
        device_read_iops=_rates("--device-read-iops", args.device_read_iops),
        device_write_iops=_rates("--device-write-iops", args.device_write_iops),
    )


def _rates(flag: str, words: Sequence[str]) -> tuple[DeviceRate, ...] | None:
    """DEVICE:RATE words; the rate is a size only where bytes are counted."""
    return tuple(_rate(flag, word) for word in split_list(words)) or None


def _rate(flag: str, word: str) -> DeviceRate:
    path, _, text = word.rpartition(":")
    if not path.startswith("/") or not text:
        raise InvalidConfig(flag, f"bad format: {word!r} is not DEVICE:RATE")
    rate = size_bytes(flag, text) if flag.endswith("-bps") else whole_number(flag, text)
    if rate is None or rate < 0:
        raise InvalidConfig(flag, f"invalid rate for device: {word}")
    try:
        status = os.stat(path)
    except OSError as exc:
        raise InvalidConfig(flag, f"{path}: {os.strerror(exc.errno or 0)}") from exc
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidConfig(flag, f"{path} is no block device")
    return DeviceRate(os.major(status.st_rdev), os.minor(status.st_rdev), rate)


def cpu_quota_us(text: str) -> int:
    """Microseconds in each 100 ms for a number of processors. Raises: InvalidConfig."""
    try:
        number = float(text)
    except ValueError:
        raise InvalidConfig("--cpus", f"{text!r} is no number") from None
    if not 0 < number < 1_000_000:
        raise InvalidConfig("--cpus", f"{text} is not above 0")
    return round(number * _PERIOD_US)
