"""Another process that works as verbs on pods, driven from a test over its standard streams.

Run as a program (`claim_peer.py FOLDER POD=VERB ...`) it is the process; imported it is
`ClaimPeer`, which starts one, and what both need.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import trio

import podrt
from podrt.cgroups.managers import open_manager
from podrt.config import Settings
from podrt.errors import Busy
from podrt.linux import features
from podrt.locks.locks import Locks
from podrt.model.verbs import Verb
from podrt.runtime.claims import claim
from podrt.runtime.context import Context
from podrt.store.wal import Store

SOURCE = Path(podrt.__file__).resolve().parents[1]


@contextlib.contextmanager
def context_at(folder: str) -> Iterator[Context]:
    """The rooms that claims need, over a root and run root of their own; no root user."""
    settings = Settings(
        root=f"{folder}/root", runroot=f"{folder}/run", cgroup_manager="disabled"
    ).resolve()
    settings.layout.make()
    with contextlib.ExitStack() as stack:
        store = Store.open(settings.layout.state_dir)
        stack.callback(store.close)
        locks = Locks.open(settings.layout.locks)
        stack.callback(locks.close)
        cgroups = open_manager(settings.cgroup_manager)
        stack.callback(cgroups.close)
        ctx = Context(settings, store, locks, cgroups, features.boot_id())
        stack.callback(ctx.close)
        ctx.view.refresh()
        yield ctx


class ClaimPeer:
    """A process that stands on `pods` (ID -> verb) until told to end, or ended."""

    def __init__(self, folder: str, pods: Mapping[str, Verb]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, folder, *(f"{pod}={verb}" for pod, verb in pods.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            text=True,
            bufsize=1,
        )
        self.pid = self._process.pid
        self._ends: dict[str, str] = {}
        assert self._line() == "up"

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the peer has ended"
        return str(json.loads(line))

    def finish(self, pod: str) -> None:
        """Let the work on `pod` be done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{pod}\n")

    def end_of(self, pod: str) -> str:
        """How the work on `pod` ended: "done", or what its caller was told."""
        while pod not in self._ends:
            ended, _, how = self._line().partition(" ")
            self._ends[ended] = how
        return self._ends[pod]

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> ClaimPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:
            self.kill()


class _Worker:
    def __init__(self, ctx: Context, pods: dict[str, Verb]) -> None:
        self._ctx = ctx
        self._pods = pods
        self._done = {pod: trio.Event() for pod in pods}
        self._standing = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for pod, verb in self._pods.items():
                nursery.start_soon(self._work, pod, verb)
            nursery.start_soon(self._listen)

    async def _work(self, pod: str, verb: Verb) -> None:
        try:
            async with claim(self._ctx, pod, verb):
                self._standing += 1
                if self._standing == len(self._pods):
                    _say("up")
                await self._done[pod].wait()
            _say(f"{pod} done")
        except Busy as error:
            _say(f"{pod} {error}")

    async def _listen(self) -> None:
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            self._done[line.strip()].set()


def _say(text: str) -> None:
    print(json.dumps(text), flush=True)


def _main(folder: str, *words: str) -> None:
    pods = {pod: Verb(int(verb)) for pod, _, verb in (word.partition("=") for word in words)}
    with context_at(folder) as ctx:
        trio.run(_Worker(ctx, pods).run)


if __name__ == "__main__":
    _main(*sys.argv[1:])
