"""What two verbs on one pod, or on one container outside a pod, do to each other.

Source: semantics.md section 5, architecture.md decision 13: a second verb waits, stop pre-empts
start, kill and `rm --force` pre-empt all.
"""

from __future__ import annotations

import enum


class Verb(enum.IntEnum):
    """The verbs that take an operation claim; the number stands in the lock table.

    Of two verbs that pre-empt one claim the greater number is the one its owner is told of, so
    the numbers of verbs that pre-empt rise with what they end.
    """

    CREATE = 1
    START = 2
    STOP = 3
    RESTART = 4
    KILL = 5
    REMOVE = 6
    FORCE_REMOVE = 7
    PAUSE = 8
    SETTLE = 9
    UPDATE = 10

    @property
    def words(self) -> str:
        """The verb as people write it."""
        return _WORDS.get(self, self.name.lower())


_WORDS = {Verb.REMOVE: "rm", Verb.FORCE_REMOVE: "rm --force"}

_NONE: frozenset[Verb] = frozenset()
_REMOVALS = frozenset({Verb.REMOVE, Verb.FORCE_REMOVE})

PREEMPTS: dict[Verb, frozenset[Verb]] = {
    Verb.CREATE: _NONE,
    Verb.START: _NONE,
    # A restart is a stop and a start: it is ended, too, and its stop is done again.
    Verb.STOP: frozenset({Verb.START, Verb.RESTART}),
    Verb.RESTART: _NONE,
    # Of a pod, with a signal that ends; other signals, and those to one container, just go there.
    # What is being removed answers to nothing but removals. Two kills are two signals: the
    # second waits the moment that the first one takes.
    Verb.KILL: frozenset(Verb) - _REMOVALS - {Verb.KILL},
    Verb.REMOVE: _NONE,
    # Another forced removal does the very same; it is waited for.
    Verb.FORCE_REMOVE: frozenset(Verb) - {Verb.FORCE_REMOVE},
    Verb.PAUSE: _NONE,
    Verb.SETTLE: _NONE,
    Verb.UPDATE: _NONE,
}
"""Verb -> the standing ones it ends early; it waits for all others."""
