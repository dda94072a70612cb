"""Plans in a pod's user namespace: joined, with the layers seen through its maps."""

from __future__ import annotations

import pytest

from podrt.engines.plan import BindRoot, Held, OverlayRoot, compile_plan
from podrt.engines.plan_ops import OpCode, Plan, decode_plan
from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci

LAYERS = OverlayRoot(lower=("/low",), upper="/upper", work="/work")
MAP = (oci.IdMapping(container_id=0, host_id=7000, size=100),)
USER = 0x10000000


def plan_of(
    path: str, root: OverlayRoot | BindRoot = LAYERS, *, uid: int = 0, maps: bool = True
) -> Plan:
    spec = oci.Spec(
        process=oci.Process(args=("true",), cwd="/", user=oci.User(uid=uid)),
        root=oci.Root(path="/merged"),
        linux=oci.Linux(
            namespaces=(
                oci.Namespace(type="mount"),
                oci.Namespace(type="user", path=path),
                oci.Namespace(type="uts", path="/run/p/ns/uts"),
            ),
            uid_mappings=MAP if maps else (),
            gid_mappings=MAP if maps else (),
        ),
    )
    held = Held(ns_dir="/run/p/ns", shm="/run/p/shm")
    return decode_plan(compile_plan(spec, root=root, log_path="/log", held=held))


@pytest.mark.parametrize(("path", "joined"), [("/run/p/ns/user", ""), ("/other", "/other")])
def test_compile_joined_user_namespace_with_maps_shows_layers_through_them(
    path: str, joined: str
) -> None:
    plan = plan_of(path)
    codes = [op.code for op in plan.ops]
    assert codes[:4] == [OpCode.LOG, OpCode.IDMAP, OpCode.SETNS, OpCode.SETNS]
    assert plan.ops[1].fields[:2] == ("0 7000 100\n", "0 7000 100\n")
    # The user namespace is the last one to be joined.
    assert plan.ops[3].fields == (USER, joined)
    root = plan.ops[codes.index(OpCode.ROOT_OVERLAY)]
    assert root.fields[2:] == ("", LAYERS.lower) and not str(root.fields[1]).count("lowerdir")
    assert not plan.clone_flags & USER


@pytest.mark.parametrize(("root", "maps"), [(LAYERS, False), (BindRoot("/tree"), True)])
def test_compile_joined_user_namespace_otherwise_maps_nothing(
    root: OverlayRoot | BindRoot, maps: bool
) -> None:
    plan = plan_of("/other", root, maps=maps)
    assert OpCode.IDMAP not in [op.code for op in plan.ops]
    assert not any(op.fields[3] for op in plan.ops if op.code is OpCode.ROOT_OVERLAY)


def test_compile_user_outside_the_joined_maps_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="100 is not mapped"):
        plan_of("/run/p/ns/user", uid=100)
