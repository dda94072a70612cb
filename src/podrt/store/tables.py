"""The state in memory: what the snapshot holds, overlaid with what the log's tail says.

Nothing is decoded before it is asked for, and nothing here grows with what is not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import msgspec

from podrt.errors import AlreadyExists, Ambiguous, NotFound, StoreCorrupt
from podrt.model.ids import is_id_prefix

from .records import (
    KEPT,
    KINDS,
    NAMED,
    SCHEMA,
    TABLES,
    TYPES,
    ContainerRecord,
    Delete,
    Op,
    PodRecord,
    Record,
    Table,
    index_of,
)
from .snapshot import Entry, Snapshot
from .turns import HURRIED, Turns, in_order
from .upgrade import raise_value

R = TypeVar("R", bound=Record)

WireOp = tuple[int, str, msgspec.Raw, str, str]
"""An operation in a frame: table, key, value (nil: delete), name, owner."""

_NIL = b"\xc0"
_NAMED = frozenset(int(table) for table in NAMED)
_OTHER: Mapping[int, int] = {Table.POD: Table.CONTAINER, Table.CONTAINER: Table.POD}
"""Pods and containers share one space of IDs."""
_encode = msgspec.msgpack.Encoder().encode
_decode_ops = msgspec.msgpack.Decoder(list[WireOp]).decode


@functools.cache
def _decoder(table: int) -> msgspec.msgpack.Decoder[Record]:
    """Made when it is needed: that takes longer than reading all there is of most tables."""
    return msgspec.msgpack.Decoder(TYPES[table])


class Row(msgspec.Struct, gc=False):
    """A record, decoded (`value`) or not yet (`raw`), and how it is indexed.

    Not tracked by the collector: rows make no cycles, and there may be a hundred thousand.
    """

    name: str
    owner: str
    raw: bytes | memoryview | None
    value: Record | None


def encode_ops(ops: Sequence[Op]) -> bytes:
    """The payload of the frame that carries `ops`."""
    wire: list[tuple[int, str, Record | None, str, str]] = []
    for op in ops:
        if isinstance(op, Delete):
            wire.append((TABLES[op.kind], op.id, None, "", ""))
        else:
            record = op.record
            wire.append((TABLES[type(record)], record.id, record, *index_of(record)))
    return _encode(wire)


def decode_ops(payload: bytes, path: str = "", offset: int = 0) -> list[WireOp]:
    """The operations of a frame. Raises: StoreCorrupt."""
    try:
        return _decode_ops(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreCorrupt(path, offset, f"a frame cannot be decoded: {error}") from error


class Tables:
    """All records as of one sequence. Only the store changes it; what it hands out is frozen."""

    def __init__(self, base: Snapshot | None = None, path: str = "") -> None:
        self._base = base
        self.path = path
        # None is a record that the snapshot has and the log's tail took out.
        self._rows: dict[int, dict[str, Row | None]] = {table: {} for table in TYPES}
        self._names: dict[str, str | None] = {}
        self._owned: dict[str, dict[tuple[int, str], None]] = {}

    def become(self, other: Tables) -> None:
        """Hold what `other` holds, so that who keeps this object sees it."""
        self._base = other._base
        self.path = other.path
        self._rows = other._rows
        self._names = other._names
        self._owned = other._owned

    # -- looking ---------------------------------------------------------------------------

    def get(self, kind: type[R], key: str) -> R | None:
        """The record `id`, or None."""
        table = TABLES[kind]
        row = self._row(table, key)
        return None if row is None else self._value(table, row)  # type: ignore[return-value]

    def find(self, kind: type[R], text: str) -> R:
        """The record that `text` means: an exact name, a full ID, or a unique ID prefix.

        Raises: NotFound, Ambiguous.
        """
        table = TABLES[kind]
        for key in (self.id_of_name(text), text):
            found = None if key is None else self.get(kind, key)
            if found is not None:
                return found
        matches = self.ids(kind, text) if is_id_prefix(text) else []
        if not matches:
            raise NotFound(KINDS[table], text)
        if len(matches) > 1:
            raise Ambiguous(KINDS[table], text, sorted(matches))
        return self._listed(kind, matches[0])

    def find_either(self, text: str) -> PodRecord | ContainerRecord:
        """The pod or container that `text` means. Raises: NotFound, Ambiguous."""
        found: list[PodRecord | ContainerRecord] = []
        with suppress(NotFound):
            found.append(self.find(ContainerRecord, text))
        with suppress(NotFound):
            found.append(self.find(PodRecord, text))
        if not found:
            raise NotFound("pod or container", text)
        if len(found) > 1:
            raise Ambiguous("pod or container", text, [record.id for record in found])
        return found[0]

    def ids(self, kind: type[Record], prefix: str = "") -> list[str]:
        """The IDs of a table, or those that begin with `prefix`; no value is decoded."""
        table = TABLES[kind]
        rows = self._rows[table]
        ids = [key for key, row in rows.items() if row is not None and key.startswith(prefix)]
        if self._base is not None:
            base = self._base
            below = (base.entry(number)[1] for number in base.rows_of(table, prefix))
            ids += [key for key in below if key not in rows]
        return ids

    def all(self, kind: type[R]) -> Iterator[R]:
        """Every record of a table, in no particular order."""
        for key in self.ids(kind):
            yield self._listed(kind, key)

    def _listed(self, kind: type[R], key: str) -> R:
        found = self.get(kind, key)
        if found is None:
            path = self._base.path if self._base is not None else self.path
            raise StoreCorrupt(
                path, 0, f"{KINDS[TABLES[kind]]} {key} is listed, but not to be found"
            )
        return found

    def count(self, kind: type[Record]) -> int:
        """How many records a table holds."""
        return len(self.ids(kind))

    def members(self, pod_id: str) -> list[ContainerRecord]:
        """The containers of a pod, oldest first."""
        found = []
        for key in self._owned_ids(Table.CONTAINER, pod_id):
            record = self.get(ContainerRecord, key)
            if record is not None and record.pod_id == pod_id:
                found.append(record)
        found.sort(key=lambda record: (record.created_at_ns, record.id))
        return found

    def id_of_name(self, name: str) -> str | None:
        """Whose a name is, among pods, containers and intents together; None when it is free."""
        if not name:
            return None
        if name in self._names:
            return self._names[name]
        if self._base is None:
            return None
        for number in self._base.find_name(name):
            table, key, _, _ = self._base.entry(number)
            row = self._row(table, key)
            if row is not None and row.name == name:
                return key
        return None

    def entries(self, turns: Turns = HURRIED) -> Iterator[Entry]:
        """The records of a snapshot, encoded and sorted: by code points is by bytes."""
        for table, kind in sorted(TYPES.items()):
            surplus = self.count(kind) - KEPT[table] if table in KEPT else 0
            yield from islice(self._merged(table, turns), max(0, surplus), None)

    def _merged(self, table: int, turns: Turns) -> Iterator[Entry]:
        own = self._own(table, turns)
        next_own = next(own, None)
        for entry in self._below(table):
            while next_own is not None and next_own.id < entry.id:
                yield next_own
                next_own = next(own, None)
            yield entry
        if next_own is not None:
            yield next_own
        yield from own

    def _own(self, table: int, turns: Turns) -> Iterator[Entry]:
        rows = [(key, row) for key, row in self._rows[table].items() if row is not None]
        for key, row in in_order(rows, turns):
            raw = _encode(row.value) if row.raw is None else row.raw
            yield Entry(table, key, row.name, row.owner, raw)

    def _below(self, table: int) -> Iterator[Entry]:
        if self._base is None:
            return
        base, rows = self._base, self._rows[table]
        for number in base.rows_of(table):
            _, key, name, owner = base.entry(number)
            if key not in rows:
                raw = raise_value(table, base.value(number), base.header.schema, base.path)
                yield Entry(table, key, name, owner, raw)

    def _row(self, table: int, key: str) -> Row | None:
        rows = self._rows[table]
        if key in rows:
            return rows[key]
        if self._base is None:
            return None
        number = self._base.find(table, key)
        if number < 0:
            return None
        base = self._base
        _, _, name, owner = base.entry(number)
        raw = raise_value(table, base.value(number), base.header.schema, base.path)
        # From here on it lives above the snapshot, so it has to be found there by its owner.
        row = rows[key] = Row(name, owner, raw, None)
        if owner:
            self._owned.setdefault(owner, {})[table, key] = None
        return row

    def _value(self, table: int, row: Row) -> Record:
        if row.value is None:
            assert row.raw is not None
            try:
                row.value = _decoder(table).decode(row.raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                path = self._base.path if self._base is not None else self.path
                raise StoreCorrupt(path, 0, f"a {KINDS[table]} is unreadable: {error}") from error
            row.raw = None
        return row.value

    def _owned_ids(self, table: int, owner: str) -> list[str]:
        ids = [key for number, key in self._owned.get(owner, ()) if number == table]
        if self._base is not None:
            rows = self._rows[table]
            for number in self._base.owned(owner):
                found, key, _, _ = self._base.entry(number)
                if found == table and key not in rows:
                    ids.append(key)
        return ids

    # -- changing --------------------------------------------------------------------------

    def check(self, ops: Iterable[Op]) -> None:
        """Refuse a name or an ID that is taken, before anything is written.

        Raises: AlreadyExists.
        """
        claims = _Claims(self)
        for op in ops:
            if isinstance(op, Delete):
                claims.release(TABLES[op.kind], op.id)
            else:
                claims.take(op.record)

    def name_of(self, table: int, key: str) -> str | None:
        """The name of a record; None when there is none of that ID."""
        row = self._row(table, key)
        return None if row is None else row.name

    def apply(self, ops: Iterable[Op]) -> None:
        """Take over the operations of a transaction of our own."""
        for op in ops:
            if isinstance(op, Delete):
                self._set(TABLES[op.kind], op.id, None)
            else:
                record = op.record
                row = Row(*index_of(record), None, record)
                self._set(TABLES[type(record)], record.id, row)

    def apply_wire(self, ops: Iterable[WireOp], schema: int) -> None:
        """Take over the operations of a transaction that was read. Raises: StoreCorrupt."""
        for table, key, value, name, owner in ops:
            if table not in TYPES:
                raise StoreCorrupt(self.path, 0, f"a frame names table {table}")
            raw = memoryview(value)
            if raw == _NIL:
                self._set(table, key, None)
            elif schema == SCHEMA:
                self._set(table, key, Row(name, owner, raw, None))
            else:
                raised = raise_value(table, raw, schema, self.path)
                self._set(table, key, Row(name, owner, raised, None))

    def _set(self, table: int, key: str, row: Row | None) -> None:
        old = self._row(table, key)
        rows = self._rows[table]
        if row is None and self._base is None:
            rows.pop(key, None)
        else:
            rows[key] = row
        if old is not None and row is not None and old.name == row.name and old.owner == row.owner:
            return
        if old is not None:
            self._unindex(table, key, old)
        if row is None:
            return
        if row.name and table in _NAMED:
            self._names[row.name] = key
        if row.owner:
            self._owned.setdefault(row.owner, {})[table, key] = None

    def _unindex(self, table: int, key: str, old: Row) -> None:
        if old.name and table in _NAMED and not self._is_held(table, key, old.name):
            if self._base is None:
                self._names.pop(old.name, None)
            else:
                self._names[old.name] = None
        if old.owner and (owned := self._owned.get(old.owner)) is not None:
            owned.pop((table, key), None)
            if not owned:
                del self._owned[old.owner]

    def _is_held(self, table: int, key: str, name: str) -> bool:
        """Whether another table has the same ID under the same name: an intent and its pod."""
        return any(self.name_of(other, key) == name for other in NAMED if other != table)


class _Claims:
    """Who has which name while the operations of a transaction are gone through."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._owners: dict[str, str | None] = {}
        self._names: dict[tuple[int, str], str | None] = {}

    def take(self, record: Record) -> None:
        """Go through a Put. Raises: AlreadyExists."""
        table = int(TABLES[type(record)])
        if table not in _NAMED:
            return
        name = index_of(record)[0]
        owner = self._owner(name)
        if owner is not None and owner != record.id:
            raise AlreadyExists(KINDS[table], name, owner)
        other = _OTHER.get(table)
        if other is not None and self._name(other, record.id) is not None:
            raise AlreadyExists(KINDS[table], record.id, record.id)
        before = self._name(table, record.id)
        self._names[table, record.id] = name
        if before and before != name:
            self._free(before, record.id)
        if name:
            self._owners[name] = record.id

    def release(self, table: int, key: str) -> None:
        """Go through a Delete."""
        if table not in _NAMED:
            return
        before = self._name(table, key)
        self._names[table, key] = None
        if before:
            self._free(before, key)

    def _owner(self, name: str) -> str | None:
        return self._owners[name] if name in self._owners else self._tables.id_of_name(name)

    def _name(self, table: int, key: str) -> str | None:
        if (table, key) in self._names:
            return self._names[table, key]
        return self._tables.name_of(table, key)

    def _free(self, name: str, key: str) -> None:
        if all(self._name(table, key) != name for table in _NAMED):
            self._owners[name] = None
