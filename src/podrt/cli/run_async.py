"""Running a verb that needs the runtime; Trio is imported here and nowhere else in this room."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
        async with open_runtime(settings) as runtime:
            return await verb(runtime)

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
