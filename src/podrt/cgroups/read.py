"""Reading limits and figures of many cgroups in one batch."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from podrt.model.resources import Resources

from . import v1, v2
from .base import Stats
from .hierarchies import Hierarchies, Hierarchy
from .knob import listed
from .tree import Result, Tree, failed

# (hierarchy, file) for every file that is read of one cgroup.
Wanted = tuple[tuple[Hierarchy, str], ...]


def wanted_stats(hierarchies: Hierarchies) -> Wanted:
    """The files behind Stats on this host."""
    return _wanted(hierarchies, v1.STAT_FILES, v2.STAT_FILES)


def wanted_limits(hierarchies: Hierarchies) -> Wanted:
    """The files behind Resources on this host."""
    return _wanted(hierarchies, v1.LIMIT_FILES, v2.LIMIT_FILES)


def _wanted(
    hierarchies: Hierarchies,
    first: tuple[tuple[str, str], ...],
    second: tuple[tuple[str, str], ...],
) -> Wanted:
    found = []
    for version, files in ((1, first), (2, second)):
        for controller, file in files:
            # "" stands for a file that every v2 cgroup has.
            hierarchy = hierarchies.of(controller) if controller else hierarchies.unified
            if hierarchy is not None and hierarchy.version == version:
                found.append((hierarchy, file))
    return tuple(found)


def stats_many(tree: Tree, wanted: Wanted, paths: Sequence[bytes]) -> list[Stats | None]:
    """The figures of each cgroup; None for one that is gone."""
    rows = _read(tree, wanted, paths)
    return [None if row is None else _stats(row) for row in rows]


def _stats(row: dict[Hierarchy, dict[str, Result]]) -> Stats:
    found: dict[str, int | None] = {}
    for hierarchy, files in row.items():
        found.update(v1.stats(files) if hierarchy.version == 1 else v2.stats(files))
    return Stats(**found)  # type: ignore[arg-type]


def limits(tree: Tree, wanted: Wanted, path: bytes) -> Resources:
    """The limits of one cgroup. Raises: EngineFailed when it is gone."""
    row = _read(tree, wanted, [path])[0]
    if row is None:
        hierarchy = tree.hierarchies.all[0]
        raise failed(errno.ENOENT, tree.absolute(hierarchy, path))
    found: dict[str, int | str] = {}
    for hierarchy, files in row.items():
        found.update(v1.limits(files) if hierarchy.version == 1 else v2.limits(files))
    return Resources(**_without_whole_host(tree, found))  # type: ignore[arg-type]


def _without_whole_host(tree: Tree, found: dict[str, int | str]) -> dict[str, int | str]:
    """A v1 cpuset is never empty: one that has all the host has is no limit."""
    cpuset = tree.hierarchies.of("cpuset")
    if cpuset is None or cpuset.version != 1:
        return found
    for field, file in (("cpuset_cpus", b"cpuset.cpus"), ("cpuset_mems", b"cpuset.mems")):
        if found.get(field) == listed(tree.get(cpuset, file)):
            found.pop(field, None)
    return found


def _read(
    tree: Tree, wanted: Wanted, paths: Sequence[bytes]
) -> list[dict[Hierarchy, dict[str, Result]] | None]:
    """What each file of each cgroup holds; None for a cgroup none of whose files is there."""
    names = [(hierarchy, file, b"/" + file.encode()) for hierarchy, file in wanted]
    steps = [tree.read(hierarchy, path + name) for path in paths for hierarchy, _, name in names]
    results = iter(tree.run(steps)[2])
    rows: list[dict[Hierarchy, dict[str, Result]] | None] = []
    for _ in paths:
        row: dict[Hierarchy, dict[str, Result]] = {}
        there = False
        for hierarchy, file, _name in names:
            result = next(results)
            row.setdefault(hierarchy, {})[file] = result
            there = there or isinstance(result, bytes)
        rows.append(row if there else None)
    return rows
