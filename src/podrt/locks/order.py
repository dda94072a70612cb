"""Locks by what they belong to, and the order in which a task may take them.

Every task takes the lock of a pod before those of its containers, and those by ID; so no circle
of tasks, in whichever processes, can wait for each other.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import trio


class Level(enum.IntEnum):
    """What a lock belongs to; the lower level is locked first."""

    POD = 0
    CONTAINER = 1


class Lock(NamedTuple):
    """A lock of the table, named so that taking locks in rising order is the order above."""

    level: Level
    owner_id: str
    number: int


class Order:
    """Asserts the order, in a debug build, for the tasks of one Trio run.

    Locks rise, claims rise, and nobody asks for a claim with a lock in hand: a claim lasts as
    long as its verb.
    """

    def __init__(self) -> None:
        self._locks: dict[trio.lowlevel.Task, list[Lock]] = {}
        self._claims: dict[trio.lowlevel.Task, list[Lock]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no task holds anything."""
        return not self._locks and not self._claims

    def check(self, lock: Lock) -> None:
        """May the task take `lock`?"""
        _check_rises("lock", self._locks, lock)

    def enter(self, lock: Lock) -> None:
        """The task holds, or waits for, `lock`."""
        self.check(lock)
        _add(self._locks, lock)

    def leave(self, lock: Lock) -> None:
        """The task has given it back, or did not get it."""
        _drop(self._locks, lock)

    def enter_claim(self, lock: Lock) -> None:
        """The task has, or waits for, the claim on `lock`."""
        held = self._locks.get(trio.lowlevel.current_task())
        if held:
            raise AssertionError(f"lock order: a claim is asked for while {held[0]} is held")
        _check_rises("claim", self._claims, lock)
        _add(self._claims, lock)

    def leave_claim(self, lock: Lock) -> None:
        """The task has ended it, or did not get it."""
        _drop(self._claims, lock)


_Held = dict[trio.lowlevel.Task, list[Lock]]


def _check_rises(what: str, held: _Held, lock: Lock) -> None:
    mine = held.get(trio.lowlevel.current_task())
    if mine and lock <= max(mine):
        raise AssertionError(f"{what} order: {lock} is asked for while {max(mine)} is held")


def _add(held: _Held, lock: Lock) -> None:
    held.setdefault(trio.lowlevel.current_task(), []).append(lock)


def _drop(held: _Held, lock: Lock) -> None:
    task = trio.lowlevel.current_task()
    held[task].remove(lock)
    if not held[task]:
        del held[task]
