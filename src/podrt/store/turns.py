"""How the thread that writes a snapshot leaves its process to the others.

One thread of Python runs at a time, and who waits for his turn waits five milliseconds after every
system call unless the running one steps aside by itself. So a long piece of work has to.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])

_TURN_S = 0.0003
"""Below what a disk takes, so that nobody can tell."""
_PAUSE_S = 0.00005
"""Long enough for another thread to wake up in; without one it is all that is lost."""
_BUCKET = 512
_SAMPLES = 8


class Turns:
    """Steps aside every now and then, unless `is_hurried`: then somebody waits for the end."""

    def __init__(self, *, is_hurried: bool = False) -> None:
        self.is_hurried = is_hurried
        self._until = 0.0

    def give(self) -> None:
        """Let the others run if it is time."""
        if not self.is_hurried and time.perf_counter() > self._until:
            time.sleep(_PAUSE_S)
            self._until = time.perf_counter() + _TURN_S


HURRIED = Turns(is_hurried=True)


def in_order(items: list[T], turns: Turns) -> Iterator[T]:
    """`items` sorted, and taken out of the list.

    Never in one piece: sorting is a single step of the interpreter, and so is freeing a list.
    """
    step = _BUCKET // _SAMPLES
    bounds = sorted(items[::step])[_SAMPLES::_SAMPLES] if len(items) > _BUCKET else []
    buckets: list[list[T]] = [[] for _ in range(len(bounds) + 1)]
    for item in items:
        buckets[bisect_right(bounds, item)].append(item)
        turns.give()
    items.clear()
    buckets.reverse()
    while buckets:
        bucket = buckets.pop()
        bucket.sort()
        turns.give()
        yield from bucket
