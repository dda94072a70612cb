"""A process whose tasks claim pods and hold locks at random until told to end; run as a program.

    claim_storm.py FOLDER MEMORY SEED POD ...

MEMORY is a file that all of them map: byte 0 tells them to end, and behind it stands for each pod
who works on it (pid and start time) and who holds its lock. Two at once are a violation.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from doubles.claim_peer import context_at
from podrt.errors import Busy
from podrt.linux.process import alive, myself
from podrt.locks.order import Level, Lock
from podrt.model.verbs import Verb
from podrt.runtime.claims import claim, group_lock
from podrt.runtime.context import Context

TASKS = 8
WORD = struct.Struct("<QQ")
MEMORY_BYTES = 4096


class Violation(Exception):
    """Two live processes were where only one may be."""


class Storm:
    """This process's part."""

    def __init__(self, ctx: Context, memory: mmap.mmap, seed: int, pods: list[str]) -> None:
        self._ctx = ctx
        self._memory = memory
        self._rng = random.Random(seed)
        self._pods = pods
        self._inside: set[int] = set()
        self._me = myself()
        self.counts = {"done": 0, "ended": 0, "took over": 0}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        # Who came last has to get his turn, too.
        while not self._memory[0] or not self.counts["done"]:
            number = self._rng.randrange(len(self._pods))
            verb = self._rng.choice(list(Verb))
            try:
                with trio.CancelScope() as scope:
                    if self._rng.random() < 0.1:
                        scope.deadline = trio.current_time() + self._rng.random() * 0.003
                    async with claim(self._ctx, self._pods[number], verb):
                        with self._alone(2 * number):
                            await self._hold(number)
                            await trio.sleep(self._rng.random() * 0.002)
                self.counts["done"] += 1
            except Busy:
                self.counts["ended"] += 1

    async def _hold(self, number: int) -> None:
        pod = group_lock(self._ctx, self._pods[number])
        async with self._ctx.locks.hold(pod) as owner_died:
            self.counts["took over"] += owner_died
            with self._alone(2 * number + 1):
                await trio.lowlevel.checkpoint()
                other = Lock(Level.CONTAINER, pod.owner_id, pod.number + len(self._pods))
                async with self._ctx.locks.hold(other):
                    await trio.sleep(self._rng.random() * 0.001)

    @contextmanager
    def _alone(self, place: int) -> Iterator[None]:
        at = 16 + WORD.size * place
        pid, ticks = WORD.unpack_from(self._memory, at)
        if place in self._inside or (pid and pid != os.getpid() and alive(pid, ticks)):
            raise Violation(f"place {place}: {pid} is there")
        self._inside.add(place)
        WORD.pack_into(self._memory, at, self._me.pid, self._me.start_ticks)
        try:
            yield
        finally:
            if WORD.unpack_from(self._memory, at)[0] != os.getpid():
                raise Violation(f"place {place}: somebody else came in")
            WORD.pack_into(self._memory, at, 0, 0)
            self._inside.remove(place)


def main(folder: str, memory: str, seed: str, *pods: str) -> None:
    with context_at(folder) as ctx, open(memory, "r+b") as file:
        with mmap.mmap(file.fileno(), MEMORY_BYTES) as shared:
            storm = Storm(ctx, shared, int(seed), list(pods))
            print("up", flush=True)
            trio.run(storm.run)
    print(json.dumps(storm.counts), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main(*sys.argv[1:])
