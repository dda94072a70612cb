"""`podrt ps` and `podrt inspect`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.model.states import ALIVE
from podrt.runtime.image_names import image_named
from podrt.runtime.sizes import container_sizes
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord, PodRecord

from .errors import exit_code, print_error
from .filters import Filters, check_container_filters, container_matches
from .flags import Parser, whole_number
from .output import FORMAT_HELP, Format, age, decimal_size, open_format, print_json, print_table
from .rows import (
    CONTAINER_HEADS,
    command_text,
    container_fields,
    newest_container,
    shown_id,
    sort_containers,
)
from .shapes import container_document, container_row, image_document, pod_document, status_text

_HEADS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
_NS_HEADS = (
    "CONTAINER ID",
    "NAMES",
    "PID",
    "CGROUPNS",
    "IPC",
    "MNT",
    "NET",
    "PIDNS",
    "USERNS",
    "UTS",
)
_NS_KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_CLEAR = "\033[H\033[2J"


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
    parser.switch("--size", "-s", help="also what they take of the disk")
    parser.switch("--ns", help="the namespaces of their processes")
    parser.add_argument("--watch", "-w", default=None, metavar="SECONDS", help="again and again")
    parser.add_argument("--sort", default="created", metavar="KEY", help="created, id, names, ...")


def ps(args: argparse.Namespace, settings: Settings) -> int:
    """List containers, newest last as podman does."""
    form = open_format(args.format, "ps", kind="container")
    filters = Filters(args.filter)
    check_container_filters(filters)
    if args.size and args.ns:
        raise InvalidConfig("", "size and namespace options conflict")
    interval_s = whole_number("--watch", args.watch)
    if interval_s is not None and interval_s <= 0:
        raise InvalidConfig("--watch", f"{interval_s} is not above 0")
    newest = _newest(args)
    with open_view(settings) as view:
        while True:
            _list(view, filters, newest, form, args)
            if interval_s is None:
                return 0
            sys.stdout.flush()
            time.sleep(interval_s)
            view.refresh()
            print(_CLEAR, end="")


def _list(
    view: View, filters: Filters, newest: int, form: Format, args: argparse.Namespace
) -> None:
    found = [record for record in view.containers() if container_matches(view, record, filters)]
    if newest:
        found = found[-newest:]
    elif not (args.all or "status" in filters.values or "exited" in filters.values):
        found = [record for record in found if view.state(record) in ALIVE]
    _print(view, sort_containers(view, found, args.sort), form, args)


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
        print_json([_json_row(view, record, args) for record in records])
    elif form.report is not None:
        fields = [container_fields(view, record, whole=args.no_trunc) for record in records]
        form.report.print_rows(fields, None if args.noheading else CONTAINER_HEADS)
    elif args.quiet:
        for record in records:
            print(shown_id(record.id, whole=args.no_trunc))
    elif args.ns:
        rows = [_namespace_row(view, record, whole=args.no_trunc) for record in records]
        print_table(_NS_HEADS, rows, with_heads=not args.noheading)
    else:
        heads = (*_HEADS, "POD ID", "PODNAME") if args.pod else _HEADS
        heads = (*heads, "SIZE") if args.size else heads
        rows = [_row(view, record, args) for record in records]
        print_table(heads, rows, with_heads=not args.noheading)


def _row(view: View, record: ContainerRecord, args: argparse.Namespace) -> tuple[str, ...]:
    whole = args.no_trunc
    cells: tuple[str, ...] = (
        shown_id(record.id, whole=whole),
        record.config.image,
        command_text(record, whole=whole),
        age(record.created_at_ns),
        status_text(view.state(record), view.facts(record)),
        "",
        record.config.name,
    )
    if args.pod:
        pod = view.store.tables.get(PodRecord, record.pod_id) if record.pod_id else None
        name = pod.config.name if pod is not None else ""
        cells = (*cells, shown_id(record.pod_id, whole=whole), name)
    if args.size:
        written, everything = container_sizes(view, record)
        size = f"{decimal_size(written)} (virtual {decimal_size(everything)})"
        cells = (*cells, size)
    return cells


def _json_row(view: View, record: ContainerRecord, args: argparse.Namespace) -> dict[str, Any]:
    row = container_row(view, record)
    if args.size:
        written, everything = container_sizes(view, record)
        row["Size"] = {"rootFsSize": everything, "rwSize": written}
    if args.ns:
        pid = row["Pid"]
        row["Namespaces"] = {kind: number for kind in _NS_KINDS if (number := _ns_of(pid, kind))}
    return row


def _namespace_row(view: View, record: ContainerRecord, *, whole: bool) -> tuple[str, ...]:
    facts = view.facts(record)
    pid = facts.pid if view.state(record) in ALIVE else 0
    return (
        shown_id(record.id, whole=whole),
        record.config.name,
        str(pid),
        *(_ns_of(pid, kind) for kind in _NS_KINDS),
    )


def _ns_of(pid: int, kind: str) -> str:
    """The number of a process's namespace; "" without a process."""
    try:
        found = os.readlink(f"/proc/{pid}/ns/{kind}") if pid else ""
    except OSError:
        return ""
    return found.partition("[")[2].rstrip("]")


def exists_flags(parser: Parser) -> None:
    """Flags of `container exists`."""
    parser.add_argument("words", nargs="*", metavar="CONTAINER", help="name or ID")


def exists(args: argparse.Namespace, settings: Settings) -> int:
    """Exit with 0 if the container exists, 1 if not, 125 on an error."""
    if len(args.words) != 1:
        raise InvalidConfig("", f"accepts 1 arg(s), received {len(args.words)}")
    with open_view(settings) as view:
        try:
            view.container(args.words[0])
        except NotFound:
            return 1
    return 0


def inspect_flags(parser: Parser) -> None:
    """Flags of `inspect`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="containers, pods or images")
    parser.switch("--latest", "-l", help="the newest container")
    parser.switch("--size", "-s", help="also what containers take of the disk")
    parser.add_argument("--format", "-f", default="json", metavar="FORMAT", help=FORMAT_HELP)
    parser.add_argument("--type", "-t", default="all", help="container, pod, image or all")


def inspect(args: argparse.Namespace, settings: Settings) -> int:
    """Show containers (or else images, or else pods) of these names as a JSON list."""
    form = open_format(args.format, "inspect", kind="object")
    if args.type not in ("all", "container", "image", "pod"):
        raise InvalidConfig("--type", f"{args.type!r} is not container, image, pod or all")
    if args.latest and args.names:
        raise InvalidConfig("", "--latest and arguments cannot be used together")
    if not args.names and not args.latest:
        raise InvalidConfig("", "no names or ids specified")
    found, code = [], 0
    with open_view(settings) as view:
        for name in args.names or [newest_container(view).id]:
            try:
                found.append(_document(view, name, args.type, with_size=args.size))
            except PodrtError as exc:
                print_error(exc)
                code = exit_code(exc)
    if form.report is None:
        print_json(found)
    elif found:
        form.report.print_rows(found)
    return code


def _document(view: View, name: str, kind: str, *, with_size: bool) -> dict[str, Any]:
    if kind in ("all", "container"):
        try:
            record = view.container(name)
            found = container_document(view, record)
            if with_size:
                found["SizeRw"], found["SizeRootFs"] = container_sizes(view, record)
            return found
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
