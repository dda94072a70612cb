"""Small records and a plain dictionary that does what the store should."""

from __future__ import annotations

import random

from podrt.model.container import ContainerConfig
from podrt.model.pod import PodConfig
from podrt.store.records import (
    TYPES,
    ContainerRecord,
    GroupRecord,
    MetaRecord,
    Op,
    PodRecord,
    Put,
    Record,
    delete,
    put,
)
from podrt.store.tables import Tables

Model = dict[tuple[type[Record], str], Record]


def pod(number: int, name: str = "") -> PodRecord:
    return PodRecord(id=f"{number:064x}", config=PodConfig(name=name or f"pod{number}"))


def container(number: int, pod_number: int, name: str = "") -> ContainerRecord:
    return ContainerRecord(
        id=f"{0xC0 << 248 | number:064x}",
        config=ContainerConfig(name=name or f"ctr{number}", image="base"),
        pod_id=f"{pod_number:064x}",
        created_at_ns=number,
    )


def random_ops(rng: random.Random, count: int = 8) -> list[Op]:
    """A transaction over few objects, so that they are replaced and deleted often."""
    ops: list[Op] = []
    for _ in range(rng.randrange(1, 4)):
        number = rng.randrange(1, count)
        choice = rng.random()
        if choice < 0.3:
            ops.append(put(pod(number)))
        elif choice < 0.6:
            ops.append(put(container(number, rng.randrange(1, count))))
        elif choice < 0.75:
            ops.append(put(GroupRecord(id=f"{number:064x}", epoch=rng.randrange(1000))))
        elif choice < 0.8:
            ops.append(put(MetaRecord(id="m", value="x" * rng.randrange(300))))
        elif choice < 0.9:
            ops.append(delete(PodRecord, f"{number:064x}"))
        else:
            ops.append(delete(ContainerRecord, container(number, 0).id))
    return ops


def apply(model: Model, ops: list[Op]) -> Model:
    """A new dictionary with `ops` done."""
    after = dict(model)
    for op in ops:
        if isinstance(op, Put):
            after[type(op.record), op.record.id] = op.record
        else:
            after.pop((op.kind, op.id), None)
    return after


def content(tables: Tables) -> Model:
    """Everything in `tables`, as a dictionary."""
    return {(kind, record.id): record for kind in TYPES.values() for record in tables.all(kind)}


def check_indexes(tables: Tables) -> None:
    """Every name and every membership leads where it should, and nowhere else."""
    for record in tables.all(PodRecord):
        assert tables.id_of_name(record.config.name) == record.id
        assert tables.find(PodRecord, record.config.name) == record
    members = list(tables.all(ContainerRecord))
    for member in members:
        assert tables.find(ContainerRecord, member.config.name) == member
    for pod_id in {member.pod_id for member in members}:
        expected = {member.id for member in members if member.pod_id == pod_id}
        assert {member.id for member in tables.members(pod_id)} == expected
