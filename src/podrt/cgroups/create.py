"""Making many cgroups in one batch of steps, and wording what the kernel refused."""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Sequence

import msgspec

from podrt._fast import cgroupfs
from podrt.errors import Busy, EngineFailed, InvalidConfig, InvalidState, PodrtError, Unsupported
from podrt.model.resources import Resources
from podrt.model.runtimespec import DeviceRule

from . import devices, knobs, paths, processes
from .base import NewCgroup
from .hierarchies import NEEDED, Hierarchy
from .knobs import FLAGS, Placed
from .prepare import Ready, prepare
from .tree import GONE, Result, Step, Tree, failed

_log = logging.getLogger(__name__)

# Another command may remove the shared parent between our making it and our using it.
_RACES = 20

_CPUSET_FILES = (b"/cpuset.cpus", b"/cpuset.mems")


class _Owned(msgspec.Struct, frozen=True):
    """What a step was for."""

    hierarchy: Hierarchy
    path: bytes
    placed: Placed | None = None
    is_cgroup: bool = False


class _Batch:
    """Steps with what each is for.

    Nearly every cgroup of a host is made by the same steps, so they are kept as they are for a
    cgroup without a name, which is put before their paths.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.owners: list[_Owned] = []
        # Where each cgroup's reads begin.
        self.looks: list[tuple[bytes, int]] = []

    def add(self, step: Step, owner: _Owned) -> None:
        self.steps.append(step)
        self.owners.append(owner)

    def add_at(self, at: bytes, nameless: _Batch) -> None:
        """Add the steps of `nameless` for the cgroup `at`."""
        start = len(self.steps)
        self.steps += [(op, fd, at + path, data) for op, fd, path, data in nameless.steps]
        self.owners += nameless.owners
        self.looks += [(at, start + first) for _, first in nameless.looks]

    def owner(self, index: int) -> _Owned:
        """What a step was for, with the name that it went by."""
        return msgspec.structs.replace(self.owners[index], path=self.steps[index][2])


def create_many(tree: Tree, cgroups: Sequence[NewCgroup]) -> None:
    """Make them in their order. Raises as CgroupManager.create; what was new is removed then."""
    made: list[tuple[Hierarchy, bytes]] = []
    try:
        # All that can be judged without the kernel comes before the first side effect.
        steps = [_steps_of(tree, one.resources, one.devices) for one in cgroups]
        for attempt in range(_RACES):
            is_last = attempt == _RACES - 1
            try:
                # Mostly the parents stand already: the first try does without looking at them.
                ready = prepare(tree, _parents(cgroups), made) if attempt else None
                if ready is not None:
                    ready.is_last = is_last
                batch = _fill(tree, cgroups, steps, ready)
                if not _create_once(tree, batch, ready, made):
                    continue
                _filter_many(tree, cgroups)
                return
            except EngineFailed as exc:
                if exc.errno not in GONE or is_last:
                    raise
        raise Busy("the cgroup parent", "other commands keep removing it")
    except BaseException:
        tree.run([tree.rmdir(one, at) for one, at in reversed(made)])
        raise


def update(tree: Tree, path: bytes, resources: Resources) -> None:
    """Turn the knobs of a cgroup that exists. Raises as CgroupManager.update."""
    placed = knobs.place(resources, tree.hierarchies)
    first = _turn(tree, path, placed)
    # The kernel checks memory against memory plus swap and quota against period at every single
    # write: what cannot be done upwards can be done downwards.
    if first is not None and _turn(tree, path, tuple(reversed(placed))) is not None:
        raise first


def _turn(tree: Tree, path: bytes, placed: Sequence[Placed]) -> PodrtError | None:
    batch = _Batch()
    for one in placed:
        _add_knob(tree, batch, path, one)
    index, number, results = tree.run(batch.steps)
    if index >= 0:
        return _refused(tree, batch.owner(index), number, Ready({}, set(), {}, True))
    _check_optional(batch, results)
    return None


def _table(tree: Tree, rules: tuple[DeviceRule, ...]) -> devices.Table:
    if tree.hierarchies.of("devices") is None and tree.hierarchies.unified is None:
        raise Unsupported("linux.resources.devices", "this host has no device cgroup")
    return _compiled(rules)


@functools.lru_cache(maxsize=256)
def _compiled(rules: tuple[DeviceRule, ...]) -> devices.Table:
    """Nearly every container has the same rules."""
    return devices.compile_rules(rules)


def _parents(cgroups: Sequence[NewCgroup]) -> set[str]:
    return {paths.parent_of(paths.check(one.path)) for one in cgroups} - {""}


@functools.lru_cache(maxsize=64)
def _steps_of(
    tree: Tree, resources: Resources, rules: tuple[DeviceRule, ...] | None
) -> tuple[_Batch, _Batch]:
    """How a cgroup is made, and how it then gets its limits and devices and is looked at."""
    placed = knobs.place(resources, tree.hierarchies)
    table = None if rules is None else _table(tree, rules)
    making, filling = _Batch(), _Batch()
    for one in tree.hierarchies.all:
        making.add(tree.mkdir(one, b""), _Owned(one, b"", is_cgroup=True))
    for knob in placed:
        _add_knob(tree, filling, b"", knob)
    if table is not None:
        _add_devices(tree, filling, b"", table)
    filling.looks.append((b"", len(filling.steps)))
    for hierarchy, file in _looked_at(tree):
        filling.add(tree.read(hierarchy, file), _Owned(hierarchy, file))
    return making, filling


def _fill(
    tree: Tree,
    cgroups: Sequence[NewCgroup],
    steps: Sequence[tuple[_Batch, _Batch]],
    ready: Ready | None,
) -> _Batch:
    """Every step for every cgroup: made, given its limits and devices, then looked at."""
    batch = _Batch()
    for one, (making, filling) in zip(cgroups, steps, strict=True):
        at = paths.below_top(one.path)
        batch.add_at(at, making)
        if ready is not None:
            _add_cpuset(tree, batch, at, ready)
        batch.add_at(at, filling)
    return batch


@functools.lru_cache(maxsize=8)
def _looked_at(tree: Tree) -> tuple[tuple[Hierarchy, bytes], ...]:
    """The files that tell whether a cgroup can be used as it is."""
    found = []
    freezer, unified = tree.hierarchies.of("freezer"), tree.hierarchies.unified
    cpuset = _first_version(tree, "cpuset")
    if freezer is not None:
        found.append((freezer, b"/freezer.state"))
    elif unified is not None:
        found.append((unified, b"/cgroup.events"))
    if cpuset is not None:
        found += [(cpuset, file) for file in _CPUSET_FILES]
    if unified is not None:
        found.append((unified, b"/cgroup.controllers"))
    return tuple(found)


def _create_once(
    tree: Tree,
    batch: _Batch,
    ready: Ready | None,
    made: list[tuple[Hierarchy, bytes]],
) -> bool:
    """Do the steps; False when the parents must be looked at (again) first. Raises as create."""
    index, number, results = tree.run(batch.steps)
    for step, owner, result in zip(batch.steps, batch.owners, results, strict=False):
        if owner.is_cgroup and result == 0:
            made.append((owner.hierarchy, step[2]))
    if index >= 0:
        if ready is None:
            return False
        raise _refused(tree, batch.owner(index), number, ready)
    if not _are_usable(tree, batch, results, ready):
        return False
    _check_optional(batch, results)
    return True


def _are_usable(tree: Tree, batch: _Batch, results: Sequence[Result], ready: Ready | None) -> bool:
    files = _looked_at(tree)
    wanted = tree.hierarchies.unified.controllers & NEEDED if tree.hierarchies.unified else set()
    for at, first in batch.looks:
        seen = results[first : first + len(files)]
        for (hierarchy, file), text in zip(files, seen, strict=True):
            words = text.split() if isinstance(text, bytes) else []
            if file in _CPUSET_FILES and not words:
                if ready is None or not _fill_cpuset(tree, hierarchy, at, file, ready):
                    return False
            elif file == b"/cgroup.controllers" and ready is None:
                if wanted - {word.decode("ascii") for word in words}:
                    return False
            elif _says_frozen(file, words):
                _thaw_leftover(tree, at)
    return True


def _says_frozen(file: bytes, words: Sequence[bytes]) -> bool:
    if file == b"/freezer.state":
        return words in ([b"FROZEN"], [b"FREEZING"])
    return (
        file == b"/cgroup.events"
        and b"frozen" in words
        and (words[words.index(b"frozen") + 1] == b"1")
    )


def _fill_cpuset(tree: Tree, cpuset: Hierarchy, at: bytes, file: bytes, ready: Ready) -> bool:
    """No cpuset stays empty, as one made while another command remade its parent would."""
    values = ready.cpuset[at.rpartition(b"/")[0]]
    return tree.put(cpuset, at + file, values[_CPUSET_FILES.index(file)]) == 0


def _thaw_leftover(tree: Tree, at: bytes) -> None:
    """A cgroup left over from a crash may be frozen, which would hang what starts in it.

    Raises: InvalidState when somebody lives in it, or when it is its parent that is frozen.
    """
    if not processes.procs(tree, at):
        processes.thaw(tree, at)
        if not processes.is_frozen(tree, at):
            return
    raise InvalidState("use the cgroup", "/" + os.fsdecode(at), "it is frozen")


def _filter_many(tree: Tree, cgroups: Sequence[NewCgroup]) -> None:
    if tree.hierarchies.of("devices") is not None:
        return
    for one in cgroups:
        if one.devices is not None:
            _filter_devices(tree, paths.below_top(one.path), _table(tree, one.devices))


def _add_cpuset(tree: Tree, batch: _Batch, at: bytes, ready: Ready) -> None:
    cpuset = _first_version(tree, "cpuset")
    parent = at.rpartition(b"/")[0]
    if cpuset is not None and parent in ready.bare:
        for file, value in zip(_CPUSET_FILES, ready.cpuset[parent], strict=True):
            batch.add(tree.write(cpuset, at + file, value), _Owned(cpuset, at + file))


def _first_version(tree: Tree, controller: str) -> Hierarchy | None:
    hierarchy = tree.hierarchies.of(controller)
    return hierarchy if hierarchy is not None and hierarchy.version == 1 else None


def _add_knob(tree: Tree, batch: _Batch, at: bytes, placed: Placed) -> None:
    knob = placed.knob
    file = at + b"/" + knob.file.encode()
    step = tree.write(placed.hierarchy, file, knob.value.encode(), optional=knob.optional)
    batch.add(step, _Owned(placed.hierarchy, file, placed))


def _add_devices(tree: Tree, batch: _Batch, at: bytes, table: devices.Table) -> None:
    hierarchy = tree.hierarchies.of("devices")
    if hierarchy is None:
        return
    for name, value in devices.v1_writes(table):
        file = at + b"/" + name.encode()
        batch.add(tree.write(hierarchy, file, value), _Owned(hierarchy, file))


def _filter_devices(tree: Tree, at: bytes, table: devices.Table) -> None:
    unified = tree.hierarchies.unified
    if unified is None:
        return
    path = tree.absolute(unified, at)
    try:
        fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fd(unified))
        try:
            cgroupfs.set_device_filter(fd, devices.program(table))
        finally:
            os.close(fd)
    except OSError as exc:
        raise EngineFailed("cgroup device filter", exc.errno or 0, path) from exc


def _check_optional(batch: _Batch, results: Sequence[Result]) -> None:
    """Of the files that may be missing, one per limit must have taken it."""
    done: dict[str, bool] = {}
    last: dict[str, tuple[Placed, int]] = {}
    for owner, result in zip(batch.owners, results, strict=True):
        placed = owner.placed
        if placed is None or not placed.knob.optional or not isinstance(result, int):
            continue
        field = placed.knob.field
        done[field] = done.get(field, False) or result == 0
        if field not in last or result != -errno.ENOENT:
            last[field] = (placed, -result)
    for field, taken in done.items():
        if taken:
            continue
        placed, number = last[field]
        if number != errno.ENOENT:
            raise _refused_value(placed, number)
        if not placed.knob.droppable:
            raise Unsupported(FLAGS[field], f"this kernel has no {placed.knob.file}")
        _log.warning(
            "%s is left out: this kernel does not count it (no %s)",
            FLAGS[field],
            placed.knob.file,
        )


def _refused(tree: Tree, owner: _Owned, number: int, ready: Ready) -> PodrtError:
    """The error for the step that failed."""
    path = tree.absolute(owner.hierarchy, owner.path)
    placed = owner.placed
    if placed is None:
        return failed(number, path)
    if _is_race(tree, owner, placed, number, ready):
        return EngineFailed("cgroup", errno.ENOENT, path)
    if number not in GONE:
        return _refused_value(placed, number)
    controller = placed.knob.controller
    why = ready.refused.get(controller, f"this kernel has no {placed.knob.file}")
    return Unsupported(FLAGS[placed.knob.field], f"no {controller} controller here: {why}")


def _is_race(tree: Tree, owner: _Owned, placed: Placed, number: int, ready: Ready) -> bool:
    """Whether another command took the cgroup or its parent away, or is just making the parent.

    Then the next round sets it right.
    """
    at = owner.path.rpartition(b"/")[0]
    controller = placed.knob.controller
    if number in GONE:
        if not tree.is_in(owner.hierarchy, at):
            return True
        # On v2 a file that is not optional comes with its controller, and that was handed down a
        # moment ago: the parent was removed and made again meanwhile. Looking at it now proves
        # nothing, since whoever remade it may have given it its controllers by now. A file that
        # is missing in every round is one this kernel does not have.
        is_remade = owner.hierarchy.version == 2 and controller not in ready.refused
        return is_remade and not ready.is_last
    # The parent's cpuset was empty a moment ago, or it allows less: the last round will tell.
    return number == errno.EACCES and controller == "cpuset" and not ready.is_last


def _refused_value(placed: Placed, number: int) -> PodrtError:
    flag = FLAGS[placed.knob.field]
    if number == errno.EOPNOTSUPP:
        return Unsupported(flag, "this kernel refuses it")
    if number == errno.EBUSY:
        return InvalidConfig(flag, f"more than {placed.knob.value} is in use")
    return InvalidConfig(flag, f"the kernel refuses {placed.knob.value}: {os.strerror(number)}")
