"""From errors to exit codes and to the one line that people see."""

from __future__ import annotations

import errno
import sys

from podrt import errors

FAILED = 125
CANNOT_INVOKE = 126
NOT_FOUND = 127

EXIT_CODES: dict[type[errors.PodrtError], int] = {
    errors.PodrtError: FAILED,
    errors.InvalidConfig: FAILED,
    errors.NotFound: FAILED,
    errors.NothingToStart: FAILED,
    errors.Ambiguous: FAILED,
    errors.AlreadyExists: FAILED,
    errors.InvalidState: FAILED,
    errors.DependencyFailed: FAILED,
    errors.Busy: FAILED,
    errors.InUse: FAILED,
    errors.Unsupported: FAILED,
    errors.LimitReached: FAILED,
    errors.EngineFailed: FAILED,
    errors.StoreFailed: FAILED,
    errors.StoreCorrupt: FAILED,
    errors.WalkFailed: FAILED,
    errors.RuntimeClosed: FAILED,
    errors.Removed: FAILED,
    errors.InternalError: FAILED,
    errors.MonitorGone: FAILED,
}
"""Every class of errors.py; verbs with codes of their own say so (`rm`, `run`, `exists`)."""


class UsageError(Exception):
    """The command line itself is wrong; `command` is what --help is good for."""

    def __init__(self, reason: str, command: str) -> None:
        super().__init__(reason)
        self.command = command


def exit_code(error: errors.PodrtError) -> int:
    """The exit code for an error that ended a command."""
    if isinstance(error, errors.EngineFailed) and error.stage == "exec":
        return NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else CANNOT_INVOKE
    return EXIT_CODES.get(type(error), FAILED)


def print_error(error: errors.PodrtError, prefix: str = "") -> None:
    """One line on standard error; of a walk one line per failed container."""
    if isinstance(error, errors.WalkFailed):
        for outcome in error.outcomes.values():
            if outcome is not None:
                print_error(outcome, prefix)
        return
    text = " ".join(str(error).split("\n"))
    print(f"Error: {prefix}{text}", file=sys.stderr)
