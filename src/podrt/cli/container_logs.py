"""`podrt logs` and `podrt pod logs`: what containers wrote, merged in time order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, PodRecord

from .flags import Parser
from .log_lines import Printer, Wanted, log_flags, show_logs
from .rows import newest_container


def logs_flags(parser: Parser) -> None:
    """Flags of `logs`."""
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="names or IDs")
    parser.switch("--latest", "-l", help="the newest container")
    log_flags(parser)


def logs(args: argparse.Namespace, settings: Settings) -> int:
    """Print what containers logged; with --follow until all have ended."""
    wanted = Wanted(args)
    if args.latest and args.containers:
        raise InvalidConfig("", "--latest and containers cannot be used together")
    if not args.latest and not args.containers:
        raise InvalidConfig("", "specify at least one container name or ID to log")
    with open_view(settings) as view:
        names = args.containers or [newest_container(view).id]
        ids = list(dict.fromkeys(view.container(name).id for name in names))

        def sources() -> Sequence[ContainerRecord]:
            found = (view.store.tables.get(ContainerRecord, one) for one in ids)
            return [record for record in found if record is not None]

        show_logs(view, sources, wanted, Printer(args, is_prefixed=len(ids) > 1))
    return 0


def pod_logs_flags(parser: Parser) -> None:
    """Flags of `pod logs`."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="name or ID")
    parser.switch("--latest", "-l", help="the newest pod")
    parser.add_argument("--container", "-c", default="", metavar="NAME", help="only this member's")
    log_flags(parser)


def pod_logs(args: argparse.Namespace, settings: Settings) -> int:
    """Print what a pod's containers logged; with --follow also of those added later."""
    wanted = Wanted(args)
    if args.latest and args.pods:
        raise InvalidConfig("", "--latest and pods cannot be used together")
    if not args.latest and not args.pods:
        raise InvalidConfig("", "specify at least one pod name or ID to log")
    if len(args.pods) > 1:
        raise InvalidConfig("", "requires exactly 1 arg")
    with open_view(settings) as view:
        pod = view.pod(args.pods[0]) if args.pods else _newest_pod(view)
        only = _member(view, pod, args.container).id if args.container else ""

        def sources() -> Sequence[ContainerRecord]:
            return [one for one in view.members(pod.id)
                    if not one.config.is_infra and only in ("", one.id)]  # fmt: skip

        is_prefixed = not only and (args.follow or len(view.members(pod.id)) > 1)
        show_logs(view, sources, wanted, Printer(args, is_prefixed=is_prefixed))
    return 0


def _newest_pod(view: View) -> PodRecord:
    pods = view.pods()
    if not pods:
        raise NotFound("pod", "the latest")
    return pods[-1]


def _member(view: View, pod: PodRecord, name: str) -> ContainerRecord:
    """The member of that name or ID. Raises: NotFound, Ambiguous."""
    try:
        found = view.container(name)
    except NotFound:
        found = None
    if found is None or found.pod_id != pod.id:
        raise NotFound("container", f"{name} is not in pod {pod.config.name}")
    return found
