"""The locks that are in use, for people: who holds them, waits for them, works under them.

Synchronous, takes no lock and writes nothing. What is seen may have changed a moment later.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from podrt._fast.locktable import ClaimInfo, Holder, LockEntry, LockTable
from podrt.linux import process
from podrt.model.ids import short_id
from podrt.model.verbs import Verb
from podrt.store.records import ContainerRecord, IntentRecord, PodRecord

from .view import View

Owner = PodRecord | ContainerRecord | IntentRecord

GONE = "gone"
_HALF_DONE = {"allocating": "allocated", "freeing": "freed"}


class SeenProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that the table names; `pid` is 0 when it died so long ago that nobody knows."""

    pid: int
    command: str = ""
    is_alive: bool = False


class SeenClaim(msgspec.Struct, frozen=True, kw_only=True):
    """An operation claim: the verb at work, whose it is, and the verb that wants it to end."""

    verb: str
    owner: SeenProcess
    preempted_by: str = ""


class LockRow(msgspec.Struct, frozen=True, kw_only=True):
    """A lock in use.

    `kind` is "pod", "container" or "gone"; `state` is "allocated", "allocating", "freeing", or
    "free" for one that is held although its owner gave it back; `waiters` are pids; `notes` say
    what looks abandoned.
    """

    lock: int
    kind: str
    name: str
    owner_id: str
    state: str
    holder: SeenProcess | None
    claim: SeenClaim | None
    waiters: tuple[int, ...]
    notes: tuple[str, ...]


def lock_rows(view: View) -> list[LockRow]:
    """Every lock in use, by number; none when there is no lock table yet.

    Where the view has a namespace, only those of its objects.
    Raises: StoreFailed, StoreCorrupt for a table that cannot be read.
    """
    table = LockTable.look(view.layout.locks)
    if table is None:
        return []
    try:
        entries = list(table.entries())
        # After the locks: what was allocated by then has its owner, or an intent, in the log.
        view.refresh()
        return list(_rows(view, table, entries))
    finally:
        table.close()


def _rows(view: View, table: LockTable, entries: list[LockEntry]) -> Iterator[LockRow]:
    for entry in entries:
        owner = _owner(view, entry)
        if owner is None:
            # Who is removed frees its lock right after: that is not abandoned.
            now = table.entry(entry.lock)
            if now is None:
                continue
            if now != entry:
                entry = now
                view.refresh()
                owner = _owner(view, entry)
        if not view.namespace or _namespace(owner) == view.namespace:
            yield _row(table, entry, owner)


def _row(table: LockTable, entry: LockEntry, owner: Owner | None) -> LockRow:
    owner_id = entry.owner_id.hex() if entry.state == "allocated" else ""
    waiters = {*table.waiters(entry.lock), *table.claim_waiters(entry.lock)}
    return LockRow(
        lock=entry.lock,
        kind=_kind(owner),
        name=_name(owner) or short_id(owner_id),
        owner_id=owner_id,
        state=entry.state,
        holder=_seen(entry.holder) if entry.holder is not None else None,
        claim=_claim(entry.claim) if entry.claim is not None else None,
        waiters=tuple(sorted(waiters)),
        notes=tuple(_notes(entry, owner)),
    )


def _owner(view: View, entry: LockEntry) -> Owner | None:
    """What the lock was allocated for; an intent while that is being created."""
    tables, owner_id = view.store.tables, entry.owner_id.hex()
    return (
        tables.get(PodRecord, owner_id)
        or tables.get(ContainerRecord, owner_id)
        or tables.get(IntentRecord, owner_id)
    )


def _kind(owner: Owner | None) -> str:
    if isinstance(owner, IntentRecord):
        return owner.kind
    if owner is None:
        return GONE
    return "pod" if isinstance(owner, PodRecord) else "container"


def _name(owner: Owner | None) -> str:
    if isinstance(owner, IntentRecord):
        return owner.name
    return owner.config.name if owner is not None else ""


def _namespace(owner: Owner | None) -> str:
    return owner.namespace if isinstance(owner, PodRecord | ContainerRecord) else ""


def _seen(holder: Holder) -> SeenProcess:
    command = process.command_name(holder.pid) if holder.alive else ""
    return SeenProcess(pid=holder.pid, command=command, is_alive=holder.alive)


def _claim(claim: ClaimInfo) -> SeenClaim:
    return SeenClaim(
        verb=_words(claim.verb),
        owner=_seen(claim.holder),
        preempted_by=_words(claim.preempted_by) if claim.preempted_by else "",
    )


def _words(verb: int) -> str:
    """A verb's words; a number that a newer podrt gave it stays one."""
    return Verb(verb).words if verb in set(Verb) else f"verb {verb}"


def _notes(entry: LockEntry, owner: Owner | None) -> Iterator[str]:
    # An intent does not say yet which lock it is.
    number = owner.lock if isinstance(owner, PodRecord | ContainerRecord) else 0
    if entry.state in _HALF_DONE:
        if entry.is_torn:
            yield f"half {_HALF_DONE[entry.state]} by a process that died"
    elif entry.state == "free":
        yield "given back, but still held"
    elif owner is None:
        yield "its owner is gone"
    elif number not in (0, entry.lock):
        yield f"its owner uses lock {number}"
    if entry.holder is not None and not entry.holder.alive:
        yield "its holder died"
    if entry.claim is not None and not entry.claim.holder.alive:
        yield "the claim is a dead process's"
