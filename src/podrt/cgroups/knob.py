"""One write to one cgroup file."""

from __future__ import annotations

import msgspec


class Knob(msgspec.Struct, frozen=True):
    """`value` goes into `file` of the hierarchy that has `controller`, for the limit `field`.

    `optional`: the file may be missing; then another knob of the same field has to do, or, if
    `droppable`, the limit is left out with a warning.
    """

    field: str
    controller: str
    file: str
    value: str
    optional: bool = False
    droppable: bool = False


def whole(text: bytes | int | None) -> int | None:
    """The number a file holds; None for "max", for no number, and for a file that is not there."""
    if not isinstance(text, bytes):
        return None
    word = text.strip()
    return int(word) if word.lstrip(b"-").isdigit() else None


def keyed(text: bytes | int | None, key: bytes) -> int | None:
    """The number behind `key` in a file of "key value" lines; None when it is not there."""
    if not isinstance(text, bytes):
        return None
    for line in text.split(b"\n"):
        word, _, value = line.partition(b" ")
        if word == key:
            return whole(value)
    return None


def listed(text: bytes | int | None) -> str | None:
    """The list (of CPUs, of memory nodes) a file holds; None when it is empty or not there."""
    if not isinstance(text, bytes):
        return None
    return text.strip().decode("ascii") or None
