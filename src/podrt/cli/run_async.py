"""Running a verb that needs the runtime; Trio is imported here and nowhere else in this room."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from podrt.config import Settings
from podrt.errors import sole_error
from podrt.runtime.runtime import Runtime, open_runtime

T = TypeVar("T")


def run(settings: Settings, verb: Callable[[Runtime], Awaitable[T]]) -> T:
    """Open the runtime, run `verb` with it, close it; what `verb` gives."""

    _raise_file_limit()

    async def main() -> T:
        async with open_runtime(settings) as runtime:
            return await verb(runtime)

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise sole_error(group) from None


def _raise_file_limit() -> None:
    """A connection per pod at work: a thousand are more than the usual 1,024 descriptors bear."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
