"""Giving a container another name."""

from __future__ import annotations

import msgspec

from podrt.errors import AlreadyExists, InvalidState, Removed
from podrt.model.ids import check_name
from podrt.store.records import ContainerRecord, Op, Put
from podrt.store.tables import Tables

from .claims import lock_of
from .context import Context


async def rename_container(ctx: Context, container_id: str, name: str) -> None:
    """Call a container `name`, whether it runs or not.

    Raises: InvalidConfig, AlreadyExists, InvalidState while it is removed, Removed.
    """
    ctx.check_open()
    check_name(name, "name")
    record = ctx.load_container(container_id)
    async with ctx.locks.hold(lock_of(record)):

        def build(tables: Tables) -> list[Op]:
            current = tables.get(ContainerRecord, container_id)
            if current is None:
                raise Removed("container", record.config.name)
            if current.removing:
                what = f"container {current.config.name}"
                raise InvalidState("rename", what, "it is being removed")
            owner = tables.id_of_name(name)
            if owner is not None:
                raise AlreadyExists("container", name, owner)
            config = msgspec.structs.replace(current.config, name=name)
            return [Put(msgspec.structs.replace(current, config=config))]

        await ctx.commit(build)
