from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles import ebpf_machine
from podrt.cgroups import devices
from podrt.errors import InvalidConfig
from podrt.model.runtimespec import DeviceRule

BITS = {"m": 1, "r": 2, "w": 4}
KINDS = {"b": 1, "c": 2}
DENY_ALL = DeviceRule(allow=False, type="a", access="rwm")

numbers = st.sampled_from([None, 0, 1, 3, 0xFFFFFFFE])
rules = st.lists(
    st.builds(
        DeviceRule,
        allow=st.booleans(),
        type=st.sampled_from("abcu"),
        major=numbers,
        minor=numbers,
        access=st.sampled_from(["", "r", "w", "m", "rw", "rm", "wm", "rwm"]),
    ),
    max_size=8,
)
requests = st.tuples(
    st.sampled_from("bc"),
    st.integers(1, 7),
    st.sampled_from([0, 1, 3, 7, 0xFFFFFFFE]),
    st.sampled_from([0, 1, 3, 7, 0xFFFFFFFE]),
)


def kernel_says(found: list[DeviceRule], kind: str, access: int, major: int, minor: int) -> bool:
    """security/device_cgroup.c in words: a default, and a list of exceptions from it."""
    default = False
    exceptions: list[list[object]] = []
    for rule in found:
        bits = sum(BITS[letter] for letter in set(rule.access or "rwm"))
        if rule.type == "a" and bits == 7 and rule.major is None and rule.minor is None:
            default, exceptions = rule.allow, []
            continue
        for one in "bc" if rule.type == "a" else rule.type.replace("u", "c"):
            same = [item for item in exceptions if item[:3] == [one, rule.major, rule.minor]]
            if rule.allow != default:
                if same:
                    same[0][3] = int(str(same[0][3])) | bits
                else:
                    exceptions.append([one, rule.major, rule.minor, bits])
            elif same:
                same[0][3] = int(str(same[0][3])) & ~bits
                if not same[0][3]:
                    exceptions.remove(same[0])
    for one, its_major, its_minor, held in exceptions:
        bits = int(str(held))
        met = one == kind and its_major in (None, major) and its_minor in (None, minor)
        if met and (bits & access if default else not access & ~bits):
            return not default
    return default


@given(rules, st.lists(requests, min_size=1, max_size=12))
def test_program_decides_as_the_v1_kernel_does(
    found: list[DeviceRule], asked: list[tuple[str, int, int, int]]
) -> None:
    program = devices.program(devices.compile_rules(found))
    for kind, access, major, minor in asked:
        verdict = ebpf_machine.run(program, KINDS[kind], access, major, minor)
        assert verdict == kernel_says(found, kind, access, major, minor)


def test_v1_writes_of_the_usual_rules_start_with_deny_all() -> None:
    table = devices.compile_rules(
        [
            DENY_ALL,
            DeviceRule(allow=True, type="c", major=1, minor=3, access="rwm"),
            DeviceRule(allow=True, type="b", access="m"),
        ]
    )
    assert devices.v1_writes(table) == (
        ("devices.deny", b"a"),
        ("devices.allow", b"c 1:3 rwm"),
        ("devices.allow", b"b *:* m"),
    )


def test_v1_writes_of_a_privileged_container_allow_all() -> None:
    table = devices.compile_rules([DENY_ALL, DeviceRule(allow=True, type="a", access="rwm")])
    assert devices.v1_writes(table) == (("devices.allow", b"a"),)


def test_compile_of_nothing_denies_all() -> None:
    assert devices.compile_rules([]) == devices.Table(False, ())


def test_compile_of_type_a_with_a_number_opens_only_that() -> None:
    table = devices.compile_rules([DeviceRule(allow=True, type="a", major=1, access="r")])
    assert not table.default_allow
    assert {device for device, _ in table.exceptions} == {("b", 1, None), ("c", 1, None)}


@pytest.mark.parametrize(
    "rule",
    [
        DeviceRule(allow=True, type="x"),
        DeviceRule(allow=True, type=""),
        DeviceRule(allow=True, type="c", access="rwx"),
        DeviceRule(allow=True, type="c", major=1 << 32),
        DeviceRule(allow=True, type="c", minor=-2),
    ],
)
def test_compile_of_a_bad_rule_names_the_field(rule: DeviceRule) -> None:
    with pytest.raises(InvalidConfig, match=r"^linux\.resources\.devices"):
        devices.compile_rules([rule])
