"""What the workers of a storm wrote down, and what has to be true because of it.

A worker writes an intention before each verb and its outcome after it; who was killed in between
left only the intention. IDs are never used again, so a judgement needs no clocks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from podrt.errors import PodrtError, WalkFailed

OK = "ok"
CRASHED = "crashed"
HUNG = "hung"
# A monitor is found dead by who talks to it, not at the moment it is killed.
KILLED_SHORTLY_BEFORE_S = 2.0

_GONE = frozenset({"NotFound", "Removed"})
_IN_THE_WAY = _GONE | {"InvalidState", "Busy", "MonitorGone"}
_READS = frozenset({"list", "inspect", "command list", "command inspect"})
# What semantics.md lets a verb answer when others work on the same objects.
ALLOWED: Mapping[str, frozenset[str]] = {
    "pod create": frozenset({"AlreadyExists"}),
    "create": _GONE | {"AlreadyExists", "InvalidState", "Busy", "InvalidConfig", "MonitorGone"},
    "create alone": frozenset({"AlreadyExists"}),
    "pod start": _IN_THE_WAY | {"NothingToStart", "DependencyFailed"},
    "pod stop": _IN_THE_WAY,
    "pod kill": _IN_THE_WAY,
    "pod restart": _IN_THE_WAY | {"NothingToStart", "DependencyFailed"},
    "pod pause": _IN_THE_WAY,
    "pod unpause": _IN_THE_WAY,
    "pod rm": _IN_THE_WAY,
    "pod rm --force": _GONE | {"Busy", "MonitorGone"},
    "start": _IN_THE_WAY,
    "stop": _IN_THE_WAY,
    "kill": _IN_THE_WAY,
    "restart": _IN_THE_WAY,
    "pause": _IN_THE_WAY,
    "unpause": _IN_THE_WAY,
    "rm": _IN_THE_WAY | {"InUse"},
    "rm --force": _GONE | {"Busy", "InUse", "MonitorGone"},
    "list": frozenset(),
    "inspect": _GONE,
    "command list": frozenset(),
    "command inspect": _GONE,
}
_REMOVALS = frozenset({"pod rm", "pod rm --force", "rm", "rm --force"})
_CREATIONS = frozenset({"pod create", "create", "create alone"})
# Answered before anything is touched.
_NOTHING_DONE = frozenset({"InvalidState", "InUse"})


class Line(msgspec.Struct, omit_defaults=True):
    """An intention (no outcome) or the outcome of the one before it in the same file.

    `id` is the object's, `group` the ID of the pod it is in, `made` what a creation made besides
    it (ID -> name; an intention has numbers for the IDs), `classes` the errors' classes.
    """

    op: str
    at_s: float
    outcome: str = ""
    name: str = ""
    id: str = ""
    group: str = ""
    made: dict[str, str] = {}
    classes: list[str] = []
    text: str = ""


class Kill(msgspec.Struct, omit_defaults=True):
    """A process the storm killed: `group` is a monitor's, "" for a worker."""

    at_s: float
    group: str = ""


class Ledger:
    """One task's file: appended with one write a line, so that a kill leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encode = msgspec.json.Encoder().encode

    def write(self, line: Line | Kill) -> None:
        os.write(self._fd, self._encode(line) + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def classes_of(error: PodrtError) -> list[str]:
    """The classes of an error, those of its outcomes for a walk's."""
    if isinstance(error, WalkFailed):
        return sorted(
            {name for one in error.outcomes.values() if one is not None for name in classes_of(one)}
        )
    return [type(error).__name__]


class Deed(msgspec.Struct):
    """An intention with its outcome; None: its worker was killed."""

    intention: Line
    outcome: Line | None

    @property
    def op(self) -> str:
        return self.intention.op

    @property
    def is_done(self) -> bool:
        return self.outcome is not None and self.outcome.outcome == OK

    @property
    def seconds(self) -> float:
        return self.outcome.at_s - self.intention.at_s if self.outcome is not None else 0.0

    def may_have_done_something(self) -> bool:
        """Whether it acted, or may have before it was killed or failed."""
        return self.outcome is None or not set(self.outcome.classes) & _NOTHING_DONE


def read_deeds(folder: Path) -> list[Deed]:
    """Everything the workers wrote."""
    decode = msgspec.json.Decoder(Line).decode
    deeds: list[Deed] = []
    for path in sorted(folder.glob("*.ledger")):
        pending: Line | None = None
        for text in path.read_bytes().splitlines():
            line = decode(text)
            if line.outcome:
                assert pending is not None
                deeds.append(Deed(pending, line))
                pending = None
                continue
            if pending is not None:
                deeds.append(Deed(pending, None))
            pending = line
        if pending is not None:
            deeds.append(Deed(pending, None))
    return deeds


def read_kills(path: Path) -> list[Kill]:
    decode = msgspec.json.Decoder(Kill).decode
    return [decode(text) for text in path.read_bytes().splitlines()] if path.exists() else []


class Story:
    """All deeds and kills of a storm, and what follows from them."""

    def __init__(self, deeds: list[Deed], kills: list[Kill]) -> None:
        self.deeds = deeds
        self.kills = kills

    def problems(self) -> Iterator[str]:
        """Every answer that semantics.md does not allow."""
        for deed in self.deeds:
            end = deed.outcome
            if end is None or end.outcome == OK:
                continue
            excess = set(end.classes) - ALLOWED[deed.op]
            if end.outcome in (CRASHED, HUNG) or excess:
                yield f"{deed.op} {deed.intention.name}: {end.outcome} {sorted(excess)}: {end.text}"
            elif "MonitorGone" in end.classes and not self._monitor_was_killed(deed):
                yield f"{deed.op} {deed.intention.name}: a monitor was gone that nobody killed"

    def _monitor_was_killed(self, deed: Deed) -> bool:
        group = deed.intention.group or deed.intention.id
        assert deed.outcome is not None
        since = deed.intention.at_s - KILLED_SHORTLY_BEFORE_S
        return any(
            kill.group == group and since <= kill.at_s <= deed.outcome.at_s for kill in self.kills
        )

    def contradictions(self, found: Mapping[str, str]) -> Iterator[str]:
        """How `found` (ID -> name of everything there is) differs from what was acknowledged."""
        gone = {deed.intention.id for deed in self.deeds if deed.op in _REMOVALS and deed.is_done}
        maybe_gone = {
            deed.intention.id
            for deed in self.deeds
            if deed.op in _REMOVALS and deed.may_have_done_something()
        }
        made: dict[str, str] = {}
        for deed in self.deeds:
            if deed.outcome is None or not deed.is_done or deed.op not in _CREATIONS:
                continue
            group = deed.outcome.group or deed.intention.group
            for key, name in deed.outcome.made.items():
                made[key] = name
                if group in maybe_gone:
                    maybe_gone.add(key)
                if group in gone:
                    gone.add(key)
        for key in gone & found.keys():
            yield f"{found[key]} {key[:12]} was removed and is still there"
        for key, name in made.items():
            if key not in maybe_gone and key not in found:
                yield f"{name} {key[:12]} was created, never removed, and is not there"
            elif found.get(key, name) != name:
                yield f"{key[:12]} was created as {name} and is called {found[key]}"

    def strangers(self, found: Mapping[str, str]) -> Iterator[str]:
        """Objects that nobody was told of, nor can have been made by who was killed."""
        told = {key for deed in self.deeds if deed.outcome is not None for key in deed.outcome.made}
        untold = {
            name
            for deed in self.deeds
            if deed.op in _CREATIONS and deed.outcome is None
            for name in (deed.intention.name, *deed.intention.made.values())
        }
        infras = {f"{key[:12]}-infra" for key in found}
        for key, name in found.items():
            if key not in told and name not in untold | infras:
                yield f"{name} {key[:12]}: nobody made it"

    def slowest(self, ops: Iterable[str] = ()) -> tuple[float, str]:
        """The longest time an answer took, of `ops` or of all."""
        wanted = set(ops)
        chosen = [deed for deed in self.deeds if not wanted or deed.op in wanted]
        slowest = max(chosen, key=lambda deed: deed.seconds, default=None)
        if slowest is None or slowest.outcome is None:
            return 0.0, "nothing"
        words = (slowest.op, slowest.intention.name, slowest.outcome.outcome)
        return round(slowest.seconds, 2), " ".join((*words, *slowest.outcome.classes))

    def slowest_read(self) -> tuple[float, str]:
        """The longest time a look took inside a worker (a command starts an interpreter)."""
        return self.slowest(op for op in _READS if not op.startswith("command"))

    def summary(self) -> str:
        """How much was done, for people."""
        counts: Counter[str] = Counter()
        for deed in self.deeds:
            end = deed.outcome
            word = "killed" if end is None else end.outcome
            if end is not None and end.classes:
                word = "+".join(end.classes)
            counts[f"{deed.op}: {word}"] += 1
        lines = [f"{count:6d} {what}" for what, count in sorted(counts.items())]
        monitors = sum(bool(kill.group) for kill in self.kills)
        lines.append(f"{len(self.deeds)} verbs; killed: {len(self.kills) - monitors} workers, "
                     f"{monitors} monitors")  # fmt: skip
        lines.append(f"slowest {self.slowest()}, slowest look {self.slowest_read()}")
        return "\n".join(lines)
