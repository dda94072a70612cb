"""`podrt ps` and `podrt inspect`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse
from typing import Any

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.model.ids import short_id
from podrt.model.states import ALIVE
from podrt.runtime.image_names import image_named
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, PodRecord

from .errors import exit_code, print_error
from .filters import Filters, container_matches
from .flags import Parser
from .output import age, check_format, print_json, print_table
from .shapes import container_document, container_row, image_document, pod_document, status_text

_HEADS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
_COMMAND_SHOWN = 17


def ps_flags(parser: Parser) -> None:
    """Flags of `ps`."""
    parser.switch("--all", "-a", help="also those that do not run")
    parser.add_argument("--format", default=None, metavar="json", help="json")
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="id, name, label, status, pod, ...")
    parser.switch("--quiet", "-q", help="IDs only")
    parser.switch("--no-trunc", help="whole IDs and commands")
    parser.switch("--noheading", help="no heading")
    parser.switch("--pod", "-p", help="also the pods")
    parser.switch("--latest", "-l", help="the newest container only")


def ps(args: argparse.Namespace, settings: Settings) -> int:
    """List containers, newest last as podman does."""
    as_json = check_format(args.format)
    filters = Filters(args.filter)
    shows_all = args.all or args.latest or "status" in filters.values or "exited" in filters.values
    with open_view(settings) as view:
        found = [record for record in view.containers() if container_matches(view, record, filters)]
        if not shows_all:
            found = [record for record in found if view.state(record) in ALIVE]
        if args.latest:
            found = found[-1:]
        if as_json:
            print_json([container_row(view, record) for record in found])
            return 0
        if args.quiet:
            for record in found:
                print(record.id if args.no_trunc else short_id(record.id))
            return 0
        rows = [_row(view, record, args) for record in found]
    heads = (*_HEADS, "POD ID", "PODNAME") if args.pod else _HEADS
    print_table(heads, rows, with_heads=not args.noheading)
    return 0


def _row(view: View, record: ContainerRecord, args: argparse.Namespace) -> tuple[str, ...]:
    command = " ".join(record.config.command or ())
    if not args.no_trunc and len(command) > _COMMAND_SHOWN + 3:
        command = command[:_COMMAND_SHOWN] + "..."
    cells = (
        record.id if args.no_trunc else short_id(record.id),
        record.config.image,
        command.replace("\n", " "),
        age(record.created_at_ns),
        status_text(view.state(record), view.facts(record)),
        "",
        record.config.name,
    )
    if not args.pod:
        return cells
    pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
    name = pod.config.name if pod is not None else ""
    return (*cells, record.pod_id if args.no_trunc else short_id(record.pod_id), name)


def inspect_flags(parser: Parser) -> None:
    """Flags of `inspect`."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="containers, pods or images")
    parser.add_argument("--format", "-f", default="json", metavar="json", help="json")
    parser.add_argument("--type", "-t", default="all", help="container, pod, image or all")


def inspect(args: argparse.Namespace, settings: Settings) -> int:
    """Show containers (or else images, or else pods) of these names as a JSON list."""
    check_format(args.format)
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
    print_json(found)
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
