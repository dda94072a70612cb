"""Profiles: which rules hold for whom, and filters against libseccomp and against their meaning."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import bpf_machine, seccomp_meaning, seccomp_oracle
from podrt.errors import InvalidConfig, NotFound, Unsupported
from podrt.linux.caps import NAMES
from podrt.model.runtimespec import Seccomp, SeccompArg, SeccompRule
from podrt.spec import seccomp, seccomp_bpf, seccomp_tables
from podrt.spec.compile_seccomp import compile_default
from podrt.spec.seccomp_rules import OPERATOR_NAMES, compile_filter
from podrt.spec.security import DEFAULT_CAPABILITIES

X86_64 = 0xC000003E
I386 = 0x40000003
AARCH64 = 0xC00000B7
ARM = 0x40000028
FOREIGN = 0x12345
X32_BIT = seccomp_tables.X32_BIT

EDGES = (0, 1, 5, 9, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x100000005, 1 << 63, (1 << 64) - 1)
NEAR_EDGES = tuple(
    sorted({(edge + step) & ((1 << 64) - 1) for edge in EDGES for step in (-1, 0, 1)})
)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = seccomp_oracle.load_library()
    if found is None or os.uname().machine != "x86_64":
        pytest.skip("the oracle needs libseccomp2 on x86_64")
    return found


def default_numbers() -> Iterable[int]:
    low = range(620)
    return itertools.chain(
        low,
        (X32_BIT + number for number in low),
        range(0xF0000, 0xF0008),
        (X32_BIT - 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
    )


def default_arguments(has_rules: bool) -> Iterable[tuple[int, ...]]:
    """personality's values, and socket's families with its protocols."""
    if not has_rules:
        return ((),)
    firsts = (0, 1, 2, 8, 9, 16, 17, 40, 131072, 131080, 0xFFFFFFFF, 1 << 32, (1 << 32) + 16)
    return itertools.product(firsts, (0, 1), (0, 9, (1 << 32) + 9))


# personality, socket, socketcall and ipc of each architecture.
CONDITIONAL = {135, 41, 136, 359, 102, 117, 92, 198, 281}


@pytest.mark.parametrize(
    ("machine", "capabilities"),
    [
        ("x86_64", DEFAULT_CAPABILITIES),
        ("x86_64", frozenset(NAMES)),
        ("x86_64", DEFAULT_CAPABILITIES | {"CAP_AUDIT_WRITE", "CAP_BPF"}),
        ("aarch64", DEFAULT_CAPABILITIES),
    ],
)
def test_compile_default_profile_gives_libseccomps_verdicts(
    library: ctypes.CDLL, machine: str, capabilities: frozenset[str]
) -> None:
    resolved = seccomp.resolve(None, capabilities, machine)
    assert resolved is not None
    theirs = bpf_machine.load(
        seccomp_oracle.export(library, resolved, seccomp_tables.NATIVE[machine])
    )
    ours = bpf_machine.load(compile_filter(resolved, machine))
    differing = []
    for arch in (X86_64, I386, AARCH64, ARM, FOREIGN):
        for number in default_numbers():
            for args in default_arguments(number & ~X32_BIT in CONDITIONAL):
                expected = bpf_machine.run(theirs, arch, number, args)
                found = bpf_machine.run(ours, arch, number, args)
                if found != expected:
                    differing.append((hex(arch), number, args, hex(expected), hex(found)))
    assert not differing


arguments = st.builds(
    SeccompArg,
    index=st.integers(0, 2),
    op=st.sampled_from(sorted(OPERATOR_NAMES)),
    value=st.sampled_from(EDGES),
    value_two=st.sampled_from(EDGES),
)
actions = st.sampled_from(sorted(seccomp_meaning.KINDS)).map(lambda name: (name, None))
actions |= st.tuples(
    st.sampled_from(seccomp_meaning.HAVE_DATA), st.sampled_from([None, 0, 7, 4094])
)
rules = st.builds(
    lambda names, action, args: SeccompRule(
        names=names, action=action[0], errno_ret=action[1], args=args
    ),
    names=st.sampled_from([("read",), ("socket",), ("semget", "socket"), ("personality",)]),
    action=actions,
    args=st.lists(arguments, max_size=3, unique_by=lambda arg: arg.index).map(tuple),
)
three_values = st.tuples(*[st.sampled_from(NEAR_EDGES)] * 3)


def filter_with(*given_rules: SeccompRule, arches: tuple[str, ...] = ()) -> Seccomp:
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=38,
        listener_path="/run/agent",
        architectures=arches,
        syscalls=given_rules,
    )


@given(rule=rules, values=st.lists(three_values, min_size=8, max_size=8))
def test_compile_one_rule_gives_libseccomps_verdicts(
    library: ctypes.CDLL, rule: SeccompRule, values: list[tuple[int, ...]]
) -> None:
    wanted = filter_with(rule, arches=("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"))
    theirs = bpf_machine.load(seccomp_oracle.export(library, wanted, "SCMP_ARCH_X86_64"))
    ours = bpf_machine.load(compile_filter(wanted, "x86_64"))
    for arch, numbers in (
        (X86_64, (0, 41, 64, 135, X32_BIT, X32_BIT + 41, X32_BIT + 135, 0xFFFFFFFF)),
        (I386, (3, 102, 117, 136, 359, 393)),
    ):
        bits = 0xFFFFFFFF if arch == I386 else (1 << 64) - 1
        for number, args in itertools.product(numbers, [*values, (1, 1, 1), (2, 2, 2)]):
            cut = [value & bits for value in args]
            expected = bpf_machine.run(theirs, arch, number, cut)
            assert bpf_machine.run(ours, arch, number, cut) == expected, (hex(arch), number, cut)


@given(wanted=st.lists(rules, min_size=1, max_size=5), values=st.lists(three_values, min_size=8))
def test_compile_several_rules_means_what_each_of_them_says(
    wanted: list[SeccompRule], values: list[tuple[int, ...]]
) -> None:
    asked = filter_with(*wanted)
    program = bpf_machine.load(compile_filter(asked, "x86_64"))
    for name in ("read", "socket", "semget", "personality", "write"):
        number = seccomp_tables.numbers("x86_64")[name]
        for args in values:
            expected = seccomp_meaning.verdict(asked, name, args)
            assert bpf_machine.run(program, X86_64, number, args) == expected, (name, args)


def test_compile_without_x32_kills_its_callers() -> None:
    program = bpf_machine.load(compile_filter(filter_with(), "x86_64"))
    assert bpf_machine.run(program, X86_64, X32_BIT) == 0
    assert bpf_machine.run(program, X86_64, 0) == 0x50026
    assert bpf_machine.run(program, I386, 0) == 0


def test_compile_two_conditions_on_one_argument_takes_either() -> None:
    rule = SeccompRule(
        names=("personality",),
        action="SCMP_ACT_ALLOW",
        args=tuple(SeccompArg(index=0, op="SCMP_CMP_EQ", value=value) for value in (4, 8)),
    )
    program = bpf_machine.load(compile_filter(filter_with(rule), "x86_64"))
    verdicts = [bpf_machine.run(program, X86_64, 135, (value,)) for value in (4, 8, 12)]
    assert verdicts == [0x7FFF0000, 0x7FFF0000, 0x50026]


def test_compile_long_programs_reaches_every_verdict() -> None:
    """More than 255 instructions lie between the root of the tree and its far leaves."""
    names = sorted(seccomp_tables.numbers("x86_64").items(), key=lambda item: item[1])
    wanted = filter_with(
        *(
            SeccompRule(
                names=(name,),
                action="SCMP_ACT_ALLOW",
                args=(SeccompArg(index=number % 6, op="SCMP_CMP_EQ", value=number),),
            )
            for name, number in names[::2]
        )
    )
    data = compile_filter(wanted, "x86_64")
    program = bpf_machine.load(data)
    assert len(program) > 600
    for index, (_, number) in enumerate(names):
        allowed = bpf_machine.run(program, X86_64, number, [number] * 6)
        assert allowed == (0x7FFF0000 if index % 2 == 0 else 0x50026)
        assert bpf_machine.run(program, X86_64, number, [number + 1] * 6) == 0x50026


def test_compile_too_many_conditions_is_refused() -> None:
    names = tuple(seccomp_tables.numbers("x86_64"))
    wanted = filter_with(
        *(
            SeccompRule(
                names=names,
                action="SCMP_ACT_ALLOW",
                args=(SeccompArg(index=0, op="SCMP_CMP_EQ", value=value),),
            )
            for value in range(8)
        )
    )
    # The same conditions on every call are one block of the program.
    assert len(compile_filter(wanted, "x86_64")) < 8 * 100
    wanted = filter_with(
        *(
            SeccompRule(
                names=(name,),
                action="SCMP_ACT_ALLOW",
                args=tuple(
                    SeccompArg(index=index, op="SCMP_CMP_GT", value=(at << 33) + at)
                    for index in range(6)
                ),
            )
            for at, name in enumerate(names)
        )
    )
    with pytest.raises(Unsupported, match="too many"):
        compile_filter(wanted, "x86_64")


@pytest.mark.parametrize("machine", sorted(seccomp_tables.NATIVE))
def test_shipped_filter_is_what_the_compiler_makes(machine: str) -> None:
    assert Path(seccomp.shipped_path(machine)).read_bytes() == compile_default(machine)
    assert seccomp.filter_for(None, DEFAULT_CAPABILITIES, machine) == compile_default(machine)


def test_filter_of_default_specification_is_the_shipped_one() -> None:
    resolved = seccomp.resolve(None, DEFAULT_CAPABILITIES, "x86_64")
    assert resolved is not None
    assert seccomp.filter_of(resolved, "x86_64") is seccomp.shipped_filter("x86_64")


def test_filter_for_more_capabilities_allows_more() -> None:
    program = bpf_machine.load(
        seccomp.filter_for(None, DEFAULT_CAPABILITIES | {"CAP_SYS_TIME"}, "x86_64")
    )
    settimeofday = seccomp_tables.numbers("x86_64")["settimeofday"]
    default = bpf_machine.load(seccomp.shipped_filter("x86_64"))
    assert bpf_machine.run(program, X86_64, settimeofday) == 0x7FFF0000
    assert bpf_machine.run(default, X86_64, settimeofday) == 0x50001


def test_table_agrees_with_libseccomp(library: ctypes.CDLL) -> None:
    for arch in seccomp_tables.ARCHES.values():
        token = ctypes.c_uint32(library.seccomp_arch_resolve_name(arch.name.encode()))
        for name, number in seccomp_tables.numbers(arch.name).items():
            found = library.seccomp_syscall_resolve_name_arch(token, name.encode())
            # Negative: reached through a multiplexer there, or unknown to an older libseccomp.
            assert found in (arch.base + number, -1) or found < 0, name


def test_profile_names_are_known() -> None:
    """A name missing in the table would be refused to every container without a word."""
    # Calls of machines podrt has no table for.
    foreign = ("s390_", "riscv_", "swapcontext", "sync_file_range2", "syscall")
    known = set().union(
        *(seccomp_tables.numbers(arch.name) for arch in seccomp_tables.ARCHES.values())
    )
    unknown = {
        name
        for rule in seccomp.default_profile().syscalls
        for name in rule.names
        if name not in known and not name.startswith(foreign)
    }
    assert not unknown


def profile_text(**fields: object) -> bytes:
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **fields}).encode()


def resolved_names(
    profile: seccomp.Profile, capabilities: Iterable[str] = (), **more: str
) -> set[str]:
    resolved = seccomp.resolve(profile, frozenset(capabilities), "x86_64", **more)
    assert resolved is not None
    return {name for rule in resolved.syscalls for name in rule.names}


def rule_text(name: str, **fields: object) -> dict[str, object]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": None, **fields}


def test_resolve_rules_for_other_circumstances_are_left_out() -> None:
    profile = seccomp.read_profile(
        profile_text(
            syscalls=[
                rule_text("read"),
                rule_text("bpf", includes={"caps": ["CAP_BPF"]}),
                rule_text("both", includes={"caps": ["CAP_BPF", "CAP_CHOWN"]}),
                rule_text("chroot", excludes={"caps": ["CAP_CHOWN", "CAP_KILL"]}),
                rule_text("arch", includes={"arches": ["amd64", "x32"]}),
                rule_text("other", includes={"arches": ["arm64"]}),
                rule_text("noarch", excludes={"arches": ["amd64"]}),
                rule_text("new", includes={"minKernel": "6.6"}),
                rule_text("old", includes={"minKernel": "4.8"}),
            ]
        )
    )
    assert resolved_names(profile, kernel="6.1.0-18") == {"read", "chroot", "arch", "old"}
    assert resolved_names(profile, ["CAP_BPF"], kernel="6.18.1") == {
        "read", "bpf", "chroot", "arch", "new", "old",
    }  # fmt: skip
    assert "chroot" not in resolved_names(profile, ["CAP_KILL"])


def test_resolve_empty_profile_turns_seccomp_off() -> None:
    assert seccomp.resolve(seccomp.read_profile(b"{}"), frozenset(), "x86_64") is None
    assert seccomp.filter_for(seccomp.read_profile(b"{}"), (), "x86_64") == b""


@pytest.mark.parametrize(("word", "number"), [("EPERM", 1), ("ENOSYS", 38), ("11", 11)])
def test_resolve_errno_by_name_or_number_is_understood(word: str, number: int) -> None:
    profile = seccomp.read_profile(profile_text(defaultErrno=word, defaultErrnoRet=3))
    resolved = seccomp.resolve(profile, frozenset(), "x86_64")
    assert resolved is not None and resolved.default_errno_ret == number


@pytest.mark.parametrize(
    "fields",
    [
        {"defaultErrno": "EWRONG"},
        {"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]},
        {"syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}]},
        {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NONSENSE"}]},
        {"syscalls": [rule_text("read", args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}])]},
        {"syscalls": [rule_text("read", args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}])]},
        {"syscalls": [rule_text("read", args=[{"index": 0, "value": 0, "op": "SCMP_CMP_X"}])]},
        {"architectures": ["SCMP_ARCH_Z80"]},
        {"syscalls": [rule_text("read", includes={"minKernel": "new"})]},
    ],
)
def test_filter_for_bad_profile_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        seccomp.filter_for(seccomp.read_profile(profile_text(**fields)), (), "x86_64")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"syscalls": 3}', b"\xff", b"[" * 100_000])
def test_read_profile_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidConfig):
        seccomp.read_profile(text)


def notify(name: str) -> SeccompRule:
    return SeccompRule(names=(name,), action="SCMP_ACT_NOTIFY")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (filter_with(notify("sendmsg")), "linux.seccomp.syscalls[0].action"),
        (filter_with(notify("mknod"), notify("write")), "linux.seccomp.syscalls[1].action"),
        (
            Seccomp(default_action="SCMP_ACT_NOTIFY", listener_path="/run/agent"),
            "linux.seccomp.defaultAction",
        ),
    ],
)
def test_compile_notify_that_would_wait_for_itself_is_unsupported(
    asked: Seccomp, field: str
) -> None:
    with pytest.raises(Unsupported) as caught:
        compile_filter(asked, "x86_64")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (Seccomp(default_action="SCMP_ACT_ALLOW", default_errno_ret=1), "defaultErrnoRet"),
        (Seccomp(default_action="SCMP_ACT_ERRNO", default_errno_ret=4096), "defaultErrnoRet"),
        (Seccomp(default_action="SCMP_ACT_TRACE", default_errno_ret=-1), "defaultErrnoRet"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(notify("mknod"),)), "listenerPath"),
        (Seccomp(default_action="SCMP_ACT_ALLOW", listener_metadata="x"), "listenerMetadata"),
        (
            filter_with(SeccompRule(names=("read",), action="SCMP_ACT_LOG", errno_ret=1)),
            "syscalls[0].errnoRet",
        ),
        (filter_with(SeccompRule(names=(), action="SCMP_ACT_LOG")), "syscalls[0].names"),
    ],
)
def test_compile_wrong_rules_are_refused_by_field(asked: Seccomp, field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        compile_filter(asked, "x86_64")
    assert caught.value.field == f"linux.seccomp.{field}"


def test_compile_architectures_no_kernel_here_runs_have_no_effect() -> None:
    foreign = filter_with(notify("mknod"), arches=tuple(sorted(seccomp_tables.FOREIGN)))
    assert compile_filter(foreign, "x86_64") == compile_filter(
        filter_with(notify("mknod")), "x86_64"
    )


def test_compile_for_unknown_machine_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        compile_filter(filter_with(), "riscv64")


def test_load_profile_that_is_missing_names_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.json"):
        seccomp.load_profile(str(tmp_path / "none.json"))
    with pytest.raises(InvalidConfig, match="directory"):
        seccomp.load_profile(str(tmp_path))


@given(st.lists(st.floats(0.01, 400), min_size=2, max_size=12))
def test_best_splits_cost_no_more_than_any_other(weights: list[float]) -> None:
    splits = seccomp_bpf.best_splits(weights)

    def cost(low: int, high: int) -> float:
        if low == high:
            return 0
        at = splits[low, high]
        return cost(low, at) + cost(at + 1, high) + sum(weights[low : high + 1])

    table: dict[tuple[int, int], float] = {}
    for width in range(len(weights)):
        for low in range(len(weights) - width):
            high = low + width
            table[low, high] = (
                0
                if low == high
                else sum(weights[low : high + 1])
                + min(table[low, at] + table[at + 1, high] for at in range(low, high))
            )
    assert cost(0, len(weights) - 1) == pytest.approx(table[0, len(weights) - 1])
