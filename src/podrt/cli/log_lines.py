"""What `podrt logs` and `podrt pod logs` have in common: which lines, in which form, until when."""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Callable, Sequence

from podrt.runtime.logs import LogLine, LogReader, last_lines
from podrt.runtime.view import View
from podrt.store.records import ContainerRecord

from .flags import Parser, whole_number
from .moments import point_in_time_ns
from .output import rfc3339

_POLL_S = 0.05
# A line's time up to its nanoseconds, before the zone: as text, later sorts higher.
_CLOCK_CHARS = len("2026-01-31T12:00:00.123456789")
# podman's, in its order, as the terminal's numbers.
_COLOURS = (37, 31, 33, 34, 35, 36)

Sources = Callable[[], Sequence[ContainerRecord]]
"""The containers whose logs are shown, as of now; those that are gone are left out."""


def log_flags(parser: Parser) -> None:
    """The flags that both verbs take."""
    parser.switch("--follow", "-f", help="go on until all have ended")
    parser.switch("--timestamps", "-t", help="show the time of each line")
    parser.switch("--names", "-n", help="say whose a line is by name, not by ID")
    parser.switch("--color", help="give each container a colour")
    parser.add_argument("--tail", default="-1", metavar="LINES", help="only the last ones")
    parser.add_argument("--since", default=None, metavar="TIME", help="10m, or a time")
    parser.add_argument("--until", default=None, metavar="TIME", help="10m, or a time")


class Wanted:
    """What the flags ask for. Raises: InvalidConfig when one is wrong."""

    def __init__(self, args: argparse.Namespace) -> None:
        tail = whole_number("--tail", args.tail)
        self.tail = -1 if tail is None else tail
        self.follows: bool = args.follow
        self._low = self._until_ns = None
        if args.since is not None:
            self._low = rfc3339(point_in_time_ns("--since", args.since)).encode()[:_CLOCK_CHARS]
        if args.until is not None:
            self._until_ns = point_in_time_ns("--until", args.until)
        self._high = None if self._until_ns is None else rfc3339(self._until_ns).encode()

    def __contains__(self, line: LogLine) -> bool:
        low, high, at = self._low, self._high, line.time[:_CLOCK_CHARS]
        return (low is None or at >= low) and (high is None or at <= high)

    def is_past(self) -> bool:
        """Whether nothing that is logged from now on is wanted."""
        return self._until_ns is not None and time.time_ns() > self._until_ns


def show_logs(view: View, sources: Sources, wanted: Wanted, printer: Printer) -> None:
    """Print what was logged, in time order; then, with --follow, what is, until all have ended.

    Whoever joins `sources` meanwhile is followed as well.
    """
    readers: dict[str, LogReader] = {}
    tail = wanted.tail
    try:
        while True:
            is_last = not wanted.follows or wanted.is_past()
            view.refresh()
            records = sources()
            # Asked before the last reading: what is logged at the very end must not be lost.
            is_last = is_last or not any(view.is_running(record) for record in records)
            _open_new(view, records, readers, printer)
            new = {key: [line for line in one.read() if line in wanted] for key, one in
                   readers.items()}  # fmt: skip
            printer.merged({key: list(last_lines(lines, tail)) for key, lines in new.items()})
            if is_last:
                return
            tail = -1
            time.sleep(_POLL_S)
    finally:
        for reader in readers.values():
            reader.close()


def _open_new(
    view: View,
    records: Sequence[ContainerRecord],
    readers: dict[str, LogReader],
    printer: Printer,
) -> None:
    for record in records:
        if record.id not in readers:
            readers[record.id] = LogReader(view.layout.log(record.id))
            printer.add(record)


class Printer:
    """Writes lines to the stream they came from, said whose they are if `is_prefixed`."""

    def __init__(self, args: argparse.Namespace, *, is_prefixed: bool) -> None:
        self._by_name: bool = args.names
        self._with_times: bool = args.timestamps
        self._with_colours: bool = args.color
        self._is_prefixed = is_prefixed
        self._prefixes: dict[str, bytes] = {}
        self._colours: dict[str, bytes] = {}
        # A part of a line is continued: its time and name must not be repeated.
        self._open: set[tuple[str, bytes]] = set()

    def add(self, record: ContainerRecord) -> None:
        """Lines of this container may come."""
        name = record.config.name if self._by_name else record.id[:12]
        self._prefixes[record.id] = f"{name} ".encode() if self._is_prefixed else b""
        number = _COLOURS[len(self._colours) % len(_COLOURS)]
        self._colours[record.id] = b"\x1b[%dm" % number if self._with_colours else b""

    def merged(self, logs: dict[str, list[LogLine]]) -> None:
        """Print lines of several logs, by container ID, in time order."""
        owned = [[(line.time, key, line) for line in lines] for key, lines in logs.items()]
        for _, key, line in heapq.merge(*owned, key=lambda item: item[0]):
            self._line(key, line)
        sys.stdout.flush()
        sys.stderr.flush()

    def _line(self, key: str, line: LogLine) -> None:
        stream = sys.stderr if line.stream == b"stderr" else sys.stdout
        colour = self._colours[key]
        text = line.text.removesuffix(b"\n")
        is_whole = text != line.text
        stream.buffer.write(colour + self._head(key, line) + text)
        stream.buffer.write((b"\x1b[0m" if colour else b"") + (b"\n" if is_whole else b""))
        (self._open.discard if is_whole else self._open.add)((key, line.stream))

    def _head(self, key: str, line: LogLine) -> bytes:
        if (key, line.stream) in self._open:
            return b""
        moment = line.time.replace(b"+00:00", b"Z") + b" " if self._with_times else b""
        return self._prefixes[key] + moment
