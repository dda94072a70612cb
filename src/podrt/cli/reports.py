"""Printing a listing or an inspection by a `--format` template."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .template_run import FUNCTIONS, execute
from .template_values import Head, Struct
from .templates import parse, replace_escapes

_RANGES = re.compile(r"\{\{-?\s*range\s+\.\s*-?\}\}")
_WORD_ENDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# podman's tables: no column is narrower, and two blanks part them.
_NARROWEST = 12
_GAP = 2


class Report:
    """A template of one verb; `kind` is what messages call an object of the listing."""

    def __init__(self, verb: str, text: str, *, kind: str, is_list: bool) -> None:
        self._kind = kind
        self._is_list = is_list
        self._is_table = text.startswith("table ")
        text = replace_escapes(text.removeprefix("table "), is_table=self._is_table)
        text = text if text.endswith("\n") else text + '{{"\\n"}}'
        if is_list and not _RANGES.search(text):
            text = "{{range .}}" + text + "{{end -}}"
        self._template = parse(verb, text, FUNCTIONS)

    def print_rows(
        self, rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str] | None = None
    ) -> None:
        """Print a listing; a table has the headings `heads`, else the fields' names.

        With `heads` None there is no line of headings. Raises: InvalidConfig.
        """
        text = execute(self._template, [Struct(row, self._kind) for row in rows])
        if self._is_table:
            head = "" if heads is None else execute(self._template, [_Heads(heads)])
            text = _aligned(head + text)
        sys.stdout.write(text)

    def print_one(self, value: Mapping[str, Any]) -> None:
        """Print a single object. Raises: InvalidConfig."""
        sys.stdout.write(execute(self._template, Struct(value, self._kind)))


class _Heads(dict[str, str]):
    """The headings by the names of the fields: those of no mention are the names in capitals."""

    def get(self, name: str, default: object = None) -> Head:
        """The heading of the field `name`."""
        return Head(self[name] if name in self else _WORD_ENDS.sub(" ", name).upper())


def _aligned(text: str) -> str:
    """Text with its columns, which tabs end, below each other.

    A run of lines that have the same column is aligned by itself.
    """
    lines = [line.split("\t") for line in text.split("\n")]
    for column in range(max(map(len, lines)) - 1):
        begin = 0
        while begin < len(lines):
            end = begin
            while end < len(lines) and len(lines[end]) > column + 1:
                end += 1
            width = max((len(line[column]) + _GAP for line in lines[begin:end]), default=0)
            for line in lines[begin:end]:
                line[column] = line[column].ljust(max(width, _NARROWEST))
            begin = max(end, begin + 1)
    return "\n".join("".join(cells) for cells in lines)
