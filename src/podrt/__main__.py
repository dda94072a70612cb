"""The `podrt` command; `python -m podrt` is the same."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import podrt

# A shell shows 128 + SIGINT for a program that Ctrl-C ended.
_INTERRUPTED = 130


def main() -> int:
    """Run the command line that the process was started with; the result is the exit code."""
    arguments = sys.argv[1:]
    # Answered before anything is imported: scripts ask this often.
    if arguments in (["--version"], ["-v"]):
        print(f"podrt version {podrt.__version__}")
        return 0
    if arguments == ["version"]:
        from podrt.cli.version import version_text

        print(version_text())
        return 0
    # A command line of its own, which other container managers speak.
    if arguments[:1] == ["oci"]:
        from podrt.cli.oci import main as run_oci

        return run_oci(arguments[1:])
    try:
        with _without("typing_extensions"):
            from podrt.cli.main import main as run

        return run(arguments)
    except KeyboardInterrupt:
        # It came while modules were loaded; afterwards `run` answers it in the same way.
        return _INTERRUPTED


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Let a module seem not to be installed.

    msgspec does as well without typing_extensions, whose import takes longer than all its own.
    """
    is_blocked = module not in sys.modules
    if is_blocked:
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if is_blocked:
            del sys.modules[module]


def command() -> NoReturn:
    """Be the `podrt` command: run it, and leave without taking the interpreter apart.

    Nothing is left to be taken apart: what must be closed was closed when the verb ended. Loading
    makes no garbage either, so none is looked for until the verb begins (cli.main).
    """
    gc.disable()
    code = main()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
    os._exit(code)


if __name__ == "__main__":
    command()
