"""Reading records that an older podrt wrote: one step per schema number, applied in order.

A step gets (table number, the value as plain dicts and lists) and gives the value of the next
schema. A state written by a newer podrt is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from podrt.errors import StoreCorrupt, Unsupported

from .records import SCHEMA

Step = Callable[[int, Any], Any]

STEPS: Mapping[int, Step] = {}
"""`STEPS[n]` takes a value from schema n to n + 1; without one nothing has to be changed."""


def check_schema(schema: int, path: str) -> None:
    """Refuse what this podrt cannot read. Raises: Unsupported."""
    if schema > SCHEMA:
        raise Unsupported(
            f"{path}: state schema {schema}",
            f"it was written by a newer podrt; this one reads up to {SCHEMA}",
        )


def raise_value(table: int, raw: bytes | memoryview, schema: int, path: str = "") -> bytes:
    """The encoded value `raw` of `schema`, as the newest schema has it. Raises: StoreCorrupt."""
    if schema == SCHEMA:
        return bytes(raw)
    try:
        value = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreCorrupt(path, 0, f"a value of schema {schema} is unreadable: {error}") from error
    for number in range(schema, SCHEMA):
        step = STEPS.get(number)
        if step is not None:
            value = step(table, value)
    return msgspec.msgpack.encode(value)
