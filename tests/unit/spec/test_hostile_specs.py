"""Documents that nobody should have written: a typed error that names a field, in bounded time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from podrt.engines.cgroup_view import CgroupView, Hierarchy
from podrt.engines.plan import Identity, compile_bundle, compile_exec
from podrt.engines.plan_ops import MAX_BYTES, decode_plan
from podrt.errors import InvalidConfig, LimitReached, Unsupported
from podrt.model import runtimespec as oci
from podrt.oci import cgroup, limits
from podrt.spec import seccomp
from podrt.spec.unknown import unknown_fields

from .test_runtime_spec_fields import FULL, fresh

MODULES = frozenset({"apparmor", "selinux"})
LONGEST_S = 5.0
TEXTS = [
    "", "/", "..", "../../etc", "/proc/self/fd/3", "a\0b", "x" * 300, "/" + "a/" * 3000, "\n", " ",
    "é\U0001f600", "@PID@", '"', "0-4294967295", "1,,2", "-1", "18446744073709551616", "rbind",
    "idmap=uids=0-0-0", "ridmap=uids=a;gids=b", "ro,size=1", "bind", "tmpfs", "proc", "mount",
    "user", "time", "SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW", "SCHED_FIFO", "SCHED_DEADLINE", "RLIMIT_",
    "RLIMIT_NOFILE", "CAP_", "CAP_SYS_ADMIN", "unconfined", "net/../kernel/x", "kernel.panic",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 7, 255, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1, 1 << 64, -(1 << 63), 10**40, 0.5, 1e300,
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], {}, [[]], {"": ""}, [None], {"a": {"b": []}}]


def hostile_value(chance: random.Random) -> Any:
    return chance.choice(chance.choice([TEXTS, NUMBERS, OTHERS]))


def nodes(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            found.append((node, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def mutate(document: Any, chance: random.Random) -> None:
    """One change somewhere in a document."""
    node, key = chance.choice(nodes(document))
    kind = chance.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.extend([fresh(node[key])] * chance.choice([1, 2, 50]))
    elif kind == 2 and isinstance(node, dict):
        node[chance.choice(TEXTS)] = node.pop(key)
    elif kind == 3:
        # A part from elsewhere, where it may even be of the right kind.
        other, other_key = chance.choice(nodes(document))
        node[key] = fresh(other[other_key])
    else:
        node[key] = fresh(hostile_value(chance))


def mutated(chance: random.Random) -> bytes:
    document = fresh(FULL)
    if chance.random() < 0.5:
        # What only a terminal, labels and clocks need is not always in the way of the rest.
        for name in chance.sample(list(document["linux"]), 4):
            del document["linux"][name]
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        if nodes(document):
            mutate(document, chance)
    data = json.dumps(document).encode()
    if chance.random() < 0.05:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randrange(3) :]
    return data


def use(data: bytes) -> None:
    """All that is done with a document before anything is made. Raises what is to be raised."""
    unknown_fields(data)
    spec = oci.decode(data)
    program = b""
    if spec.linux is not None:
        if spec.linux.seccomp is not None:
            program = seccomp.filter_of(spec.linux.seccomp, "x86_64")
        cgroup.path_of(spec.linux, "c1")
        if spec.linux.resources is not None:
            limits.known_limits(spec.linux.resources)
            limits.device_rules(spec.linux.resources)
            limits.other_writes(spec.linux.resources)
    plan = compile_bundle(
        spec,
        who=Identity(id="c1", bundle="/bundle", annotations=spec.annotations),
        cgroups=CgroupView(1, (Hierarchy("cpu", ("cpu",)),), "/c1"),
        filter_path="/filter" if program else "",
        modules=MODULES,
    )
    assert len(plan) <= MAX_BYTES
    decode_plan(plan)
    assert spec.process is not None
    compile_exec(spec.process, namespaces={"mount": "/proc/2/ns/mnt"}, modules=MODULES)


def test_compile_mutated_documents_gives_a_plan_or_an_error_with_a_field(
    rounds: Callable[[int, int], int],
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    taken = 0
    for number in range(rounds(600, 100_000)):
        data = mutated(chance)
        began = time.process_time()
        try:
            use(data)
            taken += 1
        except (InvalidConfig, Unsupported) as exc:
            assert exc.field, (seed, number, data)
            assert len(str(exc)) < 20_000, (seed, number, data)
        except LimitReached:
            pass
        except Exception as exc:
            raise AssertionError(f"seed {seed}, document {number}: {data!r}") from exc
        assert time.process_time() - began < LONGEST_S, (seed, number, data)
    assert taken > 10


def with_part(path: str, value: Any) -> bytes:
    document = fresh(FULL)
    *above, last = path.split(".")
    node = document
    for name in above:
        node = node[name]
    node[last] = value
    return json.dumps(document).encode()


NAMES = [f"n{number}" for number in range(20_000)]
HUGE: dict[str, Callable[[], bytes]] = {
    "mounts": lambda: with_part(
        "mounts", [{"destination": f"/{n}", "type": "tmpfs", "source": "t"} for n in NAMES]
    ),
    "options": lambda: with_part(
        "mounts", [{"destination": "/x", "type": "tmpfs", "options": NAMES}]
    ),
    "environment": lambda: with_part("process.env", [f"{n}={'x' * 200}" for n in NAMES]),
    "a long argument": lambda: with_part("process.args", ["x" * (7 << 20)]),
    "a long document": lambda: b'{"annotations": {"a": "' + b"x" * (9 << 20) + b'"}}',
    "rlimits": lambda: with_part(
        "process.rlimits", [{"type": n, "soft": 1, "hard": 1} for n in NAMES]
    ),
    "groups": lambda: with_part("process.user.additionalGids", list(range(200_000))),
    "capabilities": lambda: with_part("process.capabilities.bounding", NAMES),
    "devices": lambda: with_part(
        "linux.devices",
        [{"path": f"/dev/{n}", "type": "c", "major": 1, "minor": 1} for n in NAMES],
    ),
    "masks": lambda: with_part("linux.maskedPaths", [f"/{n}" for n in NAMES]),
    "sysctls": lambda: with_part("linux.sysctl", {f"net.{n}": "1" for n in NAMES}),
    "mappings": lambda: with_part(
        "linux.uidMappings",
        [{"containerID": n, "hostID": n, "size": 1} for n in range(20_000)],
    ),
    "CPUs": lambda: with_part("process.execCPUAffinity.initial", ",".join(["0-8191"] * 20_000)),
    "system calls": lambda: with_part(
        "linux.seccomp.syscalls", [{"names": NAMES, "action": "SCMP_ACT_LOG"}] * 20
    ),
    "conditions": lambda: with_part(
        "linux.seccomp.syscalls",
        [
            {
                "names": ["read", "write"],
                "action": "SCMP_ACT_LOG",
                "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": number}],
            }
            for number in range(40_000)
        ],
    ),
    "all calls apart": lambda: with_part(
        "linux.seccomp.syscalls",
        [
            {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 + number % 4000}
            for number, name in enumerate(seccomp.tables.numbers("x86_64"))
        ],
    ),
    "hooks": lambda: with_part(
        "hooks.createContainer", [{"path": "/h", "args": NAMES[:100]}] * 2000
    ),
    "depth": lambda: b'{"annotations": ' + b'{"a": ' * 200_000,
    "arrays": lambda: b"[" * 3_000_000,
}


@pytest.mark.parametrize("name", HUGE)
def test_compile_huge_documents_ends_soon(name: str) -> None:
    data = HUGE[name]()
    began = time.process_time()
    try:
        use(data)
    except (InvalidConfig, Unsupported) as exc:
        assert exc.field
        assert len(str(exc)) < 20_000
    except LimitReached:
        pass
    assert time.process_time() - began < LONGEST_S


def test_decode_text_with_nul_is_refused_by_field() -> None:
    for path, value, field in (
        ("process.args", ["sh", "a\0b"], "process.args[1]"),
        ("linux.sysctl", {"net.a": "1\0"}, "linux.sysctl.net.a"),
        ("annotations", {"a\0": "1"}, "annotations.a\\0"),
        ("mounts", [{"destination": "/x\0"}], "mounts[0].destination"),
    ):
        with pytest.raises(InvalidConfig) as caught:
            oci.decode(with_part(path, value))
        assert caught.value.field == field


def test_state_text_of_a_hostile_annotation_cannot_move_the_pid() -> None:
    who = Identity(id="c1", bundle="/b", annotations={"x": '@PID@ "pid":null', "pid": "@"})
    spec = oci.decode(json.dumps(FULL).encode())
    plan = decode_plan(compile_bundle(spec, who=who, filter_path="/f", modules=MODULES))
    texts = [op.fields[-1] for op in plan.ops if op.code.name in ("HOOKS", "NOTIFY")]
    assert len(texts) == 3
    for pieces in texts:
        assert isinstance(pieces, tuple)
        document = json.loads("77".join(pieces))
        state = document.get("state", document)
        assert document["pid"] == state["pid"] == 77
        assert state["annotations"] == who.annotations
        assert len(pieces) == (3 if "state" in document else 2)
