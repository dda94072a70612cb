"""The processes of a cgroup: who they are, freezing them, killing them."""

from __future__ import annotations

import errno
import os
import signal
import time

from podrt.errors import EngineFailed

from .hierarchies import Hierarchy
from .tree import GONE, Tree

# How long a freeze or a kill may take: a process in an uninterruptible wait (a dead network disk)
# would hold the caller for ever.
FREEZE_S = 2.0
KILL_S = 5.0
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.02


class _Patience:
    """Pauses that grow, until the time is over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause_s = _FIRST_PAUSE_S

    def wait(self) -> bool:
        """Pause; False when the time is over."""
        if time.monotonic() >= self._end:
            return False
        time.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return True


def home(tree: Tree) -> Hierarchy:
    """The hierarchy that is asked who lives in a cgroup: the freezer's on v1."""
    hierarchies = tree.hierarchies
    return hierarchies.of("freezer") or hierarchies.unified or hierarchies.all[0]


def procs(tree: Tree, path: bytes) -> tuple[int, ...]:
    """The processes of the subtree, without those this PID namespace has no number for."""
    hierarchy = home(tree)
    dirs = tree.subtree(hierarchy, path)
    results = tree.run([tree.read(hierarchy, at + b"/cgroup.procs") for at in dirs])[2]
    found: dict[int, None] = {}
    for text in results:
        if isinstance(text, bytes):
            found.update(dict.fromkeys(map(int, text.split())))
    found.pop(0, None)
    return tuple(found)


def is_frozen(tree: Tree, path: bytes) -> bool:
    """Whether the cgroup, by its own or an ancestor's wish, is frozen or freezing."""
    freezer = tree.hierarchies.of("freezer")
    if freezer is not None:
        return tree.get(freezer, path + b"/freezer.state").strip() in (b"FROZEN", b"FREEZING")
    unified = tree.hierarchies.unified
    if unified is None:
        return False
    parts = path.split(b"/")
    chain = [b"/".join(parts[: count + 1]) for count in range(len(parts))]
    texts = tree.run([tree.read(unified, at + b"/cgroup.freeze") for at in chain])[2]
    return any(isinstance(text, bytes) and text.strip() == b"1" for text in texts)


def freeze(tree: Tree, path: bytes) -> None:
    """Freeze and wait until all stand still. Raises: EngineFailed; the cgroup is thawed then."""
    freezer = tree.hierarchies.of("freezer")
    hierarchy = freezer or tree.hierarchies.unified
    if hierarchy is None:
        raise EngineFailed("freeze", errno.EOPNOTSUPP, os.fsdecode(path))
    patience = _Patience(FREEZE_S)
    while True:
        # v1 is asked again and again: a fork that raced the first request leaves it at FREEZING.
        number = _ask_to_freeze(tree, hierarchy, path, freeze=True)
        if number:
            raise EngineFailed("freeze", number, tree.absolute(hierarchy, path))
        if _stands_still(tree, hierarchy, path):
            return
        if not patience.wait():
            _ask_to_freeze(tree, hierarchy, path, freeze=False)
            raise EngineFailed("freeze", errno.EBUSY, tree.absolute(hierarchy, path))


def thaw(tree: Tree, path: bytes) -> None:
    """Let the subtree run again; gone is silent. Raises: EngineFailed."""
    hierarchy = tree.hierarchies.of("freezer") or tree.hierarchies.unified
    if hierarchy is None:
        return
    number = _ask_to_freeze(tree, hierarchy, path, freeze=False)
    if number and number not in GONE:
        raise EngineFailed("thaw", number, tree.absolute(hierarchy, path))


def _ask_to_freeze(tree: Tree, hierarchy: Hierarchy, path: bytes, *, freeze: bool) -> int:
    if hierarchy.version == 1:
        return tree.put(hierarchy, path + b"/freezer.state", b"FROZEN" if freeze else b"THAWED")
    return tree.put(hierarchy, path + b"/cgroup.freeze", b"1" if freeze else b"0")


def _stands_still(tree: Tree, hierarchy: Hierarchy, path: bytes) -> bool:
    if hierarchy.version == 1:
        return tree.get(hierarchy, path + b"/freezer.state").strip() == b"FROZEN"
    return b"frozen 1" in tree.get(hierarchy, path + b"/cgroup.events").split(b"\n")


def kill(tree: Tree, path: bytes) -> None:
    """SIGKILL the subtree and wait until it is empty. Raises: EngineFailed when something stays."""
    patience = _Patience(KILL_S)
    while True:
        if not _kill_once(tree, path):
            return
        if not patience.wait():
            raise EngineFailed("kill", errno.EBUSY, tree.absolute(home(tree), path))


def _kill_once(tree: Tree, path: bytes) -> bool:
    """Kill who is there now; whether anybody was."""
    unified = tree.hierarchies.unified
    if unified is not None and home(tree) == unified:
        number = tree.put(unified, path + b"/cgroup.kill", b"1")
        if number in GONE:
            return False
        if number:
            raise EngineFailed("kill", number, tree.absolute(unified, path))
        return b"populated 1" in tree.get(unified, path + b"/cgroup.events").split(b"\n")
    seen = procs(tree, path)
    _kill_by_pidfd(tree, path, seen)
    # SIGKILL stays pending in a frozen v1 cgroup, so it is thawed once all have the signal. One
    # below may have been frozen by itself.
    freezer = tree.hierarchies.of("freezer")
    if seen and freezer is not None:
        dirs = tree.subtree(freezer, path)
        tree.run(
            [tree.write(freezer, at + b"/freezer.state", b"THAWED", optional=True) for at in dirs]
        )
    return bool(seen)


def _kill_by_pidfd(tree: Tree, path: bytes, pids: tuple[int, ...]) -> None:
    """A number may be another process's by now: held by descriptor, then looked up once more."""
    held: dict[int, int] = {}
    try:
        for pid in pids:
            try:
                held[pid] = os.pidfd_open(pid)
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE):
                    # The rest has its turn in the next round.
                    break
        still_there = set(procs(tree, path)) if held else set()
        for pid, fd in held.items():
            if pid in still_there:
                _send_kill(fd)
    finally:
        for fd in held.values():
            os.close(fd)


def _send_kill(fd: int) -> None:
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        pass
