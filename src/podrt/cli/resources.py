"""The flags that limit a container or a pod, and the limits they ask for."""

from __future__ import annotations

import argparse

from podrt.errors import InvalidConfig
from podrt.model.resources import Resources

from .flags import Parser, size_bytes, whole_number

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
    )


def cpu_quota_us(text: str) -> int:
    """Microseconds in each 100 ms for a number of processors. Raises: InvalidConfig."""
    try:
        number = float(text)
    except ValueError:
        raise InvalidConfig("--cpus", f"{text!r} is no number") from None
    if not 0 < number < 1_000_000:
        raise InvalidConfig("--cpus", f"{text} is not above 0")
    return round(number * _PERIOD_US)
