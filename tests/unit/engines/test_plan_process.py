"""Namespaces, mapped IDs, clocks, sysctls, limits, priorities and credentials in plans."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from doubles.bundles import BUNDLE, IN_USERNS, KINDS, MAP, changed, compiled, only, ops_of
from podrt.engines.plan import CLONE_FLAGS
from podrt.engines.plan_namespaces import MAX_RANGES
from podrt.engines.plan_ops import Op, OpCode, signed_32
from podrt.engines.plan_process import cpu_mask
from podrt.errors import InvalidConfig, Unsupported
from podrt.model import runtimespec as oci

TOP = (1 << 64) - 1


def refused(spec: oci.Spec, **more: Any) -> str:
    """The field a specification is refused for."""
    with pytest.raises((InvalidConfig, Unsupported)) as caught:
        compiled(spec, **more)
    assert isinstance(caught.value, InvalidConfig | Unsupported)
    return caught.value.field


def namespaces(*kinds: str, **paths: str) -> tuple[oci.Namespace, ...]:
    return tuple(oci.Namespace(type=kind) for kind in kinds) + tuple(
        oci.Namespace(type=kind, path=path) for kind, path in paths.items()
    )


# --- namespaces --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(CLONE_FLAGS))
def test_compile_namespace_of_each_type_is_made_or_joined(kind: str) -> None:
    base = changed(linux__uid_mappings=MAP, linux__gid_mappings=MAP) if kind == "user" else BUNDLE
    made = compiled(changed(base, linux__namespaces=namespaces(*{"mount", kind})))
    assert made.clone_flags == CLONE_FLAGS["mount"] | CLONE_FLAGS[kind]
    fresh = () if kind == "mount" else ("mount",)
    joined = compiled(changed(base, linux__namespaces=namespaces(*fresh, **{kind: "/ns"})))
    assert joined.clone_flags == (0 if kind == "mount" else CLONE_FLAGS["mount"])
    assert only(joined, OpCode.SETNS).fields == (CLONE_FLAGS[kind], "/ns")


def test_compile_joins_the_user_namespace_last() -> None:
    wanted = namespaces("mount", user="/u", pid="/p", network="/n", time="/t")
    plan = compiled(changed(linux__namespaces=wanted))
    assert [op.fields[1] for op in ops_of(plan, OpCode.SETNS)] == ["/n", "/t", "/p", "/u"]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (namespaces("user"), "linux.namespaces"),
        (namespaces("mount", "mount"), "linux.namespaces"),
        (namespaces("mount", "pid", pid="/p"), "linux.namespaces"),
        (namespaces("mount", pid="p"), "linux.namespaces[1].path"),
        (namespaces("mount", "net"), "linux.namespaces[1].type"),
        (namespaces("mount", "user"), "linux.uidMappings"),
    ],
)
def test_compile_wrong_namespaces_are_refused_by_field(
    wanted: tuple[oci.Namespace, ...], field: str
) -> None:
    assert refused(changed(linux__namespaces=wanted)) == field


def ranges(*numbers: tuple[int, int, int]) -> tuple[oci.IdMapping, ...]:
    return tuple(oci.IdMapping(container_id=a, host_id=b, size=c) for a, b, c in numbers)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (ranges((0, 0, 0)), "linux.uidMappings[0].size"),
        (ranges((0, 0, 1), (1, (1 << 32) - 1, 2)), "linux.uidMappings[1].hostID"),
        (ranges(((1 << 32) - 1, 0, 2)), "linux.uidMappings[0].containerID"),
        (ranges((0, 0, 10), (9, 100, 1)), "linux.uidMappings"),
        (ranges((0, 0, 10), (100, 9, 1)), "linux.uidMappings"),
        (ranges(*((n, n, 1) for n in range(MAX_RANGES + 1))), "linux.uidMappings"),
        ((), "linux.uidMappings"),
    ],
)
def test_compile_map_the_kernel_would_not_take_is_refused(
    wanted: tuple[oci.IdMapping, ...], field: str
) -> None:
    assert refused(changed(IN_USERNS, linux__uid_mappings=wanted)) == field


def test_compile_map_of_as_many_ranges_as_the_kernel_takes() -> None:
    most = ranges(*((n, 1000 + n, 1) for n in range(MAX_RANGES)))
    op = only(compiled(changed(IN_USERNS, linux__uid_mappings=most)), OpCode.IDMAP)
    assert isinstance(op.fields[0], str)
    assert op.fields[0].splitlines()[-1] == f"{MAX_RANGES - 1} {999 + MAX_RANGES} 1"


def test_compile_map_without_user_namespace_is_refused_but_not_of_one_that_is_joined() -> None:
    assert refused(changed(linux__uid_mappings=MAP)) == "linux.uidMappings"
    wanted = namespaces("mount", user="/u")
    plain = changed(linux__namespaces=wanted)
    described = changed(plain, linux__uid_mappings=MAP, linux__gid_mappings=MAP)
    assert compiled(described) == compiled(plain)


@pytest.mark.parametrize(
    ("user", "field"),
    [
        (oci.User(uid=100), "process.user.uid"),
        (oci.User(gid=100), "process.user.gid"),
        (oci.User(additional_gids=(5, 100)), "process.user.additionalGids"),
    ],
)
def test_compile_user_that_is_not_mapped_is_refused(user: oci.User, field: str) -> None:
    assert refused(changed(IN_USERNS, process__user=user)) == field


def test_compile_clocks_move_in_a_new_time_namespace() -> None:
    wanted = {
        "monotonic": oci.TimeOffset(secs=-5, nanosecs=7),
        "boottime": oci.TimeOffset(secs=1 << 40),
    }
    spec = changed(linux__namespaces=namespaces(*KINDS, "time"), linux__time_offsets=wanted)
    found = [op.fields for op in ops_of(compiled(spec), OpCode.TIMENS)]
    assert found == [("1 -5 7\n",), (f"7 {1 << 40} 0\n",)]


@pytest.mark.parametrize(
    ("wanted", "kinds", "field"),
    [
        ({"boottime": oci.TimeOffset(secs=1)}, KINDS, "linux.timeOffsets"),
        ({"realtime": oci.TimeOffset(secs=1)}, (*KINDS, "time"), "linux.timeOffsets.realtime"),
        (
            {"monotonic": oci.TimeOffset(nanosecs=10**9)},
            (*KINDS, "time"),
            "linux.timeOffsets.monotonic.nanosecs",
        ),
    ],
)
def test_compile_clocks_that_cannot_be_are_refused(
    wanted: dict[str, oci.TimeOffset], kinds: tuple[str, ...], field: str
) -> None:
    spec = changed(linux__namespaces=namespaces(*kinds), linux__time_offsets=wanted)
    assert refused(spec) == field


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_compile_name_needs_a_uts_namespace_that_is_not_the_hosts(name: str) -> None:
    own = changed(**{name: "x"})
    assert only(compiled(own), OpCode[name.upper()]).fields == ("x",)
    assert refused(changed(own, linux__namespaces=namespaces("mount"))) == name
    joined = compiled(changed(own, linux__namespaces=namespaces("mount", uts="/u")))
    assert only(joined, OpCode[name.upper()]).fields == ("x",)


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("kernel.shmmax", "kernel.shmmax"),
        ("fs.mqueue.msg_max", "fs.mqueue.msg_max"),
        ("kernel.domainname", "kernel.domainname"),
    ],
)
def test_compile_sysctl_of_a_namespace_is_written(key: str, written: str) -> None:
    plan = compiled(changed(linux__sysctl={key: "1"}))
    name, path, value = only(plan, OpCode.SYSCTL).fields
    assert (name, value) == (written, "1")
    assert path == written.translate(str.maketrans("./", "/."))


@pytest.mark.parametrize(
    "key",
    [
        "kernel.panic", "vm.swappiness", "fs.file-max", "", ".", "net", "net.", "net..ipv4",
        "net/../kernel/panic", "net.ipv4.\n", "/net/ipv4/ip_forward", "net.x y",
    ],
)  # fmt: skip
def test_compile_sysctl_of_the_host_is_refused_by_key(key: str) -> None:
    assert refused(changed(linux__sysctl={key: "1"})) == f"linux.sysctl[{key}]"


def test_compile_sysctl_that_is_too_long_is_refused() -> None:
    assert refused(changed(linux__sysctl={"net." + "n" * 252: "1"})) == "linux.sysctl"


@pytest.mark.parametrize("key", ["net.core.somaxconn", "kernel.sem", "kernel.hostname"])
def test_compile_sysctl_of_a_namespace_shared_with_the_host_is_refused(key: str) -> None:
    spec = changed(linux__sysctl={key: "1"}, linux__namespaces=namespaces("mount"))
    assert refused(spec) == f"linux.sysctl[{key}]"


# --- limits, priorities, labels ----------------------------------------------------------------


def process_ops(*codes: OpCode, **fields: Any) -> list[Op]:
    spec = changed(**{f"process__{name}": value for name, value in fields.items()})
    return ops_of(compiled(spec, modules=frozenset({"apparmor", "selinux"})), *codes)


def rlimit(name: str = "RLIMIT_NOFILE", soft: int = 1, hard: int = 2) -> oci.Rlimit:
    return oci.Rlimit(type=name, soft=soft, hard=hard)


def test_compile_every_limit_has_the_kernels_number() -> None:
    # What Python's module names after the kernel's header; the rest stand between those.
    names = [
        name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    ]
    for name in names:
        (op,) = process_ops(OpCode.RLIMIT, rlimits=(rlimit(name),))
        assert op.fields == (name, getattr(resource, name), 1, 2)
    assert len(names) >= 15


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ((rlimit("NOFILE"),), "process.rlimits[0].type"),
        ((rlimit("RLIMIT_X"),), "process.rlimits[0].type"),
        ((rlimit(), rlimit()), "process.rlimits[1].type"),
        ((rlimit(soft=3),), "process.rlimits[0].soft"),
        ((rlimit(hard=TOP + 1),), "process.rlimits[0].hard"),
        ((rlimit(soft=-1),), "process.rlimits[0].soft"),
    ],
)
def test_compile_wrong_limit_is_refused_by_field(
    limits: tuple[oci.Rlimit, ...], field: str
) -> None:
    assert refused(changed(process__rlimits=limits)) == field


@pytest.mark.parametrize("score", [-1001, 1001])
def test_compile_oom_score_out_of_range_is_refused(score: int) -> None:
    assert refused(changed(process__oom_score_adj=score)) == "process.oomScoreAdj"


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        (oci.IoPriority(class_="IOPRIO_CLASS_RT", priority=0), (1, 0)),
        (oci.IoPriority(class_="IOPRIO_CLASS_BE", priority=7), (2, 7)),
        (oci.IoPriority(class_="IOPRIO_CLASS_IDLE"), (3, 0)),
    ],
)
def test_compile_io_priority(priority: oci.IoPriority, expected: tuple[int, int]) -> None:
    (op,) = process_ops(OpCode.IOPRIO, io_priority=priority)
    assert op.fields == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (oci.Scheduler(policy="SCHED_OTHER", nice=-20), (0, -20, 0, 0, 0, 0, 0)),
        (oci.Scheduler(policy="SCHED_FIFO", priority=99), (1, 0, 99, 0, 0, 0, 0)),
        (oci.Scheduler(policy="SCHED_RR", priority=1), (2, 0, 1, 0, 0, 0, 0)),
        (oci.Scheduler(policy="SCHED_BATCH", nice=19), (3, 19, 0, 0, 0, 0, 0)),
        (oci.Scheduler(policy="SCHED_IDLE"), (5, 0, 0, 0, 0, 0, 0)),
        (
            oci.Scheduler(
                policy="SCHED_DEADLINE",
                runtime=1,
                deadline=2,
                period=3,
                flags=("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"),
            ),
            (6, 0, 0, 3, 1, 2, 3),
        ),
    ],
)
def test_compile_scheduler(wanted: oci.Scheduler, expected: tuple[int, ...]) -> None:
    (op,) = process_ops(OpCode.SCHED, scheduler=wanted)
    policy, nice, *rest = op.fields
    assert isinstance(nice, int)
    assert (policy, signed_32(nice), *rest) == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scheduler": oci.Scheduler(policy="SCHED_X")}, "scheduler.policy"),
        ({"scheduler": oci.Scheduler(policy="SCHED_OTHER", nice=20)}, "scheduler.nice"),
        ({"scheduler": oci.Scheduler(policy="SCHED_OTHER", priority=1)}, "scheduler.priority"),
        ({"scheduler": oci.Scheduler(policy="SCHED_FIFO")}, "scheduler.priority"),
        ({"scheduler": oci.Scheduler(policy="SCHED_RR", priority=100)}, "scheduler.priority"),
        ({"scheduler": oci.Scheduler(policy="SCHED_OTHER", flags=("X",))}, "scheduler.flags[0]"),
        ({"scheduler": oci.Scheduler(policy="SCHED_BATCH", runtime=1)}, "scheduler.runtime"),
        (
            {"scheduler": oci.Scheduler(policy="SCHED_DEADLINE", period=TOP + 1)},
            "scheduler.period",
        ),
        ({"io_priority": oci.IoPriority(class_="X")}, "ioPriority.class"),
        (
            {"io_priority": oci.IoPriority(class_="IOPRIO_CLASS_BE", priority=8)},
            "ioPriority.priority",
        ),
        ({"cwd": "x"}, "cwd"),
        ({"cwd": ""}, "cwd"),
        ({"args": ()}, "args"),
        ({"user": oci.User(umask=0o1000)}, "user.umask"),
        ({"user": oci.User(uid=(1 << 32) - 1)}, "user.uid"),
        ({"user": oci.User(gid=-1)}, "user.gid"),
        ({"user": oci.User(additional_gids=(0, 1 << 32))}, "user.additionalGids[1]"),
    ],
)
def test_compile_wrong_process_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    spec = changed(**{f"process__{name}": value for name, value in fields.items()})
    assert refused(spec) == f"process.{field}"


def test_compile_personality_is_set() -> None:
    for domain, number in (("LINUX", 0), ("LINUX32", 8)):
        plan = compiled(changed(linux__personality=oci.Personality(domain=domain)))
        assert only(plan, OpCode.PERSONALITY).fields == (number,)
    spec = changed(linux__personality=oci.Personality(domain="BSD"))
    assert refused(spec) == "linux.personality.domain"


def test_compile_labels_are_set_before_a_filter_could_forbid_it() -> None:
    spec = changed(
        process__apparmor_profile="profile",
        process__selinux_label="label",
        linux__seccomp=oci.Seccomp(default_action="SCMP_ACT_ALLOW"),
    )
    plan = compiled(spec, filter_path="/f", modules=frozenset({"apparmor", "selinux"}))
    found = [op.code.name for op in plan.ops]
    assert found[found.index("APPARMOR") :] == [
        "APPARMOR", "SELINUX", "SEAL", "HOLD", "SECCOMP", "USER", "CAPS", "EXEC",
    ]  # fmt: skip


def test_compile_unconfined_profile_asks_nothing_of_the_kernel() -> None:
    assert compiled(changed(process__apparmor_profile="unconfined")) == compiled()


@pytest.mark.parametrize(
    ("words", "bits"),
    [
        ("0", 1),
        ("0-3,7", 0x8F),
        (" 1 , 3 - 4 ", 0x1A),
        ("64", 1 << 64),
        ("8191", 1 << 8191),
        ("1,1,0-1", 3),
    ],
)
def test_cpu_mask_has_a_bit_for_each_cpu(words: str, bits: int) -> None:
    mask = cpu_mask(words, "f")
    assert int.from_bytes(mask, "little") == bits
    assert len(mask) % 8 == 0


@pytest.mark.parametrize(
    "words", ["a", "1-", "-1", "3-1", "8192", "0-4294967295", "1,,2", "1-2-3", "٣", "1 2"]
)
def test_cpu_mask_of_no_list_is_refused(words: str) -> None:
    with pytest.raises(InvalidConfig):
        cpu_mask(words, "f")


@pytest.mark.parametrize(
    ("word", "bit"),
    [
        ("SECCOMP_FILTER_FLAG_TSYNC", 0),
        ("SECCOMP_FILTER_FLAG_LOG", 2),
        ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 4),
        ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 0x20),
    ],
)
def test_compile_flags_of_a_filter(word: str, bit: int) -> None:
    spec = changed(linux__seccomp=oci.Seccomp(default_action="SCMP_ACT_ALLOW", flags=(word,)))
    assert only(compiled(spec, filter_path="/f"), OpCode.SECCOMP).fields == (bit, "/f")
