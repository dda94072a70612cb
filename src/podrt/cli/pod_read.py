"""`podrt pod ps | inspect | exists`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.model.ids import short_id
from podrt.runtime.view import View, open_view
from podrt.store.records import PodRecord

from .errors import FAILED, exit_code, print_error
from .filters import Filters, pod_matches
from .flags import Parser
from .output import age, check_format, print_json, print_table
from .shapes import pod_document, pod_row

_HEADS = ("POD ID", "NAME", "STATUS", "CREATED", "INFRA ID", "# OF CONTAINERS")


def ps_flags(parser: Parser) -> None:
    """Flags of `pod ps`."""
    parser.add_argument("--format", default=None, metavar="json", help="json")
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="id, name, label, status, ctr-...")
    parser.switch("--quiet", "-q", help="IDs only")
    parser.switch("--no-trunc", help="whole IDs")
    parser.switch("--noheading", help="no heading")
    parser.switch("--latest", "-l", help="the newest pod only")


def ps(args: argparse.Namespace, settings: Settings) -> int:
    """List pods, newest first."""
    as_json = check_format(args.format)
    filters = Filters(args.filter)
    with open_view(settings) as view:
        pods = list(reversed(view.pods()))
        pods = [pod for pod in pods if pod_matches(view, pod, filters)]
        if args.latest:
            pods = pods[:1]
        if as_json:
            print_json([pod_row(view, pod) for pod in pods])
            return 0
        if args.quiet:
            for pod in pods:
                print(pod.id if args.no_trunc else short_id(pod.id))
            return 0
        rows = [_row(view, pod, whole=args.no_trunc) for pod in pods]
    print_table(_HEADS, rows, with_heads=not args.noheading)
    return 0


def _row(view: View, pod: PodRecord, *, whole: bool) -> tuple[str, ...]:
    return (
        pod.id if whole else short_id(pod.id),
        pod.config.name,
        str(view.pod_state(pod)),
        age(pod.created_at_ns),
        pod.infra_id if whole else short_id(pod.infra_id),
        str(len(view.members(pod.id))),
    )


def inspect_flags(parser: Parser) -> None:
    """Flags of `pod inspect`."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="names or IDs")
    parser.add_argument("--format", "-f", default="json", metavar="json", help="json")
    parser.switch("--latest", "-l", help="the newest pod")


def inspect(args: argparse.Namespace, settings: Settings) -> int:
    """Show pods' configuration and state as JSON: one object for one pod, else a list."""
    check_format(args.format)
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
    if found:
        print_json(found[0] if len(words) == 1 else found)
    return code


def exists_flags(parser: Parser) -> None:
    """Flags of `pod exists`."""
    parser.add_argument("pod", metavar="POD", help="name or ID")


def exists(args: argparse.Namespace, settings: Settings) -> int:
    """Exit with 0 if the pod exists, 1 if not, 125 on an error."""
    try:
        with open_view(settings) as view:
            view.pod(args.pod)
    except NotFound:
        return 1
    except PodrtError as exc:
        print_error(exc)
        return FAILED
    return 0
