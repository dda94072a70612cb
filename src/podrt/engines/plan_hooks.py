"""The hooks of a plan, and the state of a container as they read it.

Those of createContainer and startContainer run in the container's namespaces: they are operations.
The others are run by whoever creates the container.
Source: runtime-spec config.md ("POSIX-platform Hooks"), runtime.md ("State").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci

from .plan_ops import Op, OpCode

CREATE_CONTAINER = 3
START_CONTAINER = 4
MAX_TIMEOUT_S = (1 << 31) - 1

_POINTS = (
    ("prestart", "prestart"),
    ("createRuntime", "create_runtime"),
    ("createContainer", "create_container"),
    ("startContainer", "start_container"),
    ("poststart", "poststart"),
    ("poststop", "poststop"),
)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a container's state says beside its status and process."""

    id: str
    bundle: str
    annotations: Mapping[str, str] = {}


def check_hooks(hooks: oci.Hooks | None) -> None:
    """Refuse what no hook may be, of all six kinds. Raises: InvalidConfig naming the field."""
    if hooks is None:
        return
    for name, attribute in _POINTS:
        for index, hook in enumerate(getattr(hooks, attribute)):
            field = f"hooks.{name}[{index}]"
            if not hook.path.startswith("/"):
                raise InvalidConfig(f"{field}.path", f"{hook.path!r} is not an absolute path")
            timeout = 1 if hook.timeout is None else hook.timeout
            if not 1 <= timeout <= MAX_TIMEOUT_S:
                raise InvalidConfig(f"{field}.timeout", f"{timeout} is not above zero")


def hook_ops(stage: int, hooks: oci.Hooks | None, who: Identity | None) -> Iterator[Op]:
    """The hooks of a stage, one operation each."""
    if hooks is None or who is None:
        return
    wanted, status = hooks.create_container, "creating"
    if stage == START_CONTAINER:
        wanted, status = hooks.start_container, "created"
    if not wanted:
        return
    texts = _around_pid(_state(who, status))
    for hook in wanted:
        words = hook.args or (hook.path,)
        yield Op(OpCode.HOOKS, (hook.path, words, hook.env, hook.timeout or 0, texts))


def notify_state(
    seccomp: oci.Seccomp | None, who: Identity | None, first_pid: int = 0
) -> tuple[str, ...]:
    """What a seccomp agent gets beside the listener; `first_pid` is the container's, for another
    process in it.

    Source: runtime-spec config-linux.md, "The Container Process State".
    """
    if who is None or seccomp is None or not seccomp.listener_path or not seccomp.notifies:
        return ()
    document = {
        "pid": None,
        "ociVersion": oci.OCI_VERSION,
        "fds": ["seccompFd"],
        "metadata": seccomp.listener_metadata,
        "state": _state(who, "creating"),
    }
    if first_pid:
        document["state"] = {**_state(who, "running"), "pid": first_pid}
    return _around_pid(document)


def _state(who: Identity, status: str) -> dict[str, Any]:
    return {
        "pid": None,
        "ociVersion": oci.OCI_VERSION,
        "id": who.id,
        "status": status,
        "bundle": who.bundle,
        "annotations": dict(who.annotations),
    }


def _around_pid(document: dict[str, Any]) -> tuple[str, ...]:
    """JSON in pieces: the launcher puts the process's number, not known before, between them."""
    # No text of the user's can look like this: its quotes are escaped, and so is a NUL.
    text = msgspec.json.encode(document).decode().replace('"pid":null', '"pid":\0')
    return tuple(text.split("\0"))
