"""Making many cgroups in one batch of steps, and wording what the kernel refused."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence

import msgspec

from podrt._fast import cgroupfs
from podrt.errors import EngineFailed, InvalidConfig, InvalidState, PodrtError, Unsupported
from podrt.model.resources import Resources
from podrt.model.runtimespec import DeviceRule

from . import devices, knobs, paths, processes
from .base import NewCgroup
from .hierarchies import Hierarchy
from .knobs import FLAGS, Placed
from .prepare import Ready, prepare
from .tree import GONE, Result, Step, Tree, failed

_log = logging.getLogger(__name__)

# Another command may remove the shared parent between our making it and our using it.
_RACES = 20


class _Owned(msgspec.Struct, frozen=True):
    """What a step was for."""

    hierarchy: Hierarchy
    path: bytes
    placed: Placed | None = None
    is_cgroup: bool = False


class _Batch:
    """Steps with what each is for."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.owners: list[_Owned] = []

    def add(self, step: Step, owner: _Owned) -> None:
        self.steps.append(step)
        self.owners.append(owner)


def create_many(tree: Tree, cgroups: Sequence[NewCgroup]) -> None:
    """Make them in their order. Raises as CgroupManager.create; what was new is removed then."""
    made: list[tuple[Hierarchy, bytes]] = []
    try:
        # All that can be judged without the kernel comes before the first side effect.
        placed = [knobs.place(one.resources, tree.hierarchies) for one in cgroups]
        tables = [None if one.devices is None else _table(tree, one.devices) for one in cgroups]
        for attempt in range(_RACES):
            try:
                _create_once(tree, cgroups, placed, tables, made)
                return
            except EngineFailed as exc:
                if exc.errno not in GONE or attempt == _RACES - 1:
                    raise
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
        return _refused(tree, batch.owners[index], number, Ready({}, {}))
    _check_optional(batch, results)
    return None


def _table(tree: Tree, rules: tuple[DeviceRule, ...]) -> devices.Table:
    if tree.hierarchies.of("devices") is None and tree.hierarchies.unified is None:
        raise Unsupported("linux.resources.devices", "this host has no device cgroup")
    return devices.compile_rules(rules)


def _create_once(
    tree: Tree,
    cgroups: Sequence[NewCgroup],
    placed: Sequence[tuple[Placed, ...]],
    tables: Sequence[devices.Table | None],
    made: list[tuple[Hierarchy, bytes]],
) -> None:
    parents = {paths.parent_of(paths.check(one.path)) for one in cgroups}
    ready = prepare(tree, parents - {""}, made)
    batch = _Batch()
    relative = [paths.below_top(one.path) for one in cgroups]
    for at, knobs_here, table in zip(relative, placed, tables, strict=True):
        _add_cgroup(tree, batch, at, ready)
        for one in knobs_here:
            _add_knob(tree, batch, at, one)
        if table is not None:
            _add_devices(tree, batch, at, table)
    index, number, results = tree.run(batch.steps)
    for owner, result in zip(batch.owners, results, strict=True):
        if owner.is_cgroup and result == 0:
            made.append((owner.hierarchy, owner.path))
    if index >= 0:
        raise _refused(tree, batch.owners[index], number, ready)
    _check_optional(batch, results)
    _thaw_stale(tree, batch, results)
    if tree.hierarchies.of("devices") is None:
        for at, table in zip(relative, tables, strict=True):
            if table is not None:
                _filter_devices(tree, at, table)


def _add_cgroup(tree: Tree, batch: _Batch, at: bytes, ready: Ready) -> None:
    for one in tree.hierarchies.all:
        batch.add(tree.mkdir(one, at), _Owned(one, at, is_cgroup=True))
    given = ready.cpuset.get(at.rpartition(b"/")[0])
    cpuset = tree.hierarchies.of("cpuset")
    if given is not None and cpuset is not None:
        for name, value in zip((b"cpuset.cpus", b"cpuset.mems"), given, strict=True):
            file = at + b"/" + name
            batch.add(tree.write(cpuset, file, value), _Owned(cpuset, file))


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


def _thaw_stale(tree: Tree, batch: _Batch, results: Sequence[Result]) -> None:
    """A cgroup left over from a crash may be frozen, which would hang what starts in it.

    Raises: InvalidState when somebody lives in it: then it is no leftover.
    """
    home = processes.home(tree)
    for owner, result in zip(batch.owners, results, strict=True):
        if not owner.is_cgroup or owner.hierarchy != home or result != -errno.EEXIST:
            continue
        if processes.is_frozen(tree, owner.path):
            if processes.procs(tree, owner.path):
                raise InvalidState("use the cgroup", "/" + os.fsdecode(owner.path), "it is frozen")
            processes.thaw(tree, owner.path)


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
    if number not in GONE:
        return _refused_value(placed, number)
    if not tree.is_in(owner.hierarchy, owner.path.rpartition(b"/")[0]):
        return EngineFailed("cgroup", number, path)
    controller = placed.knob.controller
    why = ready.refused.get(controller, f"this kernel has no {placed.knob.file}")
    return Unsupported(FLAGS[placed.knob.field], f"no {controller} controller here: {why}")


def _refused_value(placed: Placed, number: int) -> PodrtError:
    flag = FLAGS[placed.knob.field]
    if number == errno.EOPNOTSUPP:
        return Unsupported(flag, "this kernel refuses it")
    if number == errno.EBUSY:
        return InvalidConfig(flag, f"more than {placed.knob.value} is in use")
    return InvalidConfig(flag, f"the kernel refuses {placed.knob.value}: {os.strerror(number)}")
