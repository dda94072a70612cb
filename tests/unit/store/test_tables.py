from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.states import container, pod
from podrt.errors import Ambiguous, NotFound
from podrt.model.image import Image
from podrt.store.records import (
    ContainerRecord,
    GroupRecord,
    ImageRecord,
    PodRecord,
    VolumeRecord,
    delete,
    put,
)
from podrt.store.tables import Tables
from podrt.store.wal import Store

A, B = "ab" * 32, "ab" * 31 + "cd"


@pytest.fixture(params=["in the log", "in a snapshot", "in both"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    """Two pods whose IDs share a prefix, one of them with two members."""
    first = PodRecord(id=A, config=pod(1, "shop").config)
    second = PodRecord(id=B, config=pod(2, "abab").config)
    members = [
        ContainerRecord(
            id=f"{number:064x}",
            config=container(number, 0, name).config,
            pod_id=A,
            created_at_ns=10 - number,
        )
        for number, name in enumerate(["web", "db"], 1)
    ]
    folder = str(tmp_path / "state")
    size = 1 if request.param != "in the log" else 1 << 20
    with Store.open(folder, segment_bytes=size, compact_in_background=False) as store:
        store.transact(lambda _: [put(first), put(second), put(members[0])])
        if request.param == "in both":
            store.transact(lambda _: [delete(PodRecord, B)])
    with Store.open(folder) as store:
        assert (store._chain.base is not None) == (size == 1)
        store.transact(lambda _: [put(second), put(members[1])])
        yield store.tables


def test_find_takes_a_name_a_full_id_or_a_unique_prefix(tables: Tables) -> None:
    assert tables.find(PodRecord, "shop").id == A
    assert tables.find(PodRecord, A).id == A
    assert tables.find(PodRecord, A[:63]).id == A
    assert tables.find(ContainerRecord, "db").config.name == "db"


def test_find_of_a_name_that_is_also_a_prefix_takes_the_name(tables: Tables) -> None:
    assert tables.find(PodRecord, "abab").id == B


def test_find_of_an_ambiguous_prefix_lists_the_matches(tables: Tables) -> None:
    with pytest.raises(Ambiguous) as caught:
        tables.find(PodRecord, "aba")
    assert set(caught.value.matches) == {A, B}


@pytest.mark.parametrize("text", ["", "nothing", "ff", "sho", "web", "0" * 65])
def test_find_of_what_is_no_pod_raises_not_found(tables: Tables, text: str) -> None:
    with pytest.raises(NotFound):
        tables.find(PodRecord, text)


def test_find_either_takes_pods_and_containers(tables: Tables) -> None:
    assert isinstance(tables.find_either("shop"), PodRecord)
    assert isinstance(tables.find_either("web"), ContainerRecord)
    with pytest.raises(NotFound):
        tables.find_either("nothing")


def test_members_come_oldest_first(tables: Tables) -> None:
    assert [member.config.name for member in tables.members(A)] == ["db", "web"]
    assert tables.members(B) == []


def test_ids_and_count_decode_nothing_and_count_all(tables: Tables) -> None:
    assert sorted(tables.ids(PodRecord)) == [A, B]
    assert tables.count(ContainerRecord) == 2
    assert tables.count(GroupRecord) == 0


def test_images_and_volumes_have_names_of_their_own(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "state")) as store:
        image = ImageRecord(id=A, image=Image(id=A, references=("localhost/web:latest",)))
        store.transact(lambda _: [put(image), put(VolumeRecord(id="web")), put(pod(1, "web"))])
        assert store.tables.find(ImageRecord, A[:12]) == image
        assert store.tables.find(VolumeRecord, "web").id == "web"
        assert store.tables.find(PodRecord, "web") == pod(1, "web")
