"""`podrt ps` and `podrt inspect`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse
from typing import Any

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.model.states import ALIVE
from podrt.runtime.image_names import image_named
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, PodRecord

from .errors import exit_code, print_error
from .filters import Filters, check_container_filters, container_matches
from .flags import Parser, whole_number
from .output import FORMAT_HELP, Format, age, open_format, print_json, print_table
from .rows import CONTAINER_HEADS, command_text, container_fields, shown_id, sort_containers
from .shapes import container_document, container_row, image_document, pod_document, status_text

_HEADS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")


def ps_flags(parser: Parser) -> None:
    """Flags of `ps`."""
    parser.switch("--all", "-a", help="also those that do not run")
    parser.add_argument("--format", default=None, metavar="FORMAT", help=FORMAT_HELP)
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="id, name, label, status, pod, ...")
    parser.switch("--quiet", "-q", help="IDs only")
    parser.switch("--no-trunc", help="whole IDs and commands")
    parser.switch("--noheading", help="no heading")
    parser.switch("--pod", "-p", help="also the pods")
    parser.switch("--latest", "-l", help="the newest container only")
    parser.add_argument("--last", "-n", default=None, metavar="COUNT", help="the newest only")
    parser.add_argument("--sort", default="created", metavar="KEY", help="created, id, names, ...")


def ps(args: argparse.Namespace, settings: Settings) -> int:
    """List containers, newest last as podman does."""
    form = open_format(args.format, "ps", kind="container")
    filters = Filters(args.filter)
    check_container_filters(filters)
    newest = _newest(args)
    with open_view(settings) as view:
        found = [record for record in view.containers() if container_matches(view, record, filters)]
        if newest:
            found = found[-newest:]
        elif not (args.all or "status" in filters.values or "exited" in filters.values):
            found = [record for record in found if view.state(record) in ALIVE]
        _print(view, sort_containers(view, found, args.sort), form, args)
    return 0


def _newest(args: argparse.Namespace) -> int:
    """How many of the newest are wanted; 0 is no bound. Raises: InvalidConfig."""
    last = whole_number("--last", args.last)
    if last is not None and args.latest:
        raise InvalidConfig("", "last and latest are mutually exclusive")
    return 1 if args.latest else max(0, last or 0)


def _print(
    view: View, records: list[ContainerRecord], form: Format, args: argparse.Namespace
) -> None:
    if form.is_json:
        print_json([container_row(view, record) for record in records])
    elif form.report is not None:
        fields = [container_fields(view, record, whole=args.no_trunc) for record in records]
        form.report.print_rows(fields, None if args.noheading else CONTAINER_HEADS)
    elif args.quiet:
        for record in records:
            print(shown_id(record.id, whole=args.no_trunc))
    else:
        heads = (*_HEADS, "POD ID", "PODNAME") if args.pod else _HEADS
        rows = [_row(view, record, args) for record in records]
        print_table(heads, rows, with_heads=not args.noheading)


def _row(view: View, record: ContainerRecord, args: argparse.Namespace) -> tuple[str, ...]:
    whole = args.no_trunc
    cells = (
        shown_id(record.id, whole=whole),
        record.config.image,
        command_text(record, whole=whole),
        age(record.created_at_ns),
        status_text(view.state(record), view.facts(record)),
        "",
        record.config.name,
    )
    if not args.pod:
        return cells
    pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
    name = pod.config.name if pod is not None else ""
    return (*cells, shown_id(record.pod_id, whole=whole), name)


def inspect_flags(parser: Parser) -> None:
    """Flags of `inspect`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="containers, pods or images")
    parser.add_argument("--format", "-f", default="json", metavar="FORMAT", help=FORMAT_HELP)
    parser.add_argument("--type", "-t", default="all", help="container, pod, image or all")


def inspect(args: argparse.Namespace, settings: Settings) -> int:
    """Show containers (or else images, or else pods) of these names as a JSON list."""
    form = open_format(args.format, "inspect", kind="object")
    if args.type not in ("all", "container", "image", "pod"):
        raise InvalidConfig("--type", f"{args.type!r} is not container, image, pod or all")
    found, code = [], 0
    with open_view(settings) as view:
        for name in args.names:
            try:
                found.append(_document(view, name, args.type))
            except PodrtError as exc:
                print_error(exc)
                code = exit_code(exc)
    if form.report is None:
        print_json(found)
    elif found:
        form.report.print_rows(found)
    return code


def _document(view: View, name: str, kind: str) -> dict[str, Any]:
    if kind in ("all", "container"):
        try:
            return container_document(view, view.container(name))
        except NotFound:
            if kind == "container":
                raise
    if kind in ("all", "image"):
        try:
            return image_document(image_named(view.store.tables, name))
        except (NotFound, InvalidConfig):
            if kind == "image":
                raise
    try:
        return pod_document(view, view.pod(name))
    except NotFound:
        raise NotFound("object" if kind == "all" else "pod", name) from None
