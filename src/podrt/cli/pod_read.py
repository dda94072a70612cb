"""`podrt pod ps | inspect | exists`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.runtime.namespaces import shared_types
from podrt.runtime.view import View, open_view
from podrt.store.records import PodRecord

from .errors import FAILED, exit_code, print_error
from .filters import Filters, check_pod_filters, pod_matches
from .flags import Parser
from .output import FORMAT_HELP, Format, age, open_format, print_json, print_table
from .rows import POD_HEADS, pod_fields, shown_id, sort_pods
from .shapes import pod_document, pod_row, state_word

_HEADS = ("POD ID", "NAME", "STATUS", "CREATED", "INFRA ID")


def ps_flags(parser: Parser) -> None:
    """Flags of `pod ps`."""
    parser.add_argument("--format", default=None, metavar="FORMAT", help=FORMAT_HELP)
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="id, name, label, status, ctr-...")
    parser.add_argument("--sort", default="created", metavar="KEY", help="created, id, name, ...")
    parser.switch("--quiet", "-q", help="IDs only")
    parser.switch("--no-trunc", help="whole IDs")
    parser.switch("--noheading", "-n", help="no heading")
    parser.switch("--latest", "-l", help="the newest pod only")
    parser.switch("--ns", help="also cgroups and shared namespaces")
    parser.switch("--ctr-ids", help="also the IDs of the containers")
    parser.switch("--ctr-names", help="also their names")
    parser.switch("--ctr-status", help="also their states")


def ps(args: argparse.Namespace, settings: Settings) -> int:
    """List pods, newest first."""
    form = open_format(args.format, "ps", kind="pod")
    filters = Filters(args.filter)
    check_pod_filters(filters)
    with open_view(settings) as view:
        pods = [pod for pod in view.pods() if pod_matches(view, pod, filters)]
        if args.latest:
            pods = pods[-1:]
        _print(view, sort_pods(view, pods, args.sort), form, args)
    return 0


def _print(view: View, pods: list[PodRecord], form: Format, args: argparse.Namespace) -> None:
    if form.is_json:
        print_json([pod_row(view, pod) for pod in pods])
    elif form.report is not None:
        rows = [pod_fields(view, pod, whole=args.no_trunc) for pod in pods]
        form.report.print_rows(rows, None if args.noheading else POD_HEADS)
    elif args.quiet:
        # Whole in any case, as podman has it for pods (of containers it cuts them).
        for pod in pods:
            print(pod.id)
    else:
        table = [_row(view, pod, args) for pod in pods]
        print_table(_heads(args), table, with_heads=not args.noheading)


def _heads(args: argparse.Namespace) -> tuple[str, ...]:
    extra = [
        head
        for head, is_wanted in (
            ("IDS", args.ctr_ids),
            ("NAMES", args.ctr_names),
            ("STATUS", args.ctr_status),
        )
        if is_wanted
    ]
    spaces = ["CGROUP", "NAMESPACES"] if args.ns else []
    return (*_HEADS, *spaces, *(extra or ["# OF CONTAINERS"]))


def _row(view: View, pod: PodRecord, args: argparse.Namespace) -> tuple[str, ...]:
    whole = args.no_trunc
    members = view.members(pod.id)
    extra = []
    if args.ctr_ids:
        extra.append(",".join(shown_id(member.id, whole=whole) for member in members))
    if args.ctr_names:
        extra.append(",".join(member.config.name for member in members))
    if args.ctr_status:
        extra.append(",".join(state_word(view.state(member)) for member in members))
    return (
        shown_id(pod.id, whole=whole),
        pod.config.name,
        str(view.pod_state(pod)),
        age(pod.created_at_ns),
        shown_id(pod.infra_id, whole=whole),
        *([pod.config.cgroup_parent, ",".join(sorted(shared_types(pod.config)))] * args.ns),
        *(extra or [str(len(members))]),
    )


def inspect_flags(parser: Parser) -> None:
    """Flags of `pod inspect`."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="names or IDs")
    parser.add_argument("--format", "-f", default="json", metavar="FORMAT", help=FORMAT_HELP)
    parser.switch("--latest", "-l", help="the newest pod")


def inspect(args: argparse.Namespace, settings: Settings) -> int:
    """Show pods' configuration and state as JSON: a list, also of one pod or none."""
    form = open_format(args.format, "inspect", kind="pod")
    found, code = [], 0
    with open_view(settings) as view:
        words = args.pods or [pod.id for pod in view.pods()[-1:] if args.latest]
        if not words:
            raise InvalidConfig("", "you must provide the name or id of a pod")
        for word in words:
            try:
                found.append(pod_document(view, view.pod(word)))
            except PodrtError as exc:
                print_error(exc)
                code = exit_code(exc)
    if form.report is None:
        print_json(found)
    elif found:
        form.report.print_rows(found)
    return code


def exists_flags(parser: Parser) -> None:
    """Flags of `pod exists`."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="name or ID")


def exists(args: argparse.Namespace, settings: Settings) -> int:
    """Exit with 0 if the pod exists, 1 if not, 125 on an error."""
    if len(args.pods) != 1:
        raise InvalidConfig("", f"accepts 1 arg(s), received {len(args.pods)}")
    try:
        with open_view(settings) as view:
            view.pod(args.pods[0])
    except NotFound:
        return 1
    except PodrtError as exc:
        print_error(exc)
        return FAILED
    return 0
