"""What the stages of a start are called, of which a monitor tells numbers and times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .plan_namespaces import CLONE_FLAGS
from .plan_ops import MAX_BYTES, Op, OpCode, decode_plan, stage_name

_FIRST_OF_NO_OPERATION = 100
# Which field of an operation says what it is about, where that is not the first.
_SUBJECTS = {
    OpCode.ROOT_OVERLAY: 1, OpCode.MOUNT: 2, OpCode.BIND: 1,
    OpCode.SYMLINK: 1, OpCode.SECCOMP: 0,
}  # fmt: skip
_NAMESPACES = {flag: kind for kind, flag in CLONE_FLAGS.items()}


class Stage(NamedTuple):
    """A step of a start: what it was, with the path or name it was about, and when it began."""

    name: str
    at_ns: int


def describe(stages: Iterable[tuple[int, int]], plan_fd: int) -> tuple[Stage, ...]:
    """`stages` (when, number) in words; the child goes through its plan in order."""
    ops = iter(decode_plan(os.pread(plan_fd, MAX_BYTES, 0)).ops)
    return tuple(_named(stages, ops))


def _named(stages: Iterable[tuple[int, int]], ops: Iterator[Op]) -> Iterator[Stage]:
    for at_ns, number in stages:
        name = stage_name(number)
        if number < _FIRST_OF_NO_OPERATION:
            op = next((op for op in ops if op.code == number), None)
            name = f"{name} {_subject(op)}".rstrip() if op is not None else name
        yield Stage(name, at_ns)
        if number == OpCode.EXEC:
            # Whatever comes after, such as hooks, belongs to it.
            return


def _subject(op: Op) -> str:
    if op.code is OpCode.SETNS:
        return _NAMESPACES.get(int(str(op.fields[0])), "")
    place = _SUBJECTS.get(op.code, 0)
    field = op.fields[place] if place < len(op.fields) else ""
    return field if isinstance(field, str) else ""
