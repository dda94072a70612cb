"""The decoders of plans and messages withstand whatever they are fed."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Client, Group, Message, Operation, plan_of
from doubles.weakened import copy_without

PROJECT = Path(__file__).parents[3]
NATIVE = PROJECT / "src/podrt/_native"
FUZZ = PROJECT / "tests/fuzz_native"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def every_operation() -> list[Operation]:
    """One of each kind, whether it makes sense or not."""
    texts = m.texts(["a", "", "b=c"])
    fields = {
        "u": m.u32(3), "q": m.u64(1 << 40), "s": m.text("/some/where"), "l": texts,
        "g": m.numbers([5, 5]), "b": m.blob(b"bytes"),
    }  # fmt: skip
    found = []
    for line in (NATIVE / "ops.h").read_text().splitlines():
        if not line.startswith("OP(") or ", EXEC," in line:
            continue
        code, _name, layout, *_rest = line[3:].split(", ")
        found.append(m.op(int(code), *(fields[kind] for kind in layout.strip('"'))))
    return found


@pytest.fixture(scope="session")
def fuzz_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    return build_fuzz_plan(tmp_path_factory.mktemp("fuzz"), NATIVE)


def build_fuzz_plan(folder: Path, native: Path) -> Path:
    program = folder / "fuzz_plan"
    sources = [FUZZ / "fuzz_plan.c", native / "plan.c", native / "base.c"]
    command = ["gcc", "-std=gnu11", *SANITIZE, f"-I{native}", *map(str, sources), "-o"]
    built = subprocess.run([*command, str(program)], capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("needs gcc's sanitizers")
    assert built.returncode == 0, built.stderr
    return program


def test_decode_mutated_plans_is_refused_or_walked(
    fuzz_plan: Path, tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    paths = plan_files(tmp_path)
    count = rounds(20_000, 100_000)
    seed = str(random.SystemRandom().randrange(1 << 60))
    ran = subprocess.run(
        [fuzz_plan, seed, str(count), *paths], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, (seed, ran.stderr)
    # Mutations are neither all refused nor harmless.
    accepted = int(ran.stdout.split()[0])
    assert len(paths) // 2 < accepted < count


def test_decoder_that_lacks_a_bound_is_caught(fuzz_plan: Path, tmp_path: Path) -> None:
    """The very plan that the bound is for: harmless with it, found by a sanitizer without."""
    # The head of an operation alone: its fields would lie behind the plan.
    cut = Operation(m.device("/dev/null", 1, 3)[: m.OP_HEAD.size])
    cut.room = 0
    (tmp_path / "plan").write_bytes(plan_of([cut]))
    change = ("plan.c", "op->bytes > rest ||", "")
    weak = build_fuzz_plan(tmp_path, copy_without(tmp_path, [change]))
    sound, caught = (
        subprocess.run(
            [one, "1", "1", tmp_path / "plan"], capture_output=True, text=True, check=False
        )
        for one in (fuzz_plan, weak)
    )
    assert (sound.returncode, sound.stdout.split()[0]) == (0, "0")
    assert caught.returncode != 0 and "AddressSanitizer" in caught.stderr


def plan_files(folder: Path) -> list[Path]:
    """Plans to mutate: every operation at once and by itself, a usual one, the shortest."""
    end = [m.sealed(), m.HOLDING, m.execute(["sh", "-c", "true"], ["PATH=/bin", "A=b"])]
    maps = m.idmap("0 1 2\n", "0 1 2\n")
    flags = m.DEFAULT_FLAGS | m.NEWUSER | m.NEWTIME
    plans = [
        plan_of([maps, *every_operation(), *end], flags),
        plan_of([m.log("/log", 7), *m.STANDARD_MOUNTS, *m.HIDDEN, *end]),
        plan_of(end),
        *(plan_of([maps, one, *end], flags) for one in every_operation()),
    ]
    paths = []
    for index, plan in enumerate(plans):
        paths.append(folder / str(index))
        paths[-1].write_bytes(plan)
    return paths


def mutated(source: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(source.choice(seeds))
    for _ in range(source.randrange(5)):
        if not data:
            break
        at = source.randrange(len(data))
        data[at] = source.choice((0, 1, 255, source.randrange(256)))
    if source.random() < 0.1:
        data = data[: source.randrange(len(data) + 1)]
    if source.random() < 0.1:
        data += source.randbytes(source.choice((1, 100, 40_000, 70_000)))
    return bytes(data)


def harmless(data: bytes) -> bool:
    """An adoption or a signal of a real process is not what this is about, nor namespaces."""
    return int.from_bytes(data[:2], "little") not in (m.SETUP, m.ADOPT) or len(data) < 64


def test_read_mutated_messages_leaves_the_monitor_serving(
    group: Group, client: Client, rounds: Callable[[int, int], int]
) -> None:
    seed = random.SystemRandom().randrange(1 << 60)
    source = random.Random(seed)
    ids = (bytes(32), group.id, b"x" * 32)
    seeds = [
        Message(kind, 1, 1, arg, 5, 6, source.choice(ids), body).encode()
        for kind in (*range(14), 64, 0xFFFF)
        for arg in (0, 1, -1)
        for body in (b"", b"/a\0/b\0", b"x" * 100)
    ]
    descriptor = os.open("/dev/null", os.O_RDONLY)
    sock = client.socket
    before = len(list(Path(f"/proc/{group.pid}/fd").iterdir()))
    try:
        for number in range(rounds(5_000, 100_000)):
            data = mutated(source, seeds)
            if not data or not harmless(data):
                continue
            fds = [descriptor] * source.choice((0, 0, 1, 3))
            socket.send_fds(sock, [data], fds)
            assert sock.recv(1 << 17), (seed, number)
    finally:
        os.close(descriptor)
    assert client.ask(Message(m.HELLO)).b == group.pid
    # Each passed descriptor has been closed again.
    assert len(list(Path(f"/proc/{group.pid}/fd").iterdir())) == before


def test_start_mutated_plans_is_started_or_refused(
    box: Box, rounds: Callable[[int, int], int]
) -> None:
    source = random.Random(random.SystemRandom().randrange(1 << 60))
    plan = plan_of(box.ops(["true"]))
    for _ in range(rounds(100, 2_000)):
        reply = box.start(mutated(source, [plan]))
        assert reply.kind in (m.STARTED, m.FAILED), reply
        if reply.kind == m.STARTED:
            box.wait()
    assert box.start(plan).kind == m.STARTED
