"""What a verb shows: tables, JSON, ages, and results of many objects."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from podrt.errors import Unsupported

if TYPE_CHECKING:
    from .reports import Report

FORMAT_HELP = "json or a Go template"
"""What `--format` takes, for the help of the verbs that read."""

_encode = msgspec.json.Encoder().encode


def print_json(value: object) -> None:
    """`value` as indented JSON, as podman prints it."""
    sys.stdout.write(msgspec.json.format(_encode(value), indent=5).decode() + "\n")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, with_heads: bool) -> None:
    """Columns two blanks apart, as wide as their widest cell."""
    table = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table if with_heads else table[1:]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def check_format(text: str | None) -> bool:
    """Whether JSON is asked for. Raises: Unsupported for templates."""
    if not text or text == "table":
        return False
    if text == "json":
        return True
    raise Unsupported(f"--format {text}", "only json is built so far")


class Format(NamedTuple):
    """What `--format` asks for: JSON, a template, or neither: the verb's own form."""

    is_json: bool = False
    report: Report | None = None


def open_format(text: str | None, verb: str, *, kind: str, is_list: bool = True) -> Format:
    """What `--format text` asks of `verb`, whose objects messages call `kind`.

    Raises: InvalidConfig for a template that is wrong, Unsupported.
    """
    if not text or text == "table":
        return Format()
    if "".join(text.split()) in ("json", "{{json.}}", "{{json}}"):
        return Format(is_json=True)
    from .reports import Report

    return Format(report=Report(verb, text, kind=kind, is_list=is_list))


def age(at_ns: int) -> str:
    """How long ago, in podman's words."""
    seconds = max(0, time.time_ns() - at_ns) // 10**9
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    if seconds < 1:
        return "Less than a second ago"
    return f"{seconds} second{'s' if seconds != 1 else ''} ago"


def rfc3339(at_ns: int) -> str:
    """A time in UTC, as podman's JSON has it."""
    seconds, rest = divmod(at_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


def duration(ns: int) -> str:
    """A time span as Go prints one: "1h2m3.5s", "16.754ms", "0s"."""
    for unit_ns, unit in ((1, "ns"), (1_000, "µs"), (1_000_000, "ms")):
        if 0 < ns < unit_ns * 1000:
            return f"{_decimal(ns, unit_ns)}{unit}"
    minutes, rest_ns = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{text}{_decimal(rest_ns, 10**9)}s"


def _decimal(count: int, unit: int) -> str:
    """`count` / `unit` (a power of ten) with no digit that says nothing."""
    whole, rest = divmod(count, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def size_text(count: float, units: Sequence[str], base: int) -> str:
    """`count` with four digits in the first of `units` that it is below `base` of."""
    at = 0
    while count >= base and at < len(units) - 1:
        count /= base
        at += 1
    return f"{count:.4g}{units[at]}"


def decimal_size(count: float) -> str:
    """Bytes by thousands, as podman's tables show them: "237.6kB"."""
    return size_text(count, ("B", "kB", "MB", "GB", "TB", "PB"), 1000)


def binary_size(count: float) -> str:
    """Bytes by 1,024: "232KiB"."""
    return size_text(count, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), 1024)
