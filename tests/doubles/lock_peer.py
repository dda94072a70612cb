"""Another process at the same lock table, driven from a test over its standard input and output.

Run as a program it is the process; imported it is `Peer`, which starts and asks one.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import podrt

SOURCE = Path(podrt.__file__).resolve().parents[1]


class PeerError(Exception):
    """What the peer's call raised: `kind` is the class's name."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {text}")


class Peer:
    """A process with the table open. Owner IDs travel as hex."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        self.result()

    def send(self, name: str, *args: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *args]) + "\n")

    def result(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError("EOFError", "the peer has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(*answer["error"])
        return answer["value"]

    def call(self, name: str, *args: object) -> Any:
        self.send(name, *args)
        return self.result()

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        self._process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.close()


class _Served:
    """What a test may ask for beside the table's own methods."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def reopen(self, path: str) -> None:
        self._table.close()
        self._table = type(self._table).open(path)

    def allocate(self, owner: str) -> int:
        return int(self._table.allocate(bytes.fromhex(owner)))

    def free(self, index: int, owner: str) -> bool:
        return bool(self._table.free(index, bytes.fromhex(owner)))

    def allocate_many(self, owner: str, count: int) -> list[int]:
        return [self.allocate(owner) for _ in range(count)]

    def allocate_count(self, owner: str, count: int) -> int:
        """The greatest lock of `count` new ones."""
        return max(self.allocate(owner) for _ in range(count))

    def churn(self, owner: str, rounds: int) -> list[int]:
        """Allocates and frees by turns; what is left allocated."""
        held: list[int] = []
        for number in range(rounds):
            held.append(self.allocate(owner))
            if number % 3 == 2:
                index = held.pop(number % len(held))
                if not self.free(index, owner):
                    raise RuntimeError(f"lock {index} was not mine any more")
        return held

    def count(self, index: int, counter: str, rounds: int) -> int:
        """Adds to a number in a file `rounds` times, in two steps that only a lock can join."""
        deaths = 0
        with open(counter, "r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
            for _ in range(rounds):
                deaths += self._table.acquire(index, 60_000) == 2
                value = int.from_bytes(memory[:8], "little")
                memory[:8] = (value + 1).to_bytes(8, "little")
                self._table.release(index)
        return deaths

    def preempt_by_all(self, index: int, token: int, verbs: list[int]) -> None:
        for verb in verbs:
            self._table.preempt(index, token, verb)

    def hold_many(self, index: int, tasks: int) -> list[int]:
        """That many Trio tasks hold the lock for a moment each: when they got it (monotonic)."""
        import trio

        from podrt.locks.locks import Locks
        from podrt.locks.order import Level, Lock

        got: list[int] = []

        async def hold(locks: Locks) -> None:
            async with locks.hold(Lock(Level.CONTAINER, "", index)):
                got.append(time.monotonic_ns())
                await trio.sleep(0.0005)

        async def hold_all() -> None:
            async with trio.open_nursery() as nursery:
                locks = Locks(self._table)
                for _ in range(tasks):
                    nursery.start_soon(hold, locks)

        trio.run(hold_all)
        return got

    def ask(self, name: str, args: list[Any]) -> object:
        own = getattr(self, name, None)
        return own(*args) if own is not None else getattr(self._table, name)(*args)


def _serve(path: str) -> None:
    from podrt._fast.locktable import LockTable

    served = _Served(LockTable.open(path))
    print('{"value": null}', flush=True)
    for line in sys.stdin:
        name, *args = json.loads(line)
        try:
            answer: dict[str, object] = {"value": served.ask(name, args)}
        except Exception as error:
            answer = {"error": [type(error).__name__, str(error)]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
