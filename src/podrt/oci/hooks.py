"""Hooks that run on the host: prestart, createRuntime, poststart and poststop.

Those that run inside the container's namespaces are operations of its plan.
Source: runtime-spec config.md, "POSIX-platform Hooks".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from podrt.errors import EngineFailed
from podrt.model import runtimespec as oci

_MOST_OUTPUT = 400


def run(point: str, hooks: Sequence[oci.Hook], state: bytes, cwd: str) -> None:
    """Run the hooks of one point, one after the other, with `state` on their standard input.

    Raises: EngineFailed at the first that fails; the others are not run then.
    """
    for hook in hooks:
        _run_one(point, hook, state, cwd)


def run_all(
    point: str, hooks: Sequence[oci.Hook], state: bytes, cwd: str, warn: Callable[[str], None]
) -> None:
    """Run every hook of a point where a failure is only a warning."""
    for hook in hooks:
        try:
            _run_one(point, hook, state, cwd)
        except EngineFailed as exc:
            warn(str(exc))


def _run_one(point: str, hook: oci.Hook, state: bytes, cwd: str) -> None:
    import subprocess  # hooks are rare, and this is dear to load

    stage = f"{point} hook"
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(
            list(hook.args) or [hook.path],
            executable=hook.path,
            env=dict(entry.partition("=")[::2] for entry in hook.env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as exc:
        raise EngineFailed(stage, exc.errno or 0, hook.path) from exc
    try:
        output, _ = process.communicate(state, timeout=hook.timeout)
    except subprocess.TimeoutExpired as exc:
        why = f"{hook.path} (still running after {hook.timeout} s)"
        raise EngineFailed(stage, 0, why) from exc
    finally:
        _end(process)
    if process.returncode:
        raise EngineFailed(stage, 0, f"{hook.path} ({_ending(process.returncode, output)})")


def _end(process: Any) -> None:
    if process.returncode is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    # What it left running may hold the pipe: it is closed, not read to its end.
    for stream in (process.stdin, process.stdout):
        stream.close()
    process.wait()


def _ending(code: int, output: bytes) -> str:
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    said = " ".join(output.decode(errors="replace").split())[:_MOST_OUTPUT]
    return f"{how}, output: {said}" if said else how
