"""Pods built piece by piece: nothing is there before all of it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX
from doubles.places import Place, open_place
from podrt.errors import AlreadyExists, InvalidConfig, InvalidState, NotFound, RuntimeClosed
from podrt.model.container import ContainerConfig
from podrt.model.event import Action
from podrt.model.pod import PodConfig
from podrt.runtime.events import read_events


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


def config_of(place: Place, name: str = "shop", **fields: object) -> PodConfig:
    return PodConfig(name=name, cgroup_parent=place.cgroup_parent, **fields)  # type: ignore[arg-type]


WEB = ContainerConfig(image="base", name="web", command=("/bin/sleep", "1000"))


async def test_draft_that_is_saved_is_a_pod_like_any_other(place: Place) -> None:
    draft = place.runtime.new_pod(config_of(place))
    draft.add_infra("keeper")
    draft.add(WEB)
    assert place.runtime.pods() == [] and list(place.ctx.locks.owners()) == []
    pod = await draft.save()
    assert [one.name for one in pod.containers()] == ["keeper", "web"]
    assert pod.record().infra_id == pod.containers()[0].id
    told = [record.event for record in read_events(place.runtime.view)]
    assert [(one.action, one.name) for one in told if one.type == "pod"] == [
        (Action.CREATE, "shop")
    ]
    await pod.start()
    with pytest.raises(InvalidState, match="cannot save pod shop: it has been saved"):
        await draft.save()


async def test_draft_without_infra_shares_nothing(place: Place) -> None:
    draft = place.runtime.new_pod(config_of(place))
    draft.add(WEB)
    pod = await draft.save()
    assert pod.record().infra_id == "" and pod.record().config.share == frozenset()
    asked = place.runtime.new_pod(config_of(place, "other", share=frozenset({"net"})))
    with pytest.raises(InvalidConfig, match="Pods must have an infra container"):
        await asked.save()


async def test_draft_that_fails_or_is_given_up_leaves_nothing(place: Place) -> None:
    await place.empty_pod("taken")
    locks = list(place.ctx.locks.owners())
    draft = place.runtime.new_pod(config_of(place, "taken"))
    draft.add_infra()
    with pytest.raises(AlreadyExists):
        await draft.save()
    draft = place.runtime.new_pod(config_of(place))
    draft.add_infra()
    draft.add(WEB)
    draft.add(ContainerConfig(image="nowhere", name="bad"))
    with pytest.raises(NotFound, match="nowhere"):
        await draft.save()
    assert [pod.name for pod in place.runtime.pods()] == ["taken"]
    assert list(place.ctx.locks.owners()) == locks
    assert os.listdir(place.ctx.layout.pods_dir) == [place.runtime.pods()[0].id]
    told = [record.event for record in read_events(place.runtime.view)]
    assert {one.name for one in told if one.type == "pod"} == {"taken"}


async def test_draft_with_what_is_wrong_is_refused_at_once(place: Place) -> None:
    with pytest.raises(InvalidConfig, match="--cgroup-parent"):
        place.runtime.new_pod(PodConfig(cgroup_parent="/some.slice"))
    draft = place.runtime.new_pod(config_of(place, infra=False))
    with pytest.raises(InvalidState, match="cannot add infra to pod shop"):
        draft.add_infra()
    place.ctx.is_closed = True
    try:
        with pytest.raises(RuntimeClosed):
            draft.add(WEB)
        with pytest.raises(RuntimeClosed):
            place.runtime.new_pod(config_of(place))
    finally:
        place.ctx.is_closed = False
