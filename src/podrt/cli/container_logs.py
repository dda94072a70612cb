"""`podrt logs`: what containers wrote, merged in time order when several are named."""

from __future__ import annotations

import argparse
import heapq
import re
import sys
import time
from collections.abc import Callable, Iterable

from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.model.states import ALIVE
from podrt.runtime.logs import LogLine, LogReader, last_lines
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord

from .flags import Parser, whole_number
from .output import rfc3339

_POLL_S = 0.05
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def logs_flags(parser: Parser) -> None:
    """Flags of `logs`."""
    parser.add_argument("containers", nargs="+", metavar="CONTAINER", help="names or IDs")
    parser.switch("--follow", "-f", help="go on as long as they run")
    parser.switch("--timestamps", "-t", help="show the time of each line")
    parser.switch("--names", "-n", help="show whose each line is")
    parser.add_argument("--tail", default="-1", metavar="LINES", help="only the last ones")
    parser.add_argument("--since", default=None, metavar="TIME", help="10m, or a time")
    parser.add_argument("--until", default=None, metavar="TIME", help="10m, or a time")


def logs(args: argparse.Namespace, settings: Settings) -> int:
    """Print what containers logged; with --follow until all have ended."""
    tail = whole_number("--tail", args.tail)
    is_wanted = _window(args.since, args.until)
    with open_view(settings) as view:
        records = [view.container(name) for name in args.containers]
        readers = [LogReader(view.layout.log(record.id)) for record in records]
        show = _Printer(records, with_times=args.timestamps, with_names=args.names)
        try:
            first = [
                list(last_lines(filter(is_wanted, reader.read()), -1 if tail is None else tail))
                for reader in readers
            ]
            show.merged(first)
            while args.follow:
                is_alive = _any_alive(view, args.containers)
                show.merged([list(filter(is_wanted, reader.read())) for reader in readers])
                if not is_alive:
                    break
                time.sleep(_POLL_S)
        finally:
            for reader in readers:
                reader.close()
    return 0


def _any_alive(view: View, names: Iterable[str]) -> bool:
    view.refresh()
    return any(view.state(view.container(name)) in ALIVE for name in names)


def _window(since: str | None, until: str | None) -> Callable[[LogLine], bool]:
    low = _time_of("--since", since)
    high = _time_of("--until", until)

    def is_wanted(line: LogLine) -> bool:
        return (low is None or line.time >= low) and (high is None or line.time <= high)

    return is_wanted


def _time_of(flag: str, text: str | None) -> bytes | None:
    """A moment in the form the log has it, in which later sorts higher. Raises: InvalidConfig."""
    if text is None:
        return None
    found = list(_DURATION.finditer(text))
    if found and "".join(match[0] for match in found) == text:
        ago = sum(float(match[1]) * _UNITS_S[match[2]] for match in found)
        return rfc3339(time.time_ns() - round(ago * 1e9)).removesuffix("Z").encode()
    if text.isdigit():
        return rfc3339(int(text) * 10**9).removesuffix("Z").encode()
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidConfig(flag, f"{text!r} is no time or duration") from None
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f").encode()


class _Printer:
    """Writes lines to the stream they came from."""

    def __init__(
        self, records: list[ContainerRecord], *, with_times: bool, with_names: bool
    ) -> None:
        self._names = [record.config.name for record in records]
        self._with_times = with_times
        self._with_names = with_names or len(records) > 1
        # A part of a line is continued: its time and name must not be repeated.
        self._open: set[tuple[int, bytes]] = set()

    def merged(self, logs: list[list[LogLine]]) -> None:
        """Print lines of several logs in time order."""
        numbered = [[(line.time, at, line) for line in log] for at, log in enumerate(logs)]
        for _, at, line in heapq.merge(*numbered, key=lambda item: item[0]):
            self._line(at, line)
        sys.stdout.flush()
        sys.stderr.flush()

    def _line(self, number: int, line: LogLine) -> None:
        stream = sys.stderr if line.stream == b"stderr" else sys.stdout
        key = (number, line.stream)
        if key not in self._open:
            if self._with_names:
                stream.buffer.write(self._names[number].encode() + b" ")
            if self._with_times:
                stream.buffer.write(line.time + b" ")
        stream.buffer.write(line.text)
        if line.text.endswith(b"\n"):
            self._open.discard(key)
        else:
            self._open.add(key)
