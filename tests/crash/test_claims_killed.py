"""Processes killed while their tasks hold locks and claims, wait for and end each other."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import podrt
from doubles import claim_storm
from doubles.claim_peer import context_at
from podrt._fast.locktable import LockTable
from podrt.model.ids import new_id
from podrt.model.pod import PodConfig
from podrt.store.records import PodRecord, Put

PODS = 3
PROCESSES = 4
KILLED = -9

pytestmark = pytest.mark.timeout(1200)


class Field:
    """A root with a few pods, and processes at work on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = folder / "memory"
        self.memory.write_bytes(bytes(claim_storm.MEMORY_BYTES))
        self.pods = [new_id() for _ in range(PODS)]
        with context_at(str(folder)) as ctx:
            records = [
                PodRecord(id=pod, config=PodConfig(name=pod[:12]), lock=ctx.locks.allocate(pod))
                for pod in self.pods
            ]
            for _ in self.pods:
                ctx.locks.allocate(new_id())
            ctx.record(lambda _: [Put(record) for record in records])
            self.table_path = ctx.layout.locks

    def start(self, seed: int) -> subprocess.Popen[str]:
        paths = [str(Path(podrt.__file__).parents[1]), str(Path(__file__).parents[1])]
        process = subprocess.Popen(
            [sys.executable, claim_storm.__file__, str(self.folder), str(self.memory), str(seed),
             *self.pods],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    def end(self) -> None:
        with open(self.memory, "r+b") as file:
            file.write(b"\x01")


def test_killing_those_with_claims_at_random_wedges_nobody_and_lets_no_two_in(
    tmp_path: Path, rounds: Callable[[int, int], int]
) -> None:
    field = Field(tmp_path)
    seed = random.SystemRandom().randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    workers = [field.start(rng.getrandbits(30)) for _ in range(PROCESSES)]
    try:
        for _ in range(rounds(5, 500)):
            time.sleep(rng.random() * 0.1)
            victim = workers.pop(rng.randrange(PROCESSES))
            victim.kill()
            _, errors = victim.communicate()
            assert (victim.returncode, errors) == (KILLED, "")
            workers.append(field.start(rng.getrandbits(30)))
        field.end()
        ended = [worker.communicate(timeout=60) for worker in workers]
        assert [errors for _, errors in ended] == [""] * PROCESSES
        counts = [json.loads(said) for said, _ in ended]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert all(count["done"] for count in counts), counts
    assert sum(count["ended"] for count in counts), "no verb ended another one"
    table = LockTable.look(field.table_path)
    assert table is not None
    for entry in table.entries():
        assert entry.holder is None or not entry.holder.alive
        assert entry.claim is None or not entry.claim.holder.alive
    table.close()
