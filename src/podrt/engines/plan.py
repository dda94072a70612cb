"""From an OCI runtime specification to a plan: the flat list of operations the launcher executes.

Three kinds of process have one: a container of podrt's, whose monitor is its parent
(`compile_plan`); a container of a bundle, which the command `podrt oci` makes (`compile_bundle`);
and another process in a container that runs (`compile_exec`). What the native engine cannot honour
is refused by the field's name, never dropped; the closed list is in `model/unsupported.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from podrt.errors import InvalidConfig
from podrt.linux.lsm import security_modules
from podrt.model import runtimespec as oci
from podrt.model.unsupported import Modules, refuse, unsupported

from . import plan_devices, plan_hooks, plan_mounts, plan_namespaces, plan_process
from .cgroup_view import CGROUP_DIR, CgroupView, Hierarchy, cgroup_view
from .mount_options import MS_PRIVATE, MS_REC, PROPAGATIONS
from .plan_hooks import CREATE_CONTAINER, START_CONTAINER, Identity
from .plan_mounts import SHARED_ROOT, Around
from .plan_namespaces import CLONE_FLAGS, Held, Namespaces
from .plan_ops import Op, OpCode, encode_plan
from .plan_process import MAKE_DIRECTORY

__all__ = [
    "CGROUP_DIR",
    "CLONE_FLAGS",
    "BindRoot",
    "CgroupView",
    "Held",
    "Hierarchy",
    "Identity",
    "OverlayRoot",
    "Root",
    "cgroup_view",
    "compile_bundle",
    "compile_exec",
    "compile_plan",
    "warnings",
]

READ_ONLY_ROOT = 1
OVERLAY_DATA_BYTES = 4095
CALLERS_MOUNTS = 2
KEEP_STDIO = 1
HAS_TERMINAL = 1
MAX_PRESERVED = 1 << 16
V2 = CgroupView()
NOTHING_HELD = Held()


class OverlayRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A root of layers: `lower` has the highest first; without `upper` it is read-only."""

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    options: tuple[str, ...] = ()


class BindRoot(msgspec.Struct, frozen=True):
    """A directory of the host as the root."""

    path: str


Root: TypeAlias = OverlayRoot | BindRoot


class _Task(NamedTuple):
    """What all plans are made of: the parts that must be there, and what was found out."""

    spec: oci.Spec
    process: oci.Process
    linux: oci.Linux
    namespaces: Namespaces
    root: Root
    around: Around
    filter_path: str
    who: Identity | None
    shm: str
    has_own_mounts: bool


def compile_plan(
    spec: oci.Spec,
    *,
    root: Root,
    log_path: str,
    log_max_bytes: int = 0,
    held: Held | None = None,
    cgroups: CgroupView | None = None,
    filter_path: str = "",
    modules: Modules | None = None,
) -> bytes:
    """The plan file of a container that a monitor starts.

    `filter_path` is the compiled seccomp filter of `spec.linux.seccomp`; `modules` are the
    kernel's security modules (None: this host's). Raises: Unsupported, InvalidConfig,
    LimitReached.
    """
    process = spec.process
    if process is not None and process.terminal:
        raise unsupported("process.terminal", "")
    if spec.hooks is not None and spec.hooks != oci.Hooks():
        raise unsupported("hooks", "")
    task = _task(
        spec,
        root=root,
        cgroups=cgroups,
        held=held or Held(),
        filter_path=filter_path,
        modules=modules,
    )
    # Its own output is the user's: /dev/stdout is opened again by many programs.
    owner = plan_namespaces.to_host(task.linux.uid_mappings, task.process.user.uid)
    ops = [Op(OpCode.LOG, (log_path, log_max_bytes, owner)), *_container(task)]
    return encode_plan(ops, clone_flags=task.namespaces.fresh)


def compile_bundle(
    spec: oci.Spec,
    *,
    who: Identity,
    cgroups: CgroupView | None = None,
    filter_path: str = "",
    preserve_fds: int = 0,
    modules: Modules | None = None,
) -> bytes:
    """The plan file of a container of a bundle: what `podrt oci create` and `run` hand the
    launcher.

    `who.bundle` is the bundle's absolute path: the root and the sources of binds may be relative
    to it. `who` is also what the hooks in the container's namespaces and a seccomp agent read.
    The root is bound as it is, no overlay, no copy, no log; standard input, output and error are
    the launcher's own, or the terminal's if `process.terminal`, and `preserve_fds` descriptors
    from 3 on stay open.

    cgroups: `cgroup_view(parse_mounts(...), path)` of this host with the container's cgroup.
    filter_path: the file with `podrt.spec.seccomp.filter_of(spec.linux.seccomp, machine)`; must
    be given if the specification has a seccomp section.

    What the caller does itself: the cgroup and `linux.resources` (before, through the launcher's
    join directories); hooks.prestart, createRuntime, poststart and poststop; annotations in the
    state document. `warnings(spec)` has what deserves a line in the log.

    Raises: Unsupported, InvalidConfig (both name the field), LimitReached.
    """
    if not who.bundle.startswith("/"):
        raise InvalidConfig("bundle", f"{who.bundle!r} is not an absolute path")
    if not 0 <= preserve_fds <= MAX_PRESERVED:
        raise InvalidConfig("--preserve-fds", f"{preserve_fds} is not 0 to {MAX_PRESERVED}")
    if spec.root is None or not spec.root.path:
        raise InvalidConfig("root.path", "is missing")
    plan_hooks.check_hooks(spec.hooks)
    task = _task(
        spec,
        root=BindRoot(os.path.join(who.bundle, spec.root.path)),
        cgroups=cgroups,
        filter_path=filter_path,
        modules=modules,
        who=who,
    )
    has_terminal = task.process.terminal
    stdio = Op(OpCode.STDIO, (0 if has_terminal else KEEP_STDIO, preserve_fds))
    ops = _container(task)
    ops.insert(1 if ops[0].code is OpCode.IDMAP else 0, stdio)
    flags = HAS_TERMINAL if has_terminal else 0
    return encode_plan(ops, clone_flags=task.namespaces.fresh, flags=flags)


def compile_exec(
    process: oci.Process,
    *,
    namespaces: Mapping[str, str],
    seccomp: oci.Seccomp | None = None,
    filter_path: str = "",
    preserve_fds: int = 0,
    who: Identity | None = None,
    first_pid: int = 0,
    modules: Modules | None = None,
) -> bytes:
    """The plan file of another process in a container: `podrt oci exec`.

    `namespaces` maps types as the specification names them ("mount", "network") to the files of
    the container's own: all it does not share with the caller. `seccomp` and `filter_path` are
    the container's, and so are `who` and `first_pid`, which a seccomp agent is told. Raises as
    `compile_bundle` does.
    """
    spec = oci.Spec(
        process=process,
        linux=oci.Linux(
            namespaces=tuple(oci.Namespace(type=k, path=v) for k, v in namespaces.items()),
            seccomp=seccomp,
        ),
    )
    refuse(spec, security_modules() if modules is None else modules)
    found = plan_namespaces.find_namespaces(spec.linux.namespaces if spec.linux else (), Held())
    if found.fresh:
        raise InvalidConfig("namespaces", "a process in a container makes none")
    notified = plan_hooks.notify_state(seccomp, who, first_pid)
    ops = [
        Op(OpCode.STDIO, (0 if process.terminal else KEEP_STDIO, preserve_fds)),
        *plan_process.affinity(process.exec_cpu_affinity, initial=True),
        *found.joins,
        *plan_process.terminal(process),
        *plan_process.affinity(process.exec_cpu_affinity, initial=False),
        *plan_process.limits(process, None),
        *plan_process.credentials(process, seccomp, filter_path, notified, is_alone=True),
        plan_process.program(process),
    ]
    return encode_plan(ops, clone_flags=0, flags=HAS_TERMINAL if process.terminal else 0)


def warnings(spec: oci.Spec) -> list[str]:
    """What of a specification is left out with a warning: capabilities that cannot be granted, as
    it says itself; options that a bind cannot have. Raises: InvalidConfig."""
    said = plan_process.ungranted(spec.process.capabilities) if spec.process is not None else []
    linux = spec.linux or oci.Linux()
    if not linux.has_namespace("mount") and not linux.has_namespace("user"):
        said.append("linux.namespaces: without a mount namespace its mounts are the caller's, too")
    is_shared = linux.rootfs_propagation in SHARED_ROOT
    gives_none_back = is_shared and linux.has_namespace("user")
    return said + plan_mounts.ineffective(spec.mounts, gives_none_back=gives_none_back)


def _task(
    spec: oci.Spec,
    *,
    root: Root,
    cgroups: CgroupView | None,
    filter_path: str,
    modules: Modules | None,
    held: Held = NOTHING_HELD,
    who: Identity | None = None,
) -> _Task:
    process, linux = spec.process, spec.linux
    if process is None or linux is None:
        raise InvalidConfig("process" if process is None else "linux", "is missing")
    refuse(spec, security_modules() if modules is None else modules)
    # Of a bundle the caller is whoever compiles: its process is there until all is made.
    callers_mounts = f"/proc/{os.getpid()}/ns/mnt" if who is not None else ""
    found = plan_namespaces.find_namespaces(linux.namespaces, held, callers_mounts)
    around = Around(
        cgroups=cgroups or V2,
        bundle=who.bundle if who is not None else "",
        uid_map=linux.uid_mappings,
        gid_map=linux.gid_mappings,
        label=linux.mount_label,
        in_userns="user" in found.kinds,
        shows_own_cgroup="cgroup" not in found.kinds,
        shares_binds=linux.rootfs_propagation in SHARED_ROOT and "user" not in found.kinds,
    )
    has_own_mounts = linux.has_namespace("mount")
    return _Task(
        spec, process, linux, found, root, around, filter_path, who, held.shm, has_own_mounts
    )


def _container(task: _Task) -> list[Op]:
    """The operations of a container's first process, in their order."""
    spec, process, linux, found = task.spec, task.process, task.linux, task.namespaces
    is_read_only = spec.root is not None and spec.root.readonly
    is_layered = isinstance(task.root, OverlayRoot)
    maps = list(plan_namespaces.map_ids(linux, found, is_layered=is_layered))
    if found.makes("user") or (is_layered and maps):
        _check_mapped(process, linux)
    return [
        *maps,
        *plan_namespaces.clocks(linux, found),
        *found.joins,
        root_op(task.root, linux, found),
        *plan_mounts.mount_ops(spec.mounts, task.around, task.shm),
        *plan_devices.device_ops(spec.mounts, linux.devices),
        *plan_process.terminal(process),
        *plan_namespaces.names(spec, found),
        *plan_namespaces.sysctls(linux.sysctl, found),
        *plan_mounts.late_read_only(spec.mounts),
        *plan_mounts.hidden(linux.masked_paths, linux.readonly_paths),
        *_early_directory(process.cwd if is_read_only else "/"),
        *plan_hooks.hook_ops(CREATE_CONTAINER, spec.hooks, task.who),
        Op(
            OpCode.PIVOT,
            (),
            (READ_ONLY_ROOT if is_read_only else 0)
            | (0 if task.has_own_mounts else CALLERS_MOUNTS),
        ),
        *_propagation(linux.rootfs_propagation),
        *plan_process.limits(process, linux.personality),
        *plan_process.credentials(
            process,
            linux.seccomp,
            task.filter_path,
            plan_hooks.notify_state(linux.seccomp, task.who),
            is_alone=task.who is not None,
        ),
        *plan_hooks.hook_ops(START_CONTAINER, spec.hooks, task.who),
        plan_process.program(process),
    ]


def _early_directory(cwd: str) -> Iterator[Op]:
    """A working directory that is missing can only be made while the root is writable."""
    if cwd != "/":
        yield Op(OpCode.CWD, (cwd,), MAKE_DIRECTORY)


def root_op(root: Root, linux: oci.Linux, found: Namespaces) -> Op:
    """The operation that makes the root. Raises: InvalidConfig."""
    if isinstance(root, BindRoot):
        return Op(OpCode.ROOT_BIND, (root.path,))
    if not root.lower:
        raise InvalidConfig("root", "an overlay needs a layer")
    place = root.upper or root.lower[0]
    own = (f"upperdir={root.upper}", f"workdir={root.work}") if root.upper else ()
    options = (*own, *root.options)
    if plan_namespaces.maps_layers(linux, found):
        return Op(OpCode.ROOT_OVERLAY, (place, options, "", root.lower))
    layers = tuple(f"lowerdir+={path}" for path in root.lower)
    return Op(OpCode.ROOT_OVERLAY, (place, (*layers, *options), _mount_data(root), ()))


def _mount_data(root: OverlayRoot) -> str:
    """The overlay's options as mount(2) takes them; empty when they are too long for it."""
    words = ["lowerdir=" + ":".join(_escaped(path, "\\:,") for path in root.lower)]
    if root.upper:
        words += [
            "upperdir=" + _escaped(root.upper, "\\,"),
            "workdir=" + _escaped(root.work, "\\,"),
        ]
    data = ",".join([*words, *root.options])
    return data if len(os.fsencode(data)) <= OVERLAY_DATA_BYTES else ""


def _escaped(path: str, special: str) -> str:
    return "".join(f"\\{letter}" if letter in special else letter for letter in path)


def _check_mapped(process: oci.Process, linux: oci.Linux) -> None:
    """Who the process is must be somebody in its user namespace."""
    user = process.user
    for name, ranges, numbers in (
        ("uid", linux.uid_mappings, (user.uid,)),
        ("gid", linux.gid_mappings, (user.gid,)),
        ("additionalGids", linux.gid_mappings, user.additional_gids),
    ):
        for number in numbers:
            if not plan_namespaces.has_id(ranges, number):
                raise InvalidConfig(f"process.user.{name}", f"{number} is not mapped")


def _propagation(word: str) -> Iterator[Op]:
    if not word:
        return
    if word not in PROPAGATIONS:
        raise InvalidConfig("linux.rootfsPropagation", f"{word!r} is no propagation")
    flags = PROPAGATIONS[word]
    if flags & ~MS_REC != MS_PRIVATE:
        yield Op(OpCode.PROPAGATION, (flags,))
