"""The project's own sources, as the house rules look at them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "src" / "podrt"


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def cython_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.pyx"))


def c_files() -> list[Path]:
    return sorted((PACKAGE / "_native").glob("*.[ch]"))


def name_of(path: Path) -> str:
    """A path as a person would name it: from the project's top."""
    return str(path.relative_to(PROJECT))


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Function:
    """A function, where it starts and how long it is."""

    path: Path
    name: str
    line: int
    lines: int

    def __str__(self) -> str:
        return f"{name_of(self.path)}:{self.line} {self.name}: {self.lines} lines"


def python_functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield Function(path, node.name, node.lineno, node.end_lineno - node.lineno + 1)


CYTHON_START = re.compile(r"^( *)(?:async )?(?:def|cdef|cpdef)\b[^=]*?(\w+)\s*\((?!.*\bextern\b)")


def cython_functions(path: Path) -> Iterator[Function]:
    """By indentation: a function ends before the next line that is not deeper than its start."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        match = CYTHON_START.match(line)
        if not match:
            continue
        depth = len(match[1])
        end = number
        for later in range(number + 1, len(lines)):
            text = lines[later]
            if not text.strip():
                continue
            if len(text) - len(text.lstrip()) <= depth and not text.lstrip().startswith(")"):
                break
            end = later
        yield Function(path, match[2], number + 1, end - number + 1)


def c_functions(path: Path) -> Iterator[Function]:
    """By the house's formatting: a body's braces stand alone or last, and end in column one."""
    start, name = 0, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not start and line and not line[0].isspace() and line[0] not in "#/*}":
            match = re.search(r"(\w+)\(", line)
            if match and not line.endswith(";"):
                start, name = number, match[1]
        if start and line.endswith(";") and not line[0].isspace():
            start = 0
        if start and line.startswith("}"):
            yield Function(path, name, start, number - start + 1)
            start = 0
