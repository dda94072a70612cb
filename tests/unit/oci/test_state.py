from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from podrt.errors import AlreadyExists, InvalidConfig, NotFound, StoreCorrupt
from podrt.oci.lifecycle import CREATING, STOPPED, Runtime, status_of
from podrt.oci.state import FILTERS, Container, Containers, check_id, document


def container(container_id: str = "one", **changes: object) -> Container:
    values = {"id": container_id, "bundle": "/b", "rootfs": "/b/r", "created": "now"} | changes
    return Container(**values)  # type: ignore[arg-type]


def test_saved_state_is_read_again(tmp_path: Path) -> None:
    containers = Containers(str(tmp_path / "root"))
    place = containers.reserve("one")
    saved = place.save(container(pid=7, start_ticks=8, annotations={"a": "b"}))
    place.close()
    assert containers.load("one") == saved
    assert containers.all() == [saved]
    assert os.stat(tmp_path / "root").st_mode & 0o777 == 0o700


def test_reserve_of_a_used_id_fails(tmp_path: Path) -> None:
    containers = Containers(str(tmp_path))
    containers.reserve("one").close()
    with pytest.raises(AlreadyExists):
        containers.reserve("one")


def test_lock_waits_for_who_holds_it_and_finds_the_container_gone(tmp_path: Path) -> None:
    containers = Containers(str(tmp_path))
    place = containers.reserve("one")
    found: list[type[BaseException] | None] = []

    def wait() -> None:
        try:
            with containers.locked("one"):
                found.append(None)
        except NotFound:
            found.append(NotFound)

    waiter = threading.Thread(target=wait)
    waiter.start()
    place.save(container())
    place.remove()
    place.close()
    waiter.join(30)
    assert found == [NotFound]


def test_damaged_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    containers = Containers(str(tmp_path))
    place = containers.reserve("one")
    place.write("state.json", b'{"id": 5}')
    place.close()
    with pytest.raises(StoreCorrupt, match=r"state\.json"):
        containers.load("one")


def test_container_whose_maker_died_at_once_can_be_deleted(tmp_path: Path) -> None:
    runtime = Runtime(str(tmp_path), lambda text: None)
    runtime.containers.reserve("one").close()
    with pytest.raises(NotFound):
        runtime.state("one")
    runtime.delete("one")
    assert os.listdir(tmp_path) == []


def test_filters_have_a_name_no_container_can_have(tmp_path: Path) -> None:
    containers = Containers(str(tmp_path))
    containers.filters()
    assert containers.all() == []
    with pytest.raises(InvalidConfig):
        check_id(FILTERS)


def test_status_without_a_process_is_creating_and_of_another_process_stopped() -> None:
    assert status_of(container()) == CREATING
    mine = container(pid=os.getpid(), start_ticks=1, is_created=True)
    assert status_of(mine) == STOPPED
    assert document(mine, STOPPED).pid == 0
