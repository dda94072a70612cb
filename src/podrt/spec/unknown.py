"""What a specification's document has that podrt has never heard of.

The specification forbids an error about it; a warning names it, so that it is not dropped in
silence. Source: runtime-spec config.md, "Extensibility".
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

from podrt.errors import InvalidConfig
from podrt.model import runtimespec as oci

# Sections for other systems: known, and without effect.
OTHER_SYSTEMS = frozenset({"windows", "solaris", "zos", "freebsd"})
MOST = 20


def unknown_fields(data: bytes) -> list[str]:
    """The first unknown fields of a document by their paths. Raises: InvalidConfig."""
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidConfig("config.json", f"not JSON: {exc}") from exc
    if isinstance(document, dict):
        document = {name: part for name, part in document.items() if name not in OTHER_SYSTEMS}
    return list(itertools.islice(_walk(document, _known(), ""), MOST))


@functools.cache
def _known() -> inspect.Type:
    return inspect.type_info(oci.Spec)


def _walk(value: Any, kind: inspect.Type, where: str) -> Iterator[str]:
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _walk(value, one, where)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        known = {field.encode_name: field.type for field in kind.fields}
        for name, item in value.items():
            inner = f"{where}.{name}" if where else name
            if name in known:
                yield from _walk(item, known[name], inner)
            else:
                yield inner
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, kind.value_type, f"{where}.{name}")
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, kind.item_type, f"{where}[{index}]")
