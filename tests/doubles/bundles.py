"""A small bundle's specification for the tests of plans, and what its plans hold."""

from __future__ import annotations

from typing import Any

import msgspec

from podrt.engines.plan import Identity, compile_bundle
from podrt.engines.plan_ops import Op, OpCode, Plan, decode_plan
from podrt.model import runtimespec as oci

WHO = Identity(id="c1", bundle="/bundle", annotations={"a": "1"})
KINDS = ("mount", "pid", "network", "ipc", "uts", "cgroup")
MAP = (oci.IdMapping(container_id=0, host_id=1000, size=100),)
BUNDLE = oci.Spec(
    process=oci.Process(args=("sh",)),
    root=oci.Root(path="rootfs"),
    linux=oci.Linux(namespaces=tuple(oci.Namespace(type=kind) for kind in KINDS)),
)
IN_USERNS = msgspec.structs.replace(
    BUNDLE,
    linux=oci.Linux(
        namespaces=tuple(oci.Namespace(type=kind) for kind in (*KINDS, "user")),
        uid_mappings=MAP,
        gid_mappings=MAP,
    ),
)


def changed(base: oci.Spec = BUNDLE, /, **fields: Any) -> oci.Spec:
    """`base` with other fields; `linux__x` and `process__x` reach inside."""
    parts: dict[str, Any] = {"linux": base.linux, "process": base.process}
    for name in list(fields):
        part, _, inner = name.partition("__")
        if inner:
            parts[part] = msgspec.structs.replace(parts[part], **{inner: fields.pop(name)})
    return msgspec.structs.replace(base, **(parts | fields))


def compiled(spec: oci.Spec = BUNDLE, **more: Any) -> Plan:
    """The plan of a bundle, read back."""
    arguments: dict[str, Any] = {"who": WHO, "modules": frozenset(), **more}
    return decode_plan(compile_bundle(spec, **arguments))


def ops_of(plan: Plan, *codes: OpCode) -> list[Op]:
    """The operations of some kinds in their order."""
    return [op for op in plan.ops if op.code in codes]


def only(plan: Plan, code: OpCode) -> Op:
    """The one operation of a kind."""
    (found,) = ops_of(plan, code)
    return found


def codes_of(plan: Plan) -> list[str]:
    """The kinds of operations in their order, each run of one kind once."""
    found: list[str] = []
    for op in plan.ops:
        if not found or found[-1] != op.code.name:
            found.append(op.code.name)
    return found
