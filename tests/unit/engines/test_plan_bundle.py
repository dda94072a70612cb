"""Plans of bundles and of further processes: the order, hooks, terminals, where paths start."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from doubles.bundles import (
    BUNDLE,
    IN_USERNS,
    WHO,
    changed,
    codes_of,
    compiled,
    only,
    ops_of,
)
from podrt.engines.cgroup_view import CgroupView, Hierarchy
from podrt.engines.plan import CLONE_FLAGS, Identity, compile_exec, warnings
from podrt.engines.plan_ops import Op, OpCode, decode_plan
from podrt.errors import InvalidConfig, Unsupported
from podrt.model import runtimespec as oci

HOOK = oci.Hook(path="/bin/hook", args=("hook", "x"), env=("A=1",), timeout=3)
HOOKS = oci.Hooks(create_container=(HOOK,), start_container=(oci.Hook(path="/other"),))
AGENT = oci.Seccomp(
    default_action="SCMP_ACT_ALLOW",
    listener_path="/run/agent",
    listener_metadata="m",
    syscalls=(oci.SeccompRule(names=("mknod",), action="SCMP_ACT_NOTIFY"),),
)


def test_compile_bundle_orders_the_operations() -> None:
    spec = changed(
        IN_USERNS,
        hooks=HOOKS,
        hostname="web",
        mounts=(oci.Mount(destination="/proc", type="proc", source="proc"),),
        process__terminal=True,
        process__console_size=oci.Box(height=25, width=80),
        linux__masked_paths=("/proc/kcore",),
        linux__seccomp=AGENT,
    )
    plan = compiled(spec, filter_path="/f")
    assert codes_of(plan) == [
        "IDMAP", "STDIO", "ROOT_BIND", "MOUNT", "SYMLINK", "DEVICE", "TERMINAL", "HOSTNAME", "MASK",
        "HOOKS", "PIVOT", "KEYRING", "CWD", "SEAL", "HOLD", "NOTIFY", "SECCOMP", "USER", "CAPS",
        "HOOKS",
        "EXEC",
    ]  # fmt: skip
    assert plan.flags == 1
    assert only(plan, OpCode.TERMINAL).fields == (25, 80, "/dev/console")
    # With a terminal the caller's own streams are not the program's.
    assert only(plan, OpCode.STDIO).fields == (0, 0)


def test_compile_bundle_keeps_the_streams_and_descriptors_it_is_given() -> None:
    plan = compiled(preserve_fds=3)
    assert plan.ops[0] == Op(OpCode.STDIO, (1, 3))
    assert plan.flags == 0
    assert not ops_of(plan, OpCode.LOG, OpCode.TERMINAL)


@pytest.mark.parametrize(
    ("path", "expected"), [("rootfs", "/bundle/rootfs"), ("/elsewhere", "/elsewhere")]
)
def test_compile_bundle_root_starts_at_the_bundle(path: str, expected: str) -> None:
    plan = compiled(changed(root=oci.Root(path=path)))
    assert only(plan, OpCode.ROOT_BIND).fields == (expected,)


@pytest.mark.parametrize(
    ("spec", "more", "field"),
    [
        (changed(root=None), {}, "root.path"),
        (changed(root=oci.Root(path="")), {}, "root.path"),
        (BUNDLE, {"preserve_fds": -1}, "--preserve-fds"),
        (BUNDLE, {"who": Identity(id="c1", bundle="b")}, "bundle"),
        (changed(process=None), {}, "process"),
        (changed(hooks=oci.Hooks(poststop=(oci.Hook(path="x"),))), {}, "hooks.poststop[0].path"),
        (
            changed(hooks=oci.Hooks(prestart=(oci.Hook(path="/x", timeout=0),))),
            {},
            "hooks.prestart[0].timeout",
        ),
        (
            changed(hooks=oci.Hooks(start_container=(HOOK, oci.Hook(path="/x", timeout=-1)))),
            {},
            "hooks.startContainer[1].timeout",
        ),
        (
            changed(process__terminal=True, process__console_size=oci.Box(height=1 << 16)),
            {},
            "process.consoleSize.height",
        ),
        (
            changed(process__terminal=True, process__console_size=oci.Box(width=1 << 16)),
            {},
            "process.consoleSize.width",
        ),
    ],
)
def test_compile_bundle_that_is_wrong_is_refused_by_field(
    spec: oci.Spec, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        compiled(spec, **more)
    assert caught.value.field == field


def test_compile_console_size_without_terminal_has_no_effect() -> None:
    assert compiled(changed(process__console_size=oci.Box(height=1 << 40))) == compiled()


def document_of(texts: object) -> Any:
    """What the launcher makes of a state's pieces."""
    assert isinstance(texts, tuple)
    return json.loads("77".join(texts))


def test_compile_hooks_read_the_state_of_their_stage() -> None:
    plan = compiled(changed(hooks=HOOKS))
    first, second = ops_of(plan, OpCode.HOOKS)
    assert first.fields[:4] == ("/bin/hook", ("hook", "x"), ("A=1",), 3)
    assert second.fields[:4] == ("/other", ("/other",), (), 0)
    for op, status in ((first, "creating"), (second, "created")):
        assert document_of(op.fields[4]) == {
            "ociVersion": oci.OCI_VERSION,
            "id": "c1",
            "status": status,
            "pid": 77,
            "bundle": "/bundle",
            "annotations": {"a": "1"},
        }


def test_compile_hooks_of_the_runtime_are_no_operations() -> None:
    hooks = oci.Hooks(prestart=(HOOK,), create_runtime=(HOOK,), poststart=(HOOK,), poststop=(HOOK,))
    assert compiled(changed(hooks=hooks)) == compiled()


def test_compile_agent_gets_the_state_and_the_filter_makes_a_listener() -> None:
    plan = compiled(changed(linux__seccomp=AGENT), filter_path="/f")
    assert only(plan, OpCode.SECCOMP).fields == (8, "/f")
    path, texts = only(plan, OpCode.NOTIFY).fields
    assert path == "/run/agent"
    document = document_of(texts)
    assert document["fds"] == ["seccompFd"] and document["metadata"] == "m"
    assert document["state"]["id"] == "c1" and document["state"]["status"] == "creating"
    assert document["pid"] == document["state"]["pid"] == 77


def test_compile_agent_without_a_rule_that_notifies_is_not_called() -> None:
    quiet = msgspec.structs.replace(AGENT, syscalls=())
    plan = compiled(changed(linux__seccomp=quiet), filter_path="/f")
    assert only(plan, OpCode.SECCOMP).fields == (0, "/f")
    assert not ops_of(plan, OpCode.NOTIFY)


CGROUP = oci.Mount(
    destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=("nosuid", "ro")
)


TOP = "/sys/fs/cgroup"
V1 = CgroupView(1, (Hierarchy("cpu,cpuacct", ("cpu", "cpuacct"), ("cpu",)),), "/mine")
V2 = CgroupView(2, (), "/mine")


def cgroup_ops(view: CgroupView, *kinds: str, base: oci.Spec = BUNDLE) -> list[Op]:
    wanted = tuple(oci.Namespace(type=kind) for kind in ("mount", *kinds))
    plan = compiled(changed(base, mounts=(CGROUP,), linux__namespaces=wanted), cgroups=view)
    return ops_of(plan, OpCode.MOUNT, OpCode.BIND)


def test_compile_cgroup_mount_with_a_namespace_is_one_of_the_kernel() -> None:
    assert [op.fields[0] for op in cgroup_ops(V2, "cgroup")] == ["cgroup2"]
    assert [op.fields[0] for op in cgroup_ops(V1, "cgroup")] == ["tmpfs", "cgroup"]


def test_compile_cgroup_mount_of_v1_without_a_namespace_shows_its_own_alone() -> None:
    _, own = cgroup_ops(V1)
    assert own == Op(
        OpCode.BIND, (f"{TOP}/cpu,cpuacct/mine", f"{TOP}/cpu,cpuacct", 3, 0, 6, "", "")
    )


def test_compile_cgroup_mount_of_v2_without_a_namespace_is_the_hosts_if_it_may_be() -> None:
    assert [op.fields[0] for op in cgroup_ops(V2)] == ["cgroup2"]
    assert cgroup_ops(V2, "user", base=IN_USERNS) == [
        Op(OpCode.BIND, (f"{TOP}/mine", TOP, 3, 0, 6, "", ""))
    ]


def test_compile_exec_joins_and_becomes_who_it_is_to_be() -> None:
    process = oci.Process(
        args=("ls",),
        cwd="/x",
        user=oci.User(uid=5, gid=6),
        no_new_privileges=True,
        exec_cpu_affinity=oci.CpuAffinity(initial="0", final="1,8"),
    )
    names = {"user": "/n/user", "mount": "/n/mnt", "pid": "/n/pid", "network": "/n/net"}
    plan = decode_plan(compile_exec(process, namespaces=names, preserve_fds=2))
    assert codes_of(plan) == [
        "STDIO", "FIRST_AFFINITY", "SETNS", "AFFINITY", "KEYRING", "CWD", "SEAL", "USER", "CAPS",
        "NO_NEW_PRIVS", "HOLD", "EXEC",
    ]  # fmt: skip
    assert plan.ops[0].fields == (1, 2)
    # Whose namespace the others are, nobody may join after having left the host's.
    assert [op.fields[1] for op in ops_of(plan, OpCode.SETNS)] == [
        "/n/net", "/n/pid", "/n/mnt", "/n/user",
    ]  # fmt: skip
    assert only(plan, OpCode.FIRST_AFFINITY).fields == (b"\1" + bytes(7),)
    assert only(plan, OpCode.AFFINITY).fields == (b"\2\1" + bytes(6),)


def test_compile_exec_with_terminal_and_filter() -> None:
    process = oci.Process(args=("ls",), terminal=True)
    quiet = oci.Seccomp(default_action="SCMP_ACT_ALLOW")
    plan = decode_plan(
        compile_exec(process, namespaces={"mount": "/m"}, seccomp=quiet, filter_path="/f")
    )
    assert plan.flags == 1 and plan.clone_flags == 0
    assert only(plan, OpCode.TERMINAL).fields == (0, 0, "/dev/console")
    assert only(plan, OpCode.SECCOMP).fields == (0, "/f")


def test_compile_exec_that_cannot_be_is_refused() -> None:
    process = oci.Process(args=("ls",))
    with pytest.raises(InvalidConfig, match="makes none"):
        compile_exec(process, namespaces={"mount": "/m", "pid": ""})
    with pytest.raises(Unsupported, match="NOTIFY"):
        compile_exec(process, namespaces={"mount": "/m"}, seccomp=AGENT, filter_path="/f")
    with pytest.raises(Unsupported, match="mount namespace"):
        compile_exec(process, namespaces={"pid": "/p"})


def test_warnings_name_capabilities_that_are_not_granted() -> None:
    sets = oci.Capabilities(
        bounding=("CAP_NEW",),
        permitted=("CAP_KILL",),
        effective=("CAP_KILL", "CAP_CHOWN"),
        ambient=("CAP_KILL",),
    )
    spec = changed(process__capabilities=sets)
    assert warnings(spec) == [
        "process.capabilities.bounding: 'CAP_NEW' is unknown and not granted",
        "process.capabilities.effective: CAP_CHOWN is not in permitted and not granted",
        "process.capabilities.ambient: CAP_KILL is not permitted and inheritable, so not granted",
    ]
    assert only(compiled(spec), OpCode.CAPS).fields == (0, 32, 32, 0, 0)
    assert warnings(BUNDLE) == []


def test_compile_user_namespace_is_mapped_first() -> None:
    plan = compiled(IN_USERNS)
    assert plan.ops[0] == Op(OpCode.IDMAP, ("0 1000 100\n", "0 1000 100\n"))
    assert plan.clone_flags & CLONE_FLAGS["user"]


def test_compile_identity_of_the_bundle_is_only_used_by_hooks() -> None:
    other = Identity(id="c2", bundle=WHO.bundle)
    assert compiled(who=other) == compiled()


def test_warnings_name_options_of_a_file_system_on_a_bind() -> None:
    mounts = (
        oci.Mount(destination="/a", type="tmpfs", source="t", options=("mode=755",)),
        oci.Mount(destination="/b", source="/usr", options=("rbind", "ro", "mode=755", "sync")),
    )
    assert warnings(msgspec.structs.replace(BUNDLE, mounts=mounts)) == [
        "mounts[1].options: 'mode=755' has no effect on a bind",
        "mounts[1].options: 'sync' has no effect on a bind",
    ]


@pytest.mark.parametrize(("root", "count"), [("", 0), ("slave", 0), ("shared", 1), ("rshared", 1)])
def test_warnings_name_shared_binds_of_a_user_namespace(root: str, count: int) -> None:
    mounts = (
        oci.Mount(destination="/a", type="tmpfs", source="t", options=("shared",)),
        oci.Mount(destination="/b", source="/usr", options=("rbind", "rshared")),
    )
    spec = changed(mounts=mounts, linux__rootfs_propagation=root)
    assert warnings(spec) == []
    assert spec.linux is not None
    named = (*spec.linux.namespaces, oci.Namespace(type="user"))
    said = warnings(changed(mounts=mounts, linux__rootfs_propagation=root, linux__namespaces=named))
    reason = "what the container mounts there does not reach the host"
    assert said == [f"mounts[1].options: {reason}"] * count
