"""What the log keeps: one frozen record per pod, container, group, image, volume and intent.

A record is encoded as a msgpack map. Whatever changes about its shape raises SCHEMA, so that an
older podrt says what is wrong; a field with a default needs no more than that, anything else a
step in `upgrade`. Wishes only: what processes do is journaled by their monitor and folded into
`ContainerRecord.facts`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

from podrt.model.container import ContainerConfig
from podrt.model.event import Event
from podrt.model.image import Image
from podrt.model.pod import PodConfig
from podrt.model.states import NO_FACTS, Facts
from podrt.model.userns import GivenIds

SCHEMA = 3
"""Of the records below; every segment and snapshot carries the one it was written with."""


class Table(enum.IntEnum):
    """The number by which a frame names a table: never reuse one."""

    POD = 1
    CONTAINER = 2
    GROUP = 3
    IMAGE = 4
    VOLUME = 5
    INTENT = 6
    META = 7
    EVENT = 8


class Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The base: `id` is the key within the record's table."""

    id: str


class PodRecord(Record, frozen=True, kw_only=True):
    """A pod. `config.name` is never empty here.

    `lock` is its number in the lock table; `cgroup_path` is "" without a pod cgroup; `namespace`
    is the tenant's label; the `removing_*` lists are what a second `rm` has to finish; `userns` is
    the user namespace of all members, None the host's.
    """

    config: PodConfig
    lock: int = 0
    infra_id: str = ""
    created_at_ns: int = 0
    removing: bool = False
    cgroup_path: str = ""
    namespace: str = ""
    removing_volumes: tuple[str, ...] = ()
    removing_cgroups: tuple[str, ...] = ()
    removing_service: str = ""
    userns: GivenIds | None = None


class ContainerRecord(Record, frozen=True, kw_only=True):
    """A container. `config.name` is never empty here.

    `pod_id` is "" outside a pod; `run` is the number of the latest run that was asked for;
    `wanted` is the state asked for ("" before the first wish); `cleaned_run` is the latest run
    whose mounts and network are gone; `facts` are those folded so far (see `store.facts`);
    `userns` is its user namespace or its pod's, None the host's; `engine` is the program of the
    OCI runtime that makes it, "" podrt itself.
    """

    config: ContainerConfig
    pod_id: str = ""
    lock: int = 0
    created_at_ns: int = 0
    run: int = 0
    wanted: Literal["running", "stopped", ""] = ""
    user_stopped: bool = False
    removing: bool = False
    cleaned_run: int = 0
    facts: Facts = NO_FACTS
    cgroup_path: str = ""
    image_id: str = ""
    namespace: str = ""
    userns: GivenIds | None = None
    engine: str = ""

    @property
    def group_id(self) -> str:
        """The group whose monitor runs this container: its pod, or itself."""
        return self.pod_id or self.id


class GroupRecord(Record, frozen=True, kw_only=True):
    """What one monitor at a time watches; `id` is the pod's or the lone container's.

    `epoch` numbers its monitors and names the current journal; everything up to `folded_seq` in
    it, which ends at byte `folded_bytes`, is in the containers' records.
    """

    epoch: int = 0
    folded_seq: int = 0
    folded_bytes: int = 0


class ImageRecord(Record, frozen=True, kw_only=True):
    """An image; `id` is `image.id`."""

    image: Image


class VolumeRecord(Record, frozen=True, kw_only=True):
    """A volume; `id` is its name."""

    created_at_ns: int = 0
    anonymous: bool = False
    labels: Mapping[str, str] = {}


class IntentRecord(Record, frozen=True, kw_only=True):
    """What somebody is about to make or to remove, so that recovery can undo or finish it.

    `id` and `name` are those of the object and are reserved by the intent; `verb` is "create"
    or "remove"; `pid`, `start_ticks` and `boot_id` say whose it is; `made` lists what exists
    already ("dir:/path", "cgroup:/path", "lock:7"), oldest first.
    """

    kind: Literal["pod", "container", "image", "volume"]
    verb: Literal["create", "remove"] = "create"
    name: str = ""
    pod_id: str = ""
    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    at_ns: int = 0
    made: tuple[str, ...] = ()


class MetaRecord(Record, frozen=True, kw_only=True):
    """A value of the state as a whole, such as the boot it was last used in (`id` "boot"), or the
    host's IDs that a pod or container got (`id` "ids:" and its own)."""

    value: str = ""


class EventRecord(Record, frozen=True, kw_only=True):
    """An event. `id` sorts by time, and follows from its source, a transaction or a journal's
    record: whatever tells of it a second time writes the same record."""

    event: Event


TABLES: Mapping[type[Record], Table] = {
    PodRecord: Table.POD,
    ContainerRecord: Table.CONTAINER,
    GroupRecord: Table.GROUP,
    ImageRecord: Table.IMAGE,
    VolumeRecord: Table.VOLUME,
    IntentRecord: Table.INTENT,
    MetaRecord: Table.META,
    EventRecord: Table.EVENT,
}
TYPES: Mapping[int, type[Record]] = {int(table): kind for kind, table in TABLES.items()}
KINDS: Mapping[int, str] = {int(table): table.name.lower() for table in Table}
"""The word for a table's objects in errors."""

KEPT: Mapping[int, int] = {Table.EVENT: 10_000}
"""How many records of a table, the last by ID, a snapshot takes over; of others it takes all."""

NAMED = (Table.POD, Table.CONTAINER, Table.INTENT)
"""The tables that share one space of names and one of IDs."""


def index_of(record: Record) -> tuple[str, str]:
    """The (name, owner) under which a record can be found besides its ID; "" is none."""
    if isinstance(record, ContainerRecord):
        return record.config.name, record.pod_id
    if isinstance(record, PodRecord):
        return record.config.name, ""
    if isinstance(record, IntentRecord):
        return record.name, record.pod_id
    return "", ""


class Put:
    """Write `record`, in place of the one with its ID if there is one."""

    __slots__ = ("record",)

    def __init__(self, record: Record) -> None:
        self.record = record

    def __repr__(self) -> str:
        return f"Put({self.record!r})"


class Delete:
    """Take the record with ID `key` out of the table of `kind`; it need not be there."""

    __slots__ = ("id", "kind")

    def __init__(self, kind: type[Record], key: str) -> None:
        self.kind = kind
        self.id = key

    def __repr__(self) -> str:
        return f"Delete({self.kind.__name__}, {self.id!r})"


Op = Put | Delete


def put(record: Record) -> Put:
    """The operation that writes `record`."""
    return Put(record)


def delete(kind: type[Record], key: str) -> Delete:
    """The operation that takes the record with ID `key` out."""
    return Delete(kind, key)
