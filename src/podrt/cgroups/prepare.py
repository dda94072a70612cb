"""The cgroups above a new one: made, on v1 given CPUs and memory nodes, on v2 their controllers."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from podrt.errors import InvalidState

from . import paths
from .hierarchies import NEEDED, Hierarchy
from .tree import GONE, Result, Step, Tree, failed

_CPUSET = ("cpuset.cpus", "cpuset.mems")


class Ready(msgspec.Struct):
    """What is known of the parents once they stand.

    `cpuset`: per parent its v1 CPUs and memory nodes. `bare`: the parents whose children do not
    get them by themselves. `refused`: per v2 controller why it cannot be had below. `is_last`:
    no further try follows, so what is refused now is refused.
    """

    cpuset: dict[bytes, tuple[bytes, bytes]]
    bare: set[bytes]
    refused: dict[str, str]
    is_last: bool = False


def prepare(tree: Tree, parents: Iterable[str], made: list[tuple[Hierarchy, bytes]]) -> Ready:
    """Make every cgroup of `parents` and above; `made` collects what was not there before.

    Raises: InvalidState when one is frozen; LimitReached, EngineFailed.
    """
    chain = sorted({above for parent in parents for above in paths.ancestors(parent)}, key=_depth)
    dirs = [paths.below_top(path) for path in chain]
    _make(tree, dirs, made)
    _refuse_frozen(tree, dirs)
    ready = Ready({}, set(), {})
    cpuset = tree.hierarchies.of("cpuset")
    if cpuset is not None and cpuset.version == 1:
        _give_cpus(tree, cpuset, dirs, {at for one, at in made if one == cpuset}, ready)
    if tree.hierarchies.unified is not None:
        ready.refused = _enable(tree, tree.hierarchies.unified, dirs)
    return ready


def _depth(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _make(tree: Tree, dirs: list[bytes], made: list[tuple[Hierarchy, bytes]]) -> None:
    steps = []
    owners = []
    for at in dirs:
        for one in tree.hierarchies.all:
            steps.append(tree.mkdir(one, at))
            owners.append((one, at))
    index, number, results = tree.run(steps)
    made += [owner for owner, result in zip(owners, results, strict=True) if result == 0]
    if index >= 0:
        raise failed(number, tree.absolute(*owners[index]))


def _refuse_frozen(tree: Tree, dirs: list[bytes]) -> None:
    """A process that joins a frozen cgroup hangs before its first instruction."""
    freezer = tree.hierarchies.of("freezer")
    hierarchy = freezer or tree.hierarchies.unified
    if hierarchy is None:
        return
    file, frozen = (
        (b"/freezer.state", (b"FROZEN", b"FREEZING")) if freezer else (b"/cgroup.freeze", (b"1",))
    )
    texts = tree.run([tree.read(hierarchy, at + file) for at in dirs])[2]
    for at, text in zip(dirs, texts, strict=True):
        if isinstance(text, bytes) and text.strip() in frozen:
            raise InvalidState("create a cgroup below", "/" + os.fsdecode(at), "it is frozen")


def _give_cpus(
    tree: Tree, cpuset: Hierarchy, dirs: list[bytes], new: set[bytes], ready: Ready
) -> None:
    """v1 leaves a new cpuset empty, and no process can join an empty one.

    What is made here hands its values down by itself (cgroup.clone_children); below a cgroup of
    somebody else, whose setting is left alone, each child is given them.
    """
    names = [*(name.encode() for name in _CPUSET), b"cgroup.clone_children"]
    reads = [tree.read(cpuset, name) for name in names]
    reads += [tree.read(cpuset, at + b"/" + name) for at in dirs for name in names]
    rows = _rows(tree.run(reads)[2], len(names))
    known = ready.cpuset
    known[b""] = (rows[0][0], rows[0][1])
    if rows[0][2] != b"1":
        ready.bare.add(b"")
    for at, row in zip(dirs, rows[1:], strict=True):
        above = known[at.rpartition(b"/")[0]]
        known[at] = (row[0] or above[0], row[1] or above[1])
        steps = [
            tree.write(cpuset, at + b"/" + name, value)
            for name, value, there in zip(names, known[at], row, strict=False)
            if not there
        ]
        if at in new:
            steps.append(tree.write(cpuset, at + b"/cgroup.clone_children", b"1"))
        elif row[2] != b"1":
            ready.bare.add(at)
        _run_or_raise(tree, cpuset, at, steps)


def _rows(results: list[Result], width: int) -> list[list[bytes]]:
    texts = [text.strip() if isinstance(text, bytes) else b"" for text in results]
    return [texts[at : at + width] for at in range(0, len(texts), width)]


def _run_or_raise(tree: Tree, hierarchy: Hierarchy, at: bytes, steps: list[Step]) -> None:
    if steps:
        index, number, _ = tree.run(steps)
        if index >= 0:
            raise failed(number, tree.absolute(hierarchy, steps[index][2] or at))


def _enable(tree: Tree, unified: Hierarchy, dirs: list[bytes]) -> dict[str, str]:
    """Hand the controllers down, from the top on; which could not be, and why."""
    wanted = unified.controllers & NEEDED
    prefixes = [b"", *(at + b"/" for at in dirs)]
    texts = tree.run([tree.read(unified, at + b"cgroup.subtree_control") for at in prefixes])[2]
    refused: dict[str, str] = {}
    for prefix, text in zip(prefixes, texts, strict=True):
        there = set(text.decode("ascii").split()) if isinstance(text, bytes) else set()
        missing = sorted(wanted - there)
        if not missing:
            continue
        file = prefix + b"cgroup.subtree_control"
        if tree.put(unified, file, " ".join(f"+{name}" for name in missing).encode()) == 0:
            continue
        # One of them is in the way (realtime processes block cpu): the others can still be had.
        for name in missing:
            number = tree.put(unified, file, f"+{name}".encode())
            # What was removed meanwhile refuses nothing: the next round makes it again.
            if number and number not in GONE:
                where = "/" + os.fsdecode(prefix.rstrip(b"/"))
                refused.setdefault(name, f"{where}: {os.strerror(number)}")
    return refused
