"""Plan files: written and read back, refused when damaged, shown to people."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrt.engines import plan_ops
from podrt.engines.plan_ops import LAYOUTS, Op, OpCode, Plan, decode_plan, encode_plan
from podrt.errors import InvalidConfig, LimitReached

NATIVE = Path(__file__).parents[3] / "src/podrt/_native"

texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40
) | st.sampled_from(["", "/proc", "a\udcffb"])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "u": st.integers(0, (1 << 32) - 1),
    "q": st.integers(0, (1 << 64) - 1),
    "s": texts,
    "l": st.lists(texts, max_size=5).map(tuple),
    "b": st.binary(max_size=40),
    "g": st.lists(st.integers(0, (1 << 32) - 1), max_size=5).map(tuple),
}


def ops_of(code: OpCode) -> st.SearchStrategy[Op]:
    fields = st.tuples(*(FIELDS[kind] for kind in LAYOUTS[code]))
    return st.builds(Op, st.just(code), fields, st.integers(0, 0xFFFF))


any_op = st.sampled_from([code for code in OpCode if code is not OpCode.EXEC]).flatmap(ops_of)
EXEC = Op(OpCode.EXEC, (("sh", "-c", "true"), ("PATH=/bin",), ("/bin/sh",)))
END = (Op(OpCode.SEAL, (0o22,)), Op(OpCode.HOLD), EXEC)
plans = st.builds(
    Plan,
    st.integers(0, (1 << 32) - 1),
    st.lists(any_op, max_size=12).map(lambda ops: (*ops, *END)),
    st.integers(0, 3),
)


@given(plans)
def test_decode_what_was_encoded_gives_it_back(plan: Plan) -> None:
    data = encode_plan(plan.ops, clone_flags=plan.clone_flags, flags=plan.flags)
    assert len(data) % 8 == 0
    assert decode_plan(data) == plan


@given(plan=plans, at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_decode_damaged_plan_is_refused_or_another_plan(plan: Plan, at: float, value: int) -> None:
    data = bytearray(encode_plan(plan.ops, clone_flags=plan.clone_flags, flags=plan.flags))
    data[int(at * len(data))] = value
    try:
        found = decode_plan(bytes(data))
    except InvalidConfig:
        return
    # What is accepted says exactly what its bytes say.
    assert encode_plan(found.ops, clone_flags=found.clone_flags, flags=found.flags) == data


@given(plan=plans, at=st.floats(0, 1, exclude_max=True))
def test_decode_shortened_plan_is_refused(plan: Plan, at: float) -> None:
    data = encode_plan(plan.ops, clone_flags=plan.clone_flags, flags=plan.flags)
    with pytest.raises(InvalidConfig):
        decode_plan(data[: int(at * len(data))])


@given(st.binary(max_size=200))
def test_decode_noise_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidConfig):
        decode_plan(data)
    with pytest.raises(InvalidConfig):
        decode_plan(plan_ops.MAGIC + data)


def raw_plan(*ops: bytes, count: int | None = None) -> bytes:
    total = plan_ops.HEADER.size + sum(map(len, ops))
    number = len(ops) if count is None else count
    head = (plan_ops.MAGIC, plan_ops.PLAN_VERSION, total, number, 0, 0, ROOM)
    return plan_ops.HEADER.pack(*head) + b"".join(ops)


def raw_op(code: int, payload: bytes, length: int | None = None, tree: int = 0) -> bytes:
    size = 16 + len(payload) if length is None else length
    return struct.pack("=HHIQ", code, 0, size, tree) + payload


def slots(*values: int) -> bytes:
    return struct.pack(f"={len(values)}Q", *values)


ROOM = 4 + 2 + 2  # what EXEC's lists need
SEAL, HOLD, RUN = (plan_ops.encode_op(op) for op in END)


def plan_with(op: bytes) -> bytes:
    return raw_plan(op, SEAL, HOLD, RUN)


def test_decode_plan_of_parts_is_accepted() -> None:
    """What the malformed ones below differ from."""
    assert decode_plan(raw_plan(SEAL, HOLD, RUN)).ops == END
    assert len(decode_plan(plan_with(raw_op(OpCode.STDIO, slots(1, 2)))).ops) == 4


@pytest.mark.parametrize(
    "data",
    [
        raw_plan(),
        raw_plan(SEAL, HOLD, RUN, RUN),
        raw_plan(SEAL, HOLD, RUN, count=4),
        raw_plan(SEAL, HOLD, RUN, count=2),
        raw_plan(SEAL, HOLD),
        raw_plan(SEAL, RUN),
        raw_plan(HOLD, RUN),
        plan_with(plan_ops.encode_op(Op(OpCode.ROOT_OVERLAY, ("", ("a",), "", ())))),
        raw_plan(SEAL, HOLD, plan_ops.encode_op(Op(OpCode.EXEC, ((), (), ("a",) * 5)))),
        plan_with(raw_op(0, b"")),
        plan_with(raw_op(38, b"")),
        plan_with(raw_op(OpCode.PIVOT, b"", 0)),
        plan_with(raw_op(OpCode.PIVOT, b"", 1 << 31)),
        plan_with(raw_op(OpCode.PIVOT, b"", tree=1)),
        plan_with(raw_op(OpCode.PIVOT, bytes(8))),
        plan_with(raw_op(OpCode.PIVOT, b"\1" * 8)),
        plan_with(raw_op(OpCode.STDIO, slots(1))),
        plan_with(raw_op(OpCode.STDIO, slots(1, 1 << 32))),
        plan_with(raw_op(OpCode.MASK, slots(0) + b"abcdefgh")),
        plan_with(raw_op(OpCode.MASK, slots(1) + b"abcdefg\0")),
        plan_with(raw_op(OpCode.MASK, slots(0) + b"abc\0def\0")),
        plan_with(raw_op(OpCode.AFFINITY, slots(9, 0) + bytes(8))),
        plan_with(raw_op(OpCode.AFFINITY, slots(8, 1) + bytes(8))),
        plan_with(raw_op(OpCode.USER, slots(0, 0, 1 << 62, 0))),
        plan_with(raw_op(OpCode.NOTIFY, slots(0, 1 << 63) + b"a\0b\0    ")),
    ],
)
def test_decode_malformed_plan_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidConfig):
        decode_plan(data)


def test_encode_text_with_nul_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="NUL"):
        encode_plan([Op(OpCode.MASK, ("a\0b",))], clone_flags=0)


def test_encode_too_long_plan_is_refused() -> None:
    arguments = tuple(f"{number:1000}" for number in range(5000))
    with pytest.raises(LimitReached):
        encode_plan([Op(OpCode.EXEC, (arguments, (), ()))], clone_flags=0)


def test_describe_shows_an_operation_a_line() -> None:
    ops = [
        Op(OpCode.SETNS, (0x40000000, "")),
        Op(OpCode.DEVICE, ("/dev/null", ord("c"), 1, 3, 0o666, 0, 0)),
        Op(OpCode.OOM_SCORE, ("-5",)),
        Op(OpCode.PIVOT, (), 1),
        *END[:2],
        Op(OpCode.EXEC, (("sh", "-c", "two words\n"), (), ("/bin/sh",))),
    ]
    assert plan_ops.describe(encode_plan(ops, clone_flags=0x20020000)) == [
        "clone mount,pid",
        "setns net ''",
        "device /dev/null c 1 3 0666 0 0",
        "oom_score -5",
        "pivot flags=0x1",
        "seal 0022",
        "hold",
        r"exec [sh -c 'two words\n'] [] [/bin/sh]",
    ]


@given(plans)
def test_describe_any_plan_gives_printable_lines(plan: Plan) -> None:
    lines = plan_ops.describe(encode_plan(plan.ops, clone_flags=plan.clone_flags, flags=plan.flags))
    assert len(lines) == len(plan.ops) + 1
    assert all(line.isprintable() for line in lines)


def test_stage_name_is_known_for_every_operation() -> None:
    assert not [code for code in OpCode if plan_ops.stage_name(code).startswith("stage ")]
    assert plan_ops.stage_name(999) == "stage 999"


def test_operations_are_those_of_the_launcher() -> None:
    source = (NATIVE / "ops.h").read_text()
    found = {
        name: (int(code), layout)
        for code, name, layout in re.findall(r'^OP\((\d+), (\w+), "(\w*)"', source, re.MULTILINE)
    }
    assert found == {code.name: (int(code), layout) for code, layout in LAYOUTS.items()}


def test_versions_and_stages_are_those_of_the_launcher() -> None:
    header = (NATIVE / "wire.h").read_text()
    assert f"#define PLAN_VERSION {plan_ops.PLAN_VERSION}\n" in header
    stages = [int(value) for value in re.findall(r"\bSTAGE_\w+ = (\d+)\b", header)]
    assert stages
    assert not [code for code in stages if plan_ops.stage_name(code).startswith("stage ")]
