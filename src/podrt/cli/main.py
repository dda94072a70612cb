"""The command line's entry: which verb, with which flags, ending in which exit code."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from podrt.errors import PodrtError

from . import verbs
from .errors import FAILED, UsageError, exit_code, print_error
from .flags import Parser, add_global_flags, settings_of

# A shell shows 128 + SIGINT for a program that Ctrl-C ended.
_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); its exit code."""
    try:
        code = _run(list(argv))
        sys.stdout.flush()
        return code
    except UsageError as exc:
        print(f"Error: {exc}\nSee '{exc.command} --help'", file=sys.stderr)
        return FAILED
    except PodrtError as exc:
        print_error(exc)
        return exit_code(exc)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ExceptionGroup as group:
        known, others = group.split((PodrtError, OSError))
        if others is not None or known is None:
            raise
        _print_all(known)
        return FAILED
    except BrokenPipeError:
        # Nobody reads any more; the interpreter must not try to flush once again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        print(f"Error: {where}{exc.strerror or exc}", file=sys.stderr)
        return FAILED


def _print_all(group: ExceptionGroup[Exception]) -> None:
    """A line for each error of several tasks that failed at once."""
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            _print_all(error)
        elif isinstance(error, PodrtError):
            print_error(error)
        else:
            print(f"Error: {error}", file=sys.stderr)


def _run(argv: list[str]) -> int:
    before, words = _split_globals(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(verbs.overview())
        return 0
    if words[0] in ("--version", "-v"):
        words = ["version"]
    path, rest = verbs.find(words)
    if path in verbs.GROUPS:
        if not rest or rest[0] in ("-h", "--help"):
            print(verbs.overview(path))
            return 0
        raise UsageError(f"unrecognized command `podrt {path} {rest[0]}`", f"podrt {path}")
    verb = verbs.VERBS[path]
    module = import_module(f"podrt.cli.{verb.module}")
    parser = Parser(prog=f"podrt {path}", description=verb.summary)
    add_global_flags(parser)
    getattr(module, f"{verb.function}_flags")(parser)
    args = parser.parse_args([*before, *rest])
    # What is loaded by now stays: no search for garbage needs to look at it.
    gc.freeze()
    gc.enable()
    code = getattr(module, verb.function)(args, settings_of(args))
    return int(code or 0)


def _split_globals(argv: list[str]) -> tuple[list[str], list[str]]:
    """The global flags that stand before the verb, and the rest."""
    at = 0
    while at < len(argv):
        word = argv[at].partition("=")[0]
        if word not in verbs.GLOBAL_FLAGS:
            break
        at += 1 if "=" in argv[at] else 2
    return argv[:at], argv[at:]
