"""Running a verb that needs the runtime; Trio is imported here and nowhere else in this room."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import trio

from podrt.config import Settings
from podrt.errors import sole_error
from podrt.linux.limits import raise_open_files
from podrt.runtime.runtime import Runtime, open_runtime

T = TypeVar("T")


def run(settings: Settings, verb: Callable[[Runtime], Awaitable[T]]) -> T:
    """Open the runtime, run `verb` with it, close it; what `verb` gives."""
    raise_open_files()

    async def main() -> T:
        try:
            async with open_runtime(settings) as runtime:
                return await verb(runtime)
        finally:
            # Trio closes what its handler writes to while the handler is still there.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    with _handler_kept():
        try:
            return trio.run(main)
        except BaseExceptionGroup as group:
            raise sole_error(group) from None


@contextlib.contextmanager
def _handler_kept() -> Iterator[None]:
    """Give Ctrl-C its handler back; what comes while a verb that is done is closed is dropped."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
