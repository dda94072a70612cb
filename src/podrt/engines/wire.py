"""The messages between podrt and a monitor: the Python twin of _native/wire.h.

Shape: every message is a 64-byte head in native byte order, then a body of at most 64 KiB.
A test compares the numbers here with those the C compiler sees. `podrt-monitor launch`, which makes
a process without a monitor, speaks the same messages on its sockets; _native/standalone.c says
which, and when.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

WIRE_VERSION = 1
HEAD = struct.Struct("<HHIIiQQ32s")
MAX_BODY = 64 << 10
MAX_MESSAGE = HEAD.size + MAX_BODY
NO_ID = bytes(32)

START_HOLD = 1
"""START flag: stop right before exec; RELEASE lets it go on."""
START_UNIFIED = 2
"""START flag: the one directory to join is of cgroup v2, so the child is born in it."""
START_TIMES = 8
"""START flag: STARTED tells when each stage began."""
STAMP = struct.Struct("<QII")
START_LEADS = 4
"""START and ADOPT flag: the others may join its pid and cgroup namespaces."""
START_RESTARTS = 16
"""START flag: the restart policy that POLICY told is kept; without it there is none any more."""
START_SETTLE = 32
"""START flag, of ADOPT and POLICY too: its end for good may be that of its pod."""
START_REMOVE = 64
"""The same kind of flag: it is to be removed when it has ended for good."""


class Kind(enum.IntEnum):
    """What a message asks or answers."""

    HELLO = 1
    SETUP = 2
    START = 3
    RELEASE = 4
    SIGNAL = 5
    STOP = 6
    WAIT = 7
    REMOVING = 8
    FORGET = 9
    RELEASE_NS = 10
    ADOPT = 11
    PAUSE = 12
    UNPAUSE = 13
    POLICY = 14
    OK = 64
    FAILED = 65
    CREATED = 66
    STARTED = 67
    EXITED = 68
    TERMINAL = 69


class Message(NamedTuple):
    """One message; `arg`, `a` and `b` mean what its kind says (wire.h)."""

    kind: int
    req: int = 0
    run: int = 0
    arg: int = 0
    a: int = 0
    b: int = 0
    id: bytes = NO_ID
    body: bytes = b""


_POLICY = struct.Struct("<IIIIiIQQ")


class Policy(NamedTuple):
    """The body of POLICY: how a container is started again when it ended by itself.

    `kind` and `most` are the policy's (`podrt.model.restarts`), `needs` the containers that must
    run before, `plan` and `join` the paths that START takes. What follows is for a monitor that
    does not know the container yet: how many restarts there were, the last delay, and, when
    `ended_at_ns` is not 0, how its last run ended, which nobody acted on so far.
    """

    kind: int
    most: int
    needs: Sequence[str] = ()
    plan: str = ""
    join: Sequence[str] = ()
    restarts: int = 0
    delay_ms: int = 0
    code: int = 0
    exit_flags: int = 0
    ended_at_ns: int = 0

    def encode(self) -> bytes:
        """The bytes of the body."""
        head = _POLICY.pack(
            self.kind,
            self.most,
            self.restarts,
            self.delay_ms,
            self.code,
            self.exit_flags,
            self.ended_at_ns,
            len(self.needs),
        )
        needs = b"".join(map(bytes.fromhex, self.needs))
        paths = b"".join(path.encode() + b"\0" for path in (self.plan, *self.join))
        return head + needs + paths


def encode(message: Message) -> bytes:
    """The bytes of `message`. Raises: ValueError when the body is too long."""
    if len(message.body) > MAX_BODY:
        raise ValueError(f"a message body holds {MAX_BODY} bytes, not {len(message.body)}")
    head = HEAD.pack(
        message.kind,
        WIRE_VERSION,
        message.req,
        message.run,
        message.arg,
        message.a,
        message.b,
        message.id,
    )
    return head + message.body


def decode(data: bytes) -> Message:
    """The message in `data`. Raises: ValueError when it is none of this version."""
    if len(data) < HEAD.size:
        raise ValueError(f"a message of {len(data)} bytes is shorter than its head")
    kind, version, req, run, arg, a, b, raw_id = HEAD.unpack_from(data)
    if version != WIRE_VERSION:
        raise ValueError(f"wire version {version} is not {WIRE_VERSION}")
    return Message(kind, req, run, arg, a, b, raw_id, data[HEAD.size :])
