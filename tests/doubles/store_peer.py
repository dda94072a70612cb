"""Processes that hold a store open and do what they are told.

python -m doubles.store_peer SOCKET: whoever connects to SOCKET gets a process of their own, forked
so that it costs little. Orders and answers are pickled: only tests connect.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from doubles.states import Model, check_indexes, content
from podrt.errors import NotFound, PodrtError
from podrt.store.compact import compact
from podrt.store.control import attach
from podrt.store.disk import REAL_DISK
from podrt.store.records import Op
from podrt.store.tables import Tables
from podrt.store.wal import Store


class Obedience:
    """In the forked process: one method an order."""

    def __init__(self) -> None:
        self.store: Store | None = None

    def open(self, folder: str, bound: int, readonly: bool) -> int:
        self.close()
        self.store = Store.open(
            folder, segment_bytes=bound, readonly=readonly, compact_in_background=False
        )
        return self.store.seq

    def close(self) -> None:
        if self.store is not None:
            self.store.close()

    def transact(self, ops: list[Op], rotate: bool) -> int:
        assert self.store is not None
        if rotate:
            self.store._bound = lambda: 0  # type: ignore[method-assign]
        try:
            return self.store.transact(lambda _: ops)
        finally:
            if rotate:
                del self.store._bound  # type: ignore[method-assign]

    def refuse(self) -> int:
        """A transaction whose function raises."""

        def fail(_: Tables) -> list[Op]:
            raise NotFound("pod", "x")

        assert self.store is not None
        with contextlib.suppress(NotFound):
            self.store.transact(fail)
        return self.store.seq

    def flush(self) -> tuple[int, int]:
        assert self.store is not None
        self.store.flush_blocking(self.store.seq)
        return self.store.seq, self.store.durable

    def snapshot(self) -> int:
        assert self.store is not None
        folder = self.store.state_dir
        return compact(folder, REAL_DISK, attach(f"{folder}/shared"))

    def look(self) -> tuple[int, Model]:
        """The sequence and everything there is, after catching up."""
        assert self.store is not None
        self.store.catch_up()
        check_indexes(self.store.tables)
        return self.store.seq, content(self.store.tables)


def obey(connection: socket.socket) -> None:
    obedience = Obedience()
    with connection.makefile("rwb") as stream:
        pickle.dump(os.getpid(), stream)
        stream.flush()
        while True:
            try:
                order, arguments = pickle.load(stream)
            except EOFError:
                return
            try:
                answer = getattr(obedience, order)(*arguments)
            except PodrtError as error:
                answer = type(error)
            pickle.dump(answer, stream)
            stream.flush()


def serve(path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked ones
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                obey(connection)
                os._exit(0)
            connection.close()


@contextlib.contextmanager
def server(environment: dict[str, str]) -> Iterator[str]:
    """Start the server; gives its socket's path."""
    with tempfile.TemporaryDirectory(prefix="podrt-test-") as folder:
        path = f"{folder}/s"
        command = [sys.executable, "-m", "doubles.store_peer", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == b"ready\n"
                yield path
            finally:
                process.kill()


class Peer:
    """In the test: a process of its own, and the conversation with it."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rwb")
        self.pid: int = pickle.load(self._stream)

    def order(self, order: str, *arguments: object) -> None:
        """Tell it what to do, and do not wait."""
        pickle.dump((order, arguments), self._stream)
        self._stream.flush()

    def answer(self) -> Any:
        """What came of the order; a class of error if it was refused."""
        return pickle.load(self._stream)

    def __call__(self, order: str, *arguments: object) -> Any:
        self.order(order, *arguments)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL it, whatever it is at, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            while self._socket.recv(1 << 16):
                pass
        self.close()

    def close(self) -> None:
        """It ends when nobody speaks to it any more."""
        self._stream.close()
        self._socket.close()


if __name__ == "__main__":
    serve(sys.argv[1])
