"""Plans for the launcher, with the compiled seccomp filter that they point to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence

import msgspec

from podrt.engines.plan import Identity, cgroup_view, compile_bundle, compile_exec, warnings
from podrt.engines.plan_ops import Op, OpCode, decode_plan, encode_plan
from podrt.errors import StoreFailed
from podrt.linux import files
from podrt.linux.mounts import read_mounts
from podrt.model import runtimespec as oci

from .bundle import Bundle
from .state import Container

__all__ = ["Wanted", "container_plan", "exec_plan", "stops_for_hooks", "warnings"]

RUNTIME_HOOKS = 1
"""HOOKS flag: the launcher stops for the hooks of the host."""

# Stands for a process that is not given: only `start` needs one, and refuses. Source: runtime-spec
# config.md, "process".
_NOBODY = oci.Process(args=("",), cwd="/")

_STOP = Op(OpCode.HOOKS, ("", (), (), 0, ()), RUNTIME_HOOKS)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan depends on besides the bundle; `filters` is where compiled filters are kept."""

    id: str
    cgroup: str
    filters: Callable[[], str]
    preserve_fds: int = 0
    new_keyring: bool = True


def container_plan(bundle: Bundle, wanted: Wanted) -> bytes:
    """The plan of a container's first process. Raises: Unsupported, InvalidConfig."""
    spec = bundle.spec
    seccomp = spec.linux.seccomp if spec.linux is not None else None
    plan = compile_bundle(
        spec if spec.process is not None else msgspec.structs.replace(spec, process=_NOBODY),
        who=Identity(id=wanted.id, bundle=bundle.path, annotations=spec.annotations),
        cgroups=cgroup_view(read_mounts(), wanted.cgroup),
        filter_path=_filter(seccomp, wanted.filters),
        preserve_fds=wanted.preserve_fds,
    )
    stops = stops_for_hooks(spec)
    if wanted.new_keyring and not stops:
        return plan
    return _changed(plan, stops=stops, new_keyring=wanted.new_keyring)


def stops_for_hooks(spec: oci.Spec) -> bool:
    """Whether hooks of the host run while the container is made."""
    return bool(spec.hooks and (spec.hooks.prestart or spec.hooks.create_runtime))


def _changed(data: bytes, *, stops: bool, new_keyring: bool) -> bytes:
    """The plan with a stop right before what runs in the container's own file system."""
    plan = decode_plan(data)
    ops: list[Op] = []
    for op in plan.ops:
        if stops and op.code in (OpCode.PIVOT, OpCode.HOOKS):
            ops.append(_STOP)
            stops = False
        if new_keyring or op.code is not OpCode.KEYRING:
            ops.append(op)
    return encode_plan(ops, clone_flags=plan.clone_flags, flags=plan.flags)


_KINDS = {"mnt": "mount", "net": "network"}


def exec_plan(
    process: oci.Process,
    spec: oci.Spec,
    namespaces: Sequence[tuple[str, str]],
    container: Container,
    wanted: Wanted,
) -> bytes:
    """The plan of one more process in `container` of `spec`. Raises as `container_plan`."""
    seccomp = spec.linux.seccomp if spec.linux is not None else None
    paths: Mapping[str, str] = {_KINDS.get(kind, kind): path for kind, path in namespaces}
    return compile_exec(
        process,
        namespaces=paths,
        seccomp=seccomp,
        filter_path=_filter(seccomp, wanted.filters),
        preserve_fds=wanted.preserve_fds,
        who=Identity(id=container.id, bundle=container.bundle, annotations=container.annotations),
        first_pid=container.pid,
    )


def _filter(seccomp: oci.Seccomp | None, filters: Callable[[], str]) -> str:
    """The file of the compiled filter, made the first time. Raises: InvalidConfig, StoreFailed."""
    if seccomp is None:
        return ""
    machine = os.uname().machine
    name = hashlib.sha256(machine.encode() + msgspec.json.encode(seccomp)).hexdigest()
    path = f"{filters()}/{name}.bpf"
    if not os.path.exists(path):
        from podrt.spec.seccomp import filter_of

        try:
            files.write_atomically(path, filter_of(seccomp, machine))
        except OSError as exc:
            raise StoreFailed(path, exc.errno or 0) from exc
    return path
