"""YAML files read without trust: bounded in size, depth and expansion, no key given twice.

PyYAML parses (in C where it can) and this module builds the values from its events, because its
own composer expands merge keys and nests without limit, and keeps the last of two equal keys.

Shape: what comes out is what JSON could hold: dict with str keys, list, str, int, float, bool.
Keys without a value (null) are left out, as Kubernetes reads them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

from podrt.errors import InvalidConfig, NotFound

STDIN = "-"
STDIN_NAME = "standard input"
# etcd, which keeps such objects in a cluster, takes 1.5 MiB.
MAX_FILE_BYTES = 4 << 20
# With every alias counted as often as it is used: what a bomb multiplies.
MAX_NODES = 100_000
MAX_TEXT = 2 * MAX_FILE_BYTES
MAX_DEPTH = 60

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {
    spelling: value
    for words, value in (("true yes on", True), ("false no off", False))
    for word in words.split()
    for spelling in (word, word.title(), word.upper())
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
_BASED_INT = re.compile(r"([-+]?)(?:0o?([0-7]{1,40})|0x([0-9a-fA-F]{1,40})|0b([01]{1,100}))")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")
_TAG_PREFIX = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One document of a file; `line` is where it begins, counted from 1."""

    file: str
    line: int
    value: dict[str, Any]


def read_documents(path: str) -> list[Document]:
    """The documents of the file `path` ("-": standard input), empty ones left out.

    Raises: NotFound; InvalidConfig naming file and line.
    """
    name = STDIN_NAME if path == STDIN else path
    return parse_documents(_read(path, name), name)


def parse_documents(data: bytes, name: str) -> list[Document]:
    """The documents in `data`, which came from the file `name`. Raises: InvalidConfig."""
    if len(data) > MAX_FILE_BYTES:
        raise InvalidConfig(name, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(name, f"line {line}: not UTF-8 text") from None
    documents = list(_Composer(text, name).documents())
    if not documents:
        raise InvalidConfig(name, "the file is empty")
    return documents


def _read(path: str, name: str) -> bytes:
    try:
        if path == STDIN:
            return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound("file", path) from None
    except (OSError, ValueError) as error:
        raise InvalidConfig(name, getattr(error, "strerror", None) or str(error)) from error


class _Composer:
    """Builds values from the events of one file."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._nodes = 0
        self._text = 0
        # An anchor's value, and how many nodes and characters it stands for; None while it is
        # being built.
        self._anchors: dict[str, tuple[Any, int, int] | None] = {}

    def documents(self) -> Iterator[Document]:
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            self._anchors.clear()
            first = self._next()
            value = self._value(first, 0)
            if value is None:
                continue
            if not isinstance(value, dict):
                raise self._bad(first, "a Kubernetes object is a mapping")
            yield Document(file=self._name, line=first.start_mark.line + 1, value=value)

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f"line {mark.line + 1}: " if mark is not None else ""
            raise InvalidConfig(
                self._name, f"{line}not YAML: {_one_line(error.problem or error.context or '')}"
            ) from None
        except yaml.YAMLError as error:
            raise InvalidConfig(self._name, f"not YAML: {_one_line(str(error))}") from None

    def _bad(self, event: Any, reason: str) -> InvalidConfig:
        return InvalidConfig(self._name, f"line {event.start_mark.line + 1}: {reason}")

    def _count(self, event: Any, nodes: int, text: int) -> None:
        self._nodes += nodes
        self._text += text
        if self._text > MAX_TEXT:
            raise self._bad(event, f"the file expands to more than {MAX_TEXT >> 20} MiB")
        if self._nodes > MAX_NODES:
            raise self._bad(event, f"the file expands to more than {MAX_NODES} values")

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise self._bad(event, f"nested deeper than {MAX_DEPTH} levels")
        nodes, text = self._nodes, self._text
        self._count(event, 1, len(getattr(event, "value", "")))
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        value = self._fresh(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._nodes - nodes, self._text - text)
        return value

    def _fresh(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            self._check_tag(event, "map")
            return self._mapping(depth)
        if isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            return self._sequence(depth)
        return self._scalar(event)

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self._bad(event, f"unknown alias *{event.anchor[:40]}")
        known = self._anchors[event.anchor]
        if known is None:
            raise self._bad(event, f"alias *{event.anchor[:40]} contains itself")
        self._count(event, known[1], known[2])
        return known[0]

    def _sequence(self, depth: int) -> list[Any]:
        found = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            found.append(self._value(event, depth + 1))
        return found

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        seen: set[str] = set()
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, depth)
            if key in seen:
                raise self._bad(event, f"duplicate key {key[:80]!r}")
            seen.add(key)
            value_event = self._next()
            value = self._value(value_event, depth + 1)
            if key == "<<":
                merged += self._merged(value_event, value)
            elif value is not None:
                found[key] = value
        for mapping in merged:
            for key, value in mapping.items():
                if key not in seen:
                    found.setdefault(key, value)
        return found

    def _key(self, event: Any, depth: int) -> str:
        key = self._value(event, depth + 1)
        if not isinstance(key, str):
            raise self._bad(event, "a key must be a string")
        if not key.isprintable():
            raise self._bad(event, f"a key with unprintable characters: {key[:40]!r}")
        return key

    def _merged(self, event: Any, value: Any) -> list[dict[str, Any]]:
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise self._bad(event, "only mappings can be merged with <<")
        return mappings

    def _check_tag(self, event: Any, allowed: str) -> None:
        if event.tag not in (None, "!", _TAG_PREFIX + allowed):
            raise self._bad(event, f"unknown tag {event.tag[:80]!r}")

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        tag: str | None = event.tag
        is_plain = tag is None and event.implicit[0]
        value = _resolved(text) if is_plain or (tag or "").startswith(_TAG_PREFIX) else text
        if tag in (None, "!") or tag == f"{_TAG_PREFIX}{_type_word(value)}":
            return value
        if tag == f"{_TAG_PREFIX}str":
            return text
        raise self._bad(
            event, f"unknown tag {(tag or '')[:80]!r}, or {text[:40]!r} is not of that type"
        )


def _type_word(value: Any) -> str:
    words = {bool: "bool", int: "int", float: "float", type(None): "null"}
    return words.get(type(value), "str")


def _resolved(text: str) -> Any:
    """What a plain scalar means, in YAML 1.1 as Kubernetes' tools read it."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if _INT.fullmatch(text):
        return int(text)
    based = _BASED_INT.fullmatch(text)
    if based is not None:
        sign, octal, hexadecimal, binary = based.groups()
        number = int(octal or hexadecimal or binary, 8 if octal else 16 if hexadecimal else 2)
        return -number if sign == "-" else number
    return float(text) if _FLOAT.fullmatch(text) else text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
