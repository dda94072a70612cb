"""`podrt pod stats` and `podrt stats`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from podrt.cgroups.base import CgroupManager
from podrt.cgroups.managers import open_manager
from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound
from podrt.linux import proc
from podrt.model.ids import short_id
from podrt.model.states import ALIVE
from podrt.runtime.stats import Usage, container_usage, pod_usage
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, PodRecord

from .flags import Parser, whole_number
from .output import (
    FORMAT_HELP,
    binary_size,
    decimal_size,
    duration,
    open_format,
    print_json,
    print_table,
)

_CLEAR = "\033[2J\033[H"
_NOTHING = "--"
TOTAL = "total"
"""What stands for a container's ID in the row of a whole pod."""

_HEADS = (
    "ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET IO", "BLOCK IO", "PIDS",
    "CPU TIME", "AVG CPU %",
)  # fmt: skip
_POD_HEADS = (
    "POD", "CID", "NAME", "CPU %", "MEM USAGE/ LIMIT", "MEM %", "NET IO", "BLOCK IO", "PIDS",
)  # fmt: skip

_TEMPLATE_NAMES = {
    "ID": "id", "ContainerID": "id", "Name": "name", "CPUPerc": "cpu_percent", "CPU": "cpu_percent",
    "MemUsage": "mem_usage", "MemPerc": "mem_percent", "NetIO": "net_io", "BlockIO": "block_io",
    "PIDS": "pids", "PIDs": "pids", "UpTime": "cpu_time", "CPUTime": "cpu_time",
    "AVGCPU": "avg_cpu",
}  # fmt: skip
_TEMPLATE_HEADS = {
    "CPUPerc": "CPU %", "CPU": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %",
    "NetIO": "NET IO", "BlockIO": "BLOCK IO", "PIDs": "PIDS", "UpTime": "CPU TIME",
    "CPUTime": "CPU TIME", "AVGCPU": "AVG CPU %", "ContainerID": "CONTAINER ID",
}  # fmt: skip
_POD_TEMPLATE_HEADS = {
    "CPU": "CPU %", "MemUsage": "MEM USAGE/ LIMIT", "MemUsageBytes": "MEM USAGE/ LIMIT",
    "Mem": "MEM %", "NetIO": "NET IO", "BlockIO": "BLOCK IO",
}  # fmt: skip

Former = Mapping[str, Usage]
Look = Callable[[], list[Usage]]
Show = Callable[[Sequence[Usage], Former], None]


def stats_flags(parser: Parser) -> None:
    """Flags of `stats`."""
    parser.add_argument("names", nargs="*", metavar="CONTAINER", help="names or IDs; all that run")
    parser.switch("--all", "-a", help="also those that do not run")
    parser.switch("--latest", "-l", help="the newest container")
    _common_flags(parser)


def stats(args: argparse.Namespace, settings: Settings) -> int:
    """Show what containers use, again and again."""
    form = open_format(args.format, "stats", kind="stats")
    _check_names(args)

    def show(usages: Sequence[Usage], former: Former) -> None:
        shown = [_container_json(usage, former, args) for usage in usages]
        if form.is_json:
            print_json(shown)
            return
        if form.report is not None:
            form.report.print_rows([_by_name(one) for one in shown], _TEMPLATE_HEADS)
            return
        rows = [_container_row(usage, former, args) for usage in usages]
        print_table(_HEADS, rows, with_heads=True)

    with open_view(settings) as view:
        ids = [view.container(name).id for name in args.names]
        cgroups = open_manager(settings.cgroup_manager)
        try:
            return _repeat(args, show, lambda: _look_at_containers(view, cgroups, args, ids))
        finally:
            cgroups.close()


def _look_at_containers(
    view: View, cgroups: CgroupManager, args: argparse.Namespace, ids: Sequence[str]
) -> list[Usage]:
    view.refresh()
    if ids:
        found = [view.store.tables.get(ContainerRecord, one) for one in ids]
        chosen = [record for record in found if record is not None]
        if not chosen:
            raise NotFound("container", args.names[0])
    else:
        chosen = view.containers()
        if args.latest:
            chosen = [record for record in chosen if not record.config.is_infra][-1:]
        elif not args.all:
            chosen = [record for record in chosen if view.state(record) in ALIVE]
    return container_usage(view, cgroups, chosen)


def stats_pods_flags(parser: Parser) -> None:
    """Flags of `pod stats`."""
    parser.add_argument("names", nargs="*", metavar="POD", help="names or IDs; all that run")
    parser.switch("--all", "-a", help="also pods in which nothing runs")
    parser.switch("--latest", "-l", help="the newest pod")
    _common_flags(parser)


def stats_pods(args: argparse.Namespace, settings: Settings) -> int:
    """Show what the containers of pods use, and each pod as a whole."""
    form = open_format(args.format, "stats", kind="stats")
    _check_names(args)

    def show(usages: Sequence[Usage], former: Former) -> None:
        shown = [_pod_json(usage, former, args) for usage in usages]
        if form.is_json:
            print_json(shown)
            return
        if form.report is not None:
            form.report.print_rows(shown, _POD_TEMPLATE_HEADS)
            return
        rows = [_pod_row(usage, former, args) for usage in usages]
        print_table(_POD_HEADS, rows, with_heads=True)

    with open_view(settings) as view:
        ids = [view.pod(name).id for name in args.names]
        cgroups = open_manager(settings.cgroup_manager)
        try:
            return _repeat(args, show, lambda: _look_at_pods(view, cgroups, args, ids))
        finally:
            cgroups.close()


def _look_at_pods(
    view: View, cgroups: CgroupManager, args: argparse.Namespace, ids: Sequence[str]
) -> list[Usage]:
    view.refresh()
    if ids:
        found = [view.store.tables.get(PodRecord, one) for one in ids]
        chosen = [pod for pod in found if pod is not None]
        if not chosen:
            raise NotFound("pod", args.names[0])
    elif args.all:
        chosen = view.pods()
    elif args.latest:
        chosen = view.pods()[-1:]
    else:
        chosen = [pod for pod in view.pods() if any(map(view.has_process, view.members(pod.id)))]
    usages: list[Usage] = []
    for pod in chosen:
        members = container_usage(view, cgroups, view.members(pod.id))
        usages += [*members, pod_usage(view, cgroups, pod, members)]
    return usages


def _common_flags(parser: Parser) -> None:
    parser.add_argument("--format", default=None, metavar="FORMAT", help=FORMAT_HELP)
    parser.add_argument("--interval", "-i", default="5", metavar="SECONDS", help="between looks")
    parser.switch("--no-reset", help="do not clear the screen between looks")
    parser.switch("--no-stream", help="look once")
    parser.switch("--no-trunc", help="whole IDs")


def _check_names(args: argparse.Namespace) -> None:
    if args.all + args.latest + bool(args.names) > 1:
        raise InvalidConfig("", "--all, --latest and arguments cannot be used together")
    if (whole_number("--interval", args.interval) or 0) < 1:
        raise InvalidConfig("--interval", "it must be at least 1")


def _repeat(args: argparse.Namespace, show: Show, look: Look) -> int:
    """Look and show, until the user has seen enough."""
    former: Former = {}
    while True:
        usages = look()
        if not args.no_stream and not args.no_reset and sys.stdout.isatty():
            sys.stdout.write(_CLEAR)
        show(usages, former)
        sys.stdout.flush()
        if args.no_stream:
            return 0
        former = {usage.key: usage for usage in usages}
        time.sleep(int(args.interval))


def _id(text: str, args: argparse.Namespace) -> str:
    return text if args.no_trunc else short_id(text)


def _limit(usage: Usage) -> int:
    """What it may use: its limit if that is less than what there is."""
    limit = usage.figures.memory_limit_bytes if usage.figures is not None else None
    return min(limit or proc.memory_bytes(), proc.memory_bytes())


def _memory(usage: Usage, size: Callable[[float], str], nothing: str) -> str:
    if usage.figures is None:
        return nothing
    return f"{size(usage.figures.memory_bytes or 0)} / {size(_limit(usage))}"


def _memory_percent(usage: Usage) -> str:
    used = usage.figures.memory_bytes if usage.figures is not None else None
    return f"{100 * (used or 0) / _limit(usage):.2f}%"


def _network(usage: Usage) -> str:
    if usage.network is None:
        return f"{_NOTHING} / {_NOTHING}"
    return " / ".join(map(decimal_size, usage.network))


def _block(usage: Usage) -> str:
    figures = usage.figures
    if figures is None or figures.read_bytes is None or figures.written_bytes is None:
        return f"{_NOTHING} / {_NOTHING}"
    return f"{decimal_size(figures.read_bytes)} / {decimal_size(figures.written_bytes)}"


def _container_json(usage: Usage, former: Former, args: argparse.Namespace) -> dict[str, Any]:
    """A container in podman's field names."""
    figures = usage.figures
    return {
        "id": _id(usage.container_id, args),
        "name": usage.name,
        "cpu_time": duration(figures.cpu_ns if figures is not None else 0),
        "cpu_percent": f"{usage.cpu_percent_since(former.get(usage.key)):.2f}%",
        "avg_cpu": f"{usage.cpu_percent_of_life:.2f}%",
        "mem_usage": _memory(usage, decimal_size, "0B / 0B"),
        "mem_percent": _memory_percent(usage),
        "net_io": _network(usage),
        "block_io": _block(usage),
        "pids": str(figures.pids or 0) if figures is not None else "0",
    }


def _by_name(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the names that templates have for it."""
    return {name: shown[key] for name, key in _TEMPLATE_NAMES.items()}


def _container_row(usage: Usage, former: Former, args: argparse.Namespace) -> tuple[str, ...]:
    row = _container_json(usage, former, args)
    return tuple(
        row[name]
        for name in (
            "id", "name", "cpu_percent", "mem_usage", "mem_percent", "net_io", "block_io", "pids",
            "cpu_time", "avg_cpu",
        )
    )  # fmt: skip


def _pod_json(usage: Usage, former: Former, args: argparse.Namespace) -> dict[str, Any]:
    """A member, or the pod as a whole, in podman's field names."""
    is_idle = usage.figures is None
    cpu = f"{usage.cpu_percent_since(former.get(usage.key)):.2f}%"
    return {
        "CPU": _NOTHING if is_idle else cpu,
        "MemUsage": _memory(usage, decimal_size, "-- / --"),
        "MemUsageBytes": _memory(usage, binary_size, "-- / --"),
        "Mem": _NOTHING if is_idle else _memory_percent(usage),
        "NetIO": _network(usage),
        "BlockIO": _block(usage),
        "PIDS": str(usage.figures.pids or 0) if usage.figures is not None else _NOTHING,
        "Pod": _id(usage.pod_id, args),
        "CID": _id(usage.container_id, args) or TOTAL,
        "Name": usage.name,
    }


def _pod_row(usage: Usage, former: Former, args: argparse.Namespace) -> tuple[str, ...]:
    row = _pod_json(usage, former, args)
    names = ("Pod", "CID", "Name", "CPU", "MemUsage", "Mem", "NetIO", "BlockIO", "PIDS")
    return tuple(row[name] for name in names)
