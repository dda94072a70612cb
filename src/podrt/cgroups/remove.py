"""Removing cgroups with all below them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence

from .hierarchies import Hierarchy
from .tree import BUSY, GONE, Tree

# The kernel lets go of a killed process's cgroup a little after the process is reaped.
_PATIENCE_S = 0.25
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.02

Place = tuple[Hierarchy, bytes]


def remove_many(tree: Tree, paths: Sequence[bytes]) -> dict[bytes, OSError]:
    """Remove each in every hierarchy; the failures by path. Gone is fine."""
    failures = _rmdir(tree, [(one, path) for path in paths for one in tree.hierarchies.all])
    refused = {place: number for place, number in failures.items() if number not in BUSY}
    busy = [place for place in failures if place not in refused]
    end = time.monotonic() + _PATIENCE_S
    pause_s = _FIRST_PAUSE_S
    while busy:
        busy = _rmdir_subtrees(tree, busy)
        if not busy or time.monotonic() >= end:
            break
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    refused.update(dict.fromkeys(busy, errno.EBUSY))
    return {
        place[1]: OSError(number, os.strerror(number), tree.absolute(*place))
        for place, number in refused.items()
    }


def _rmdir_subtrees(tree: Tree, places: Sequence[Place]) -> list[Place]:
    """Remove from the bottom up; which of `places` stay.

    Only what refused comes here: most cgroups have nothing below them and were gone at once.
    """
    deepest_first = [(one, at) for one, path in places for at in reversed(tree.subtree(one, path))]
    failures = _rmdir(tree, deepest_first)
    return [place for place in places if place in failures]


def _rmdir(tree: Tree, places: Sequence[Place]) -> dict[Place, int]:
    """Try each once, in order: the errno of those that failed."""
    results = tree.run([tree.rmdir(one, path) for one, path in places])[2]
    return {
        place: -result
        for place, result in zip(places, results, strict=True)
        if isinstance(result, int) and result != 0 and -result not in GONE
    }


def remove_if_empty(tree: Tree, paths: Sequence[bytes]) -> bool:
    """Remove what nobody uses, in this order; whether the last of them is gone everywhere.

    Raises: OSError for another reason than being in use.
    """
    failures = _rmdir(tree, [(one, path) for path in paths for one in tree.hierarchies.all])
    for place, number in failures.items():
        if number not in BUSY:
            raise OSError(number, os.strerror(number), tree.absolute(*place))
    return not tree.exists(paths[-1])
