"""podrt commands without the start of an interpreter, and struck at any of their system calls.

python -m doubles.command_server    reads orders, one JSON object a line; answers each

Commands are forked from this process, which has everything imported: a thousand of them take
seconds, and the calls that a tracer counts are podrt's own, not those of importing it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

import podrt
import podrt.cli
import podrt.runtime
from doubles import tracer
from doubles.commands import Podrt, command_environment


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A command, and the signal it gets at a point of its own or of a monitor.

    `at` 0: it is not traced; -1: its points are only counted. `monitor` is None when the command
    itself is struck, else the pid whose points count, 0 for the one that the command starts.
    """

    argv: list[str]
    delay_s: float = 0.0
    at: int = 0
    number: int = signal.SIGKILL
    monitor: int | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended: its code (-9 for one that was killed), and what it printed.

    `points` and `last` are the tracer's.
    """

    code: int
    out: str
    err: str
    points: int = 0
    last: str = ""


class CommandServer:
    """A process that runs one command after the other."""

    def __init__(self, podrt: Podrt) -> None:
        self._prefix = podrt.words()[3:]
        tests = str(Path(__file__).parents[1])
        environment = command_environment()
        environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}:{tests}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "doubles.command_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def __enter__(self) -> CommandServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        if error is not None:
            self._process.kill()
        self._process.wait()

    def __call__(self, *words: str) -> str:
        """Run a command that must succeed; its output."""
        done = self.run(*words)
        assert done.code == 0, (words, done)
        return done.out

    def run(self, *words: str) -> Done:
        """Run a command to its end."""
        return self.obey(Order(argv=list(words)))

    def obey(self, order: Order) -> Done:
        """Send an order and await its end."""
        self.send(order)
        return self.receive()

    def send(self, order: Order) -> None:
        """Begin: what follows must be `receive`."""
        assert self._process.stdin is not None
        order = msgspec.structs.replace(order, argv=[*self._prefix, *order.argv])
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def receive(self) -> Done:
        """The end of what was begun."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server has ended"
        done = msgspec.json.decode(line, type=Done)
        assert "Traceback" not in done.err, done.err
        return done


# --- the program --------------------------------------------------------------------------------


def _import_all() -> None:
    for package in (podrt.cli, podrt.runtime):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def _work(order: Order, output: tuple[int, int]) -> Callable[[], None]:
    """What the command's own process does; it ends it."""
    from podrt.cli.main import main

    def work() -> None:
        for source, target in zip(output, (1, 2), strict=True):
            os.dup2(source, target)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        code = 1
        try:
            # Only from here on: what is before is no part of the command.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = main(order.argv)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # Ctrl-C may come once more while it ends: that is no business of the exit code.
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    return work


def _trace(order: Order, work: Callable[[], None]) -> tracer.Outcome:
    at = max(order.at, 0)
    if order.monitor is not None:
        return tracer.run_beside(work, at, order.monitor)
    if order.number == signal.SIGKILL:
        return tracer.run(work, at)
    return tracer.run_signalled(work, at, order.number)


def _run(order: Order, work: Callable[[], None]) -> tracer.Outcome:
    """Run a command in a child of a child, so that whatever was traced is let go."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if not order.at:
                time.sleep(order.delay_s)
                work()
            outcome = _trace(order, work)
            os.write(writing, msgspec.json.encode(outcome))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if not order.at:
        return tracer.Outcome(os.waitstatus_to_exitcode(status), 0, "")
    return msgspec.json.decode(told, type=tracer.Outcome)


def _read_all(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, encoding="utf-8", errors="replace") as file:
        return file.read()


def _serve(lines: Sequence[bytes]) -> None:
    _import_all()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    for line in lines:
        order = msgspec.json.decode(line, type=Order)
        output = os.memfd_create("out"), os.memfd_create("err")
        outcome = _run(order, _work(order, output))
        out, err = (_read_all(fd) for fd in output)
        done = Done(code=outcome.code, out=out, err=err, points=outcome.points, last=outcome.last)
        sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer)  # type: ignore[arg-type]
