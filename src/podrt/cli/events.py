"""`podrt events`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from podrt.config import Settings
from podrt.model.event import Event
from podrt.runtime.events import read_events
from podrt.runtime.view import View, open_view

from .filters import Filters, has_label
from .flags import Parser
from .moments import point_in_time_ns
from .output import FORMAT_HELP, open_format, rfc3339
from .rows import moment, shown_id

_KEYS = frozenset({"container", "event", "image", "label", "pod", "type"})
_POLL_S = 0.1
# How long after it happened an event may come into sight: its transaction has yet to be written.
_LATE_NS = 30 * 10**9

Show = Callable[[Event], None]


def events_flags(parser: Parser) -> None:
    """Flags of `events`."""
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="only events that fit")
    parser.add_argument("--format", default=None, help=FORMAT_HELP)
    parser.switch("--no-trunc", default=True, help="show whole IDs")
    parser.add_argument("--since", default=None, metavar="TIME", help="events since then")
    parser.switch("--stream", default=True, help="go on with new events; else end with the last")
    parser.add_argument("--until", default=None, metavar="TIME", help="events until then")


def events(args: argparse.Namespace, settings: Settings) -> int:
    """Show what happened, and what happens."""
    filters = Filters(args.filter)
    filters.check(_KEYS)
    show = _shower(args)
    now_ns = time.time_ns()
    since_ns = _moment("--since", args.since, now_ns if args.stream and not args.until else 0)
    until_ns = _moment("--until", args.until, sys.maxsize)
    with open_view(settings) as view:
        _follow(
            view,
            lambda event: since_ns <= event.at_ns <= until_ns and _fits(event, filters),
            show,
            end_ns=until_ns if args.stream else 0,
        )
    return 0


def _moment(flag: str, text: str | None, default: int) -> int:
    return default if text is None else point_in_time_ns(flag, text)


def _follow(view: View, is_wanted: Callable[[Event], bool], show: Show, *, end_ns: int) -> None:
    """Show the events so far, then new ones until `end_ns`."""
    shown: set[str] = set()
    horizon = ""
    while True:
        is_last = time.time_ns() >= end_ns
        found = [record for record in read_events(view, horizon) if record.id not in shown]
        for record in found:
            if is_wanted(record.event):
                show(record.event)
        sys.stdout.flush()
        if is_last:
            return
        shown.update(record.id for record in found)
        horizon = f"{time.time_ns() - _LATE_NS:020d}"
        shown = {key for key in shown if key > horizon}
        time.sleep(_POLL_S)
        view.refresh()


def _fits(event: Event, filters: Filters) -> bool:
    return all(
        (all if key == "label" else any)(_has(event, key, value) for value in values)
        for key, values in filters.values.items()
    )


def _has(event: Event, key: str, value: str) -> bool:
    if key == "event":
        return event.action == value
    if key == "type":
        return event.type == value
    if key == "image":
        return value in (event.image, event.image.rpartition(":")[0])
    if key == "label":
        return has_label(event.labels, value)
    if key == "pod" and event.pod_id:
        return event.pod_id.startswith(value)
    return event.type == key and (event.name == value or event.id.startswith(value))


def _shower(args: argparse.Namespace) -> Show:
    """How an event is shown. Raises: InvalidConfig, Unsupported."""
    form = open_format(args.format, "events", kind="events.Event")
    report = form.report
    if form.is_json:
        return lambda event: print(msgspec.json.encode(_fields(event)).decode())
    if report is not None:
        return lambda event: report.print_rows([{**_BLANK, **_fields(event)}])
    return lambda event: print(_line(event, whole=args.no_trunc))


_BLANK: Mapping[str, Any] = {"Image": "", "PodID": "", "ContainerExitCode": 0}


def _fields(event: Event) -> dict[str, Any]:
    """An event in podman's JSON."""
    fields: dict[str, Any] = {
        "ID": event.id,
        "Image": event.image,
        "Name": event.name,
        "Status": str(event.action),
        "Time": rfc3339(event.at_ns),
        "Type": str(event.type),
        "Attributes": dict(event.labels) or None,
        "PodID": event.pod_id,
    }
    if event.exit_code is not None:
        fields["ContainerExitCode"] = event.exit_code
    return {name: value for name, value in fields.items() if value != ""}


def _line(event: Event, *, whole: bool) -> str:
    words = [f"image={event.image}", f"name={event.name}"]
    if event.pod_id:
        words.append(f"pod_id={shown_id(event.pod_id, whole=whole)}")
    words += [f"{key}={value}" for key, value in event.labels.items()]
    head = f"{moment(event.at_ns)} {event.type} {event.action} {shown_id(event.id, whole=whole)}"
    return f"{head} ({', '.join(words)})"
