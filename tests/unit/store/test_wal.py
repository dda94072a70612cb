from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from doubles.disks import FailingDisk
from doubles.states import check_indexes, container, content, pod, random_ops
from podrt.errors import (
    AlreadyExists,
    NotFound,
    RuntimeClosed,
    StoreCorrupt,
    StoreFailed,
)
from podrt.store import records
from podrt.store.control import attach
from podrt.store.disk import Disk
from podrt.store.records import (
    ContainerRecord,
    IntentRecord,
    Op,
    PodRecord,
    delete,
    put,
)
from podrt.store.segments import list_segments, segment_path
from podrt.store.snapshot import list_snapshots
from podrt.store.tables import Tables
from podrt.store.wal import Store


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def store(folder: str) -> Iterator[Store]:
    with Store.open(folder) as opened:
        yield opened


def write(store: Store, *ops: Op) -> int:
    return store.transact(lambda _: ops)


def test_transact_then_reopen_holds_the_records(folder: str) -> None:
    with Store.open(folder) as store:
        assert write(store, put(pod(1)), put(container(2, 1))) == 1
        before = content(store.tables)
    with Store.open(folder) as store:
        assert content(store.tables) == before
        assert store.tables.members(pod(1).id) == [container(2, 1)]
        assert store.seq == 1


def test_transact_in_another_store_is_seen_after_catch_up(store: Store, folder: str) -> None:
    with Store.open(folder, readonly=True) as reader:
        assert reader.tables.get(PodRecord, pod(1).id) is None
        write(store, put(pod(1)))
        assert reader.tables.get(PodRecord, pod(1).id) is None
        assert reader.catch_up() == 1
        assert reader.tables.get(PodRecord, pod(1).id) == pod(1)


def test_transact_sees_what_another_store_wrote_before(store: Store, folder: str) -> None:
    with Store.open(folder) as other:
        write(other, put(pod(1)))

        def look(tables: Tables) -> Iterable[Op]:
            assert tables.find(PodRecord, "pod1") == pod(1)
            return []

        assert store.transact(look) == 1
        assert store.seq == 1


def test_transact_whose_function_raises_writes_nothing(store: Store, folder: str) -> None:
    def refuse(_: Tables) -> Iterable[Op]:
        raise NotFound("pod", "x")

    with pytest.raises(NotFound):
        store.transact(refuse)
    write(store, put(pod(1)))
    with Store.open(folder, readonly=True) as reader:
        assert reader.seq == 1


@pytest.mark.parametrize("taken", [pod(2, "web"), container(9, 2, "web")])
def test_put_of_a_name_that_is_taken_is_refused(store: Store, taken: records.Record) -> None:
    write(store, put(container(1, 0, "web")))
    with pytest.raises(AlreadyExists) as caught:
        write(store, put(pod(3)), put(taken))
    assert (caught.value.name, caught.value.owner) == ("web", container(1, 0).id)
    assert store.tables.get(PodRecord, pod(3).id) is None


def test_put_of_two_equal_names_in_one_transaction_is_refused(store: Store) -> None:
    with pytest.raises(AlreadyExists):
        write(store, put(pod(1, "web")), put(pod(2, "web")))
    assert store.seq == 0


def test_put_of_a_name_freed_in_the_same_transaction_is_taken(store: Store) -> None:
    write(store, put(pod(1, "web")))
    write(store, delete(PodRecord, pod(1).id), put(pod(2, "web")))
    assert store.tables.find(PodRecord, "web").id == pod(2).id


def test_put_of_a_container_with_a_pods_id_is_refused(store: Store) -> None:
    write(store, put(pod(1)))
    clash = ContainerRecord(id=pod(1).id, config=container(5, 0).config)
    with pytest.raises(AlreadyExists):
        write(store, put(clash))


def test_an_intent_reserves_the_name_until_the_object_takes_it(store: Store) -> None:
    intent = IntentRecord(id=pod(1).id, kind="pod", name="web")
    write(store, put(intent))
    with pytest.raises(AlreadyExists):
        write(store, put(pod(2, "web")))
    write(store, put(pod(1, "web")), delete(IntentRecord, intent.id))
    assert store.tables.find(PodRecord, "web").id == pod(1).id
    write(store, delete(PodRecord, pod(1).id))
    assert store.tables.id_of_name("web") is None


def test_rename_frees_the_old_name(store: Store, folder: str) -> None:
    write(store, put(pod(1, "old")))
    write(store, put(pod(1, "new")), put(pod(2, "old")))
    for opened in (store, Store.open(folder, readonly=True)):
        with opened:
            assert opened.tables.find(PodRecord, "new").id == pod(1).id
            assert opened.tables.find(PodRecord, "old").id == pod(2).id


def test_transact_many_seals_segments_and_takes_snapshots(folder: str) -> None:
    with Store.open(folder, segment_bytes=4096, compact_in_background=False) as store:
        reader = Store.open(folder, readonly=True)
        for number in range(1, 200):
            write(store, put(pod(number)))
        assert len(list_snapshots(folder)) == 1
        assert len(list_segments(folder)) == 1
        expected = content(store.tables)
        reader.catch_up()
        assert content(reader.tables) == expected
        check_indexes(reader.tables)
        reader.close()
    with Store.open(folder) as store:
        assert content(store.tables) == expected
        check_indexes(store.tables)
        write(store, delete(PodRecord, pod(5).id), put(pod(7, "seven")))
        check_indexes(store.tables)
        assert store.tables.id_of_name("pod7") is None
        assert store.tables.id_of_name("pod5") is None


def test_catch_up_over_removed_segments_goes_on_from_the_snapshot(folder: str) -> None:
    with Store.open(folder, segment_bytes=2048, compact_in_background=False) as store:
        write(store, put(pod(1)))
        with Store.open(folder, readonly=True) as reader, Store.open(folder) as writer:
            tables = reader.tables
            for number in range(2, 150):
                write(store, put(pod(number)))
            reader.catch_up()
            assert content(tables) == content(store.tables)
            write(writer, put(pod(500)))
            assert store.catch_up() == writer.seq
            assert content(writer.tables) == content(store.tables)


def test_compaction_in_the_background_loses_nothing(folder: str) -> None:
    with Store.open(folder, segment_bytes=8192) as store:
        for number in range(1, 400):
            seq = write(store, put(pod(number)))
        store.flush_blocking(seq)
        store.wait_compacted()
        expected = content(store.tables)
    with Store.open(folder) as store:
        assert content(store.tables) == expected


def test_open_after_a_torn_tail_cuts_it_and_says_so(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Store.open(folder) as store:
        write(store, put(pod(1)))
        write(store, put(pod(2)))
    path = segment_path(folder, 1)
    os.truncate(path, os.path.getsize(path) - 5)
    with caplog.at_level(logging.INFO), Store.open(folder) as store:
        assert "torn tail" in caplog.text
        assert [record.id for record in store.tables.all(PodRecord)] == [pod(1).id]
        assert write(store, put(pod(3))) == 2
    with Store.open(folder) as store:
        assert {record.id for record in store.tables.all(PodRecord)} == {pod(1).id, pod(3).id}


def test_half_a_frame_is_not_yet_for_a_reader_and_cut_by_the_next_writer(
    store: Store, folder: str
) -> None:
    write(store, put(pod(1)))
    path = segment_path(folder, 1)
    whole = os.path.getsize(path)
    with Store.open(folder) as other, Store.open(folder, readonly=True) as reader:
        write(other, put(pod(2)))
        os.truncate(path, os.path.getsize(path) - 9)
        assert reader.catch_up() == 1
        assert store.catch_up() == 1
        write(store, put(pod(3)))
        assert reader.catch_up() == 2
        assert reader.tables.get(PodRecord, pod(2).id) is None
    assert os.path.getsize(path) > whole


def test_open_with_a_damaged_durable_frame_is_refused_naming_the_offset(folder: str) -> None:
    with Store.open(folder) as store:
        write(store, put(pod(1)))
        offset = os.path.getsize(segment_path(folder, 1))
        store.flush_blocking(write(store, put(pod(2))))
        write(store, put(pod(3)))
    damage(folder, offset + 50)
    for readonly in (False, True):
        with pytest.raises(StoreCorrupt) as caught:
            Store.open(folder, readonly=readonly)
        assert (caught.value.path, caught.value.offset) == (segment_path(folder, 1), offset)
    # Also in another boot, where only the frames' marks can tell.
    os.unlink(f"{folder}/shared")
    with pytest.raises(StoreCorrupt):
        Store.open(folder)


def test_open_with_a_damaged_frame_that_nobody_was_promised_cuts_there(folder: str) -> None:
    with Store.open(folder) as store:
        store.flush_blocking(write(store, put(pod(1))))
        offset = os.path.getsize(segment_path(folder, 1))
        write(store, put(pod(2)))
        write(store, put(pod(3)))
    damage(folder, offset + 50)
    with Store.open(folder) as store:
        assert store.seq == 1


def damage(folder: str, offset: int, first: int = 1) -> None:
    with open(segment_path(folder, first), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def test_a_full_disk_refuses_everybody_until_somebody_opens_the_store(folder: str) -> None:
    disk = FailingDisk()
    with Store.open(folder, disk=disk) as store, Store.open(folder) as other:
        store.flush_blocking(write(store, put(pod(1))))
        seq = write(other, put(pod(5)))
        store.catch_up()
        size = os.path.getsize(segment_path(folder, 1))
        disk.fails = {"write": errno.ENOSPC}
        disk.partial = 20
        with pytest.raises(StoreFailed) as caught:
            write(store, put(pod(2)))
        assert caught.value.errno == errno.ENOSPC
        assert os.path.getsize(segment_path(folder, 1)) == size
        assert store.tables.get(PodRecord, pod(2).id) is None
        disk.fails = {}
        for each in (store, other):
            with pytest.raises(StoreFailed) as caught:
                write(each, put(pod(3)))
            assert caught.value.errno == errno.ENOSPC
            with pytest.raises(StoreFailed):
                each.flush_blocking(seq)
            each.flush_blocking(1)  # was acknowledged before
        Store.open(folder).close()
        for number, each in enumerate((store, other), 3):
            each.flush_blocking(write(each, put(pod(number))))
    with Store.open(folder) as store:
        assert {record.id for record in store.tables.all(PodRecord)} == {
            pod(number).id for number in (1, 5, 3, 4)
        }


def test_a_full_disk_whose_half_frame_cannot_be_cut_off_poisons_the_store(folder: str) -> None:
    disk = FailingDisk()
    with Store.open(folder, disk=disk) as store, Store.open(folder) as other:
        write(store, put(pod(1)))
        disk.fails = {"write": errno.ENOSPC, "truncate": errno.EIO}
        disk.partial = 20
        with pytest.raises(StoreFailed):
            write(store, put(pod(2)))
        with Store.open(folder) as healed:
            write(healed, put(pod(3)))
        for each in (store, other):
            with pytest.raises(StoreFailed) as caught:
                write(each, put(pod(4)))
            assert caught.value.errno == errno.ESTALE
    with Store.open(folder) as store:
        assert {record.id for record in store.tables.all(PodRecord)} == {pod(1).id, pod(3).id}


class FullDisk(FailingDisk):
    """Has no space until something is unlinked."""

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.fails.pop("write", None)


@pytest.mark.parametrize("which", ["delete", "removing", "intent"])
def test_a_removal_on_a_full_disk_gives_up_the_reserve_and_is_written(
    folder: str, which: str
) -> None:
    disk = FullDisk()
    freeing = {
        "delete": delete(PodRecord, pod(1).id),
        "removing": put(msgspec.structs.replace(pod(1), removing=True)),
        "intent": put(IntentRecord(id="x", kind="pod", verb="remove")),
    }
    with Store.open(folder, disk=disk) as store:
        write(store, put(pod(1)))
        assert os.path.exists(f"{folder}/reserve")
        disk.fails = {"write": errno.ENOSPC}
        store.flush_blocking(write(store, freeing[which], put(pod(2))))
        assert not os.path.exists(f"{folder}/reserve")
        assert store.tables.get(PodRecord, pod(2).id) == pod(2)
        disk.fails = {"write": errno.ENOSPC}
        with pytest.raises(StoreFailed):
            write(store, freeing[which])
        with pytest.raises(StoreFailed):
            write(store, freeing[which])
    with Store.open(folder) as store:
        assert os.path.exists(f"{folder}/reserve")
        assert store.tables.get(PodRecord, pod(2).id) == pod(2)


def test_open_of_a_poisoned_store_on_a_full_disk_writes_it_anew_into_the_reserve(
    folder: str,
) -> None:
    with Store.open(folder) as store:
        store.flush_blocking(write(store, put(pod(1))))
        words = attach(f"{folder}/shared")
        assert words is not None
        words.set_poison(errno.EIO)
    disk = FullDisk()
    disk.fails = {"write": errno.ENOSPC}
    with Store.open(folder, disk=disk) as store:
        assert not os.path.exists(f"{folder}/reserve")
        store.flush_blocking(write(store, delete(PodRecord, pod(1).id)))
    disk.fails = {"write": errno.ENOSPC}
    words.set_poison(errno.EIO)
    with pytest.raises(StoreFailed) as caught:
        Store.open(folder, disk=disk)
    assert caught.value.errno == errno.ENOSPC
    with Store.open(folder) as store:
        assert content(store.tables) == {}
        assert store.seq == 2


def test_a_disk_too_full_for_the_next_segment_goes_on_in_this_one(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    class NoNewFiles(Disk):
        is_full = True

        def open(self, path: str, flags: int, mode: int = 0o600) -> int:
            if self.is_full and path.endswith("new.segment"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().open(path, flags, mode)

    disk = NoNewFiles()
    Store.open(folder).close()
    with Store.open(folder, segment_bytes=500, compact_in_background=False, disk=disk) as store:
        for number in range(1, 9):
            store.flush_blocking(write(store, put(pod(number))))
        assert "cannot begin a segment" in caplog.text
        assert list_segments(folder) == [1]
        with Store.open(folder, disk=disk) as other:
            write(other, delete(PodRecord, pod(1).id))
        disk.is_full = False
        write(store, put(pod(9)))
        assert list_segments(folder) != [1]
        expected = content(store.tables)
    with Store.open(folder) as store:
        assert content(store.tables) == expected


def test_open_after_a_reboot_uses_the_words_of_the_boot_before_again(folder: str) -> None:
    with Store.open(folder) as store:
        store.flush_blocking(write(store, put(pod(1))))
    path = Path(f"{folder}/shared")
    inode = path.stat().st_ino
    with path.open("r+b") as file:
        file.seek(16)
        file.write(bytes(16) + b"\xff" * 200)
    with Store.open(folder) as store:
        assert path.stat().st_ino == inode
        assert store.durable == 0
        store.flush_blocking(write(store, put(pod(2))))
        with Store.open(folder, readonly=True) as reader:
            assert reader.durable == store.durable == 2


def test_a_failed_sync_stops_every_store_until_it_is_opened_again(folder: str) -> None:
    disk = FailingDisk()
    with Store.open(folder, disk=disk) as store, Store.open(folder) as other:
        store.flush_blocking(write(store, put(pod(1))))
        seq = write(store, put(pod(2)))
        disk.fails = {"sync": errno.EIO}
        with pytest.raises(StoreFailed):
            store.flush_blocking(seq)
        for each in (store, other):
            with pytest.raises(StoreFailed):
                write(each, put(pod(3)))
            with pytest.raises(StoreFailed):
                each.flush_blocking(seq)
            each.flush_blocking(1)  # was acknowledged before
        with Store.open(folder, readonly=True) as reader:
            assert reader.tables.get(PodRecord, pod(1).id) == pod(1)
            with Store.open(folder) as healed:
                assert healed.durable == healed.seq == 2
                healed.flush_blocking(write(healed, put(pod(3))))
                reader.catch_up()
                assert content(reader.tables) == content(healed.tables)
            with pytest.raises(StoreFailed):
                write(other, put(pod(4)))


def test_a_failed_sync_that_goes_on_failing_refuses_to_open(folder: str) -> None:
    disk = FailingDisk()
    with Store.open(folder, disk=disk) as store:
        disk.fails = {"sync": errno.EIO}
        seq = write(store, put(pod(1)))
        with pytest.raises(StoreFailed):
            store.flush_blocking(seq)
        with pytest.raises(StoreFailed):
            Store.open(folder, disk=disk)
    with Store.open(folder) as store:
        assert store.tables.get(PodRecord, pod(1).id) == pod(1)


def test_open_whose_sync_fails_stops_those_who_have_the_store_open(folder: str) -> None:
    disk = FailingDisk()
    with Store.open(folder) as store:
        seq = write(store, put(pod(1)))
        with open(segment_path(folder, 1), "ab") as file:
            file.write(b"half a frame")
        disk.fails = {"sync": errno.EIO}
        with pytest.raises(StoreFailed):
            Store.open(folder, disk=disk)
        with pytest.raises(StoreFailed) as caught:
            store.flush_blocking(seq)
        assert caught.value.errno == errno.EIO
    with Store.open(folder) as store:
        assert store.durable == store.seq == seq
        assert store.tables.get(PodRecord, pod(1).id) == pod(1)


def test_a_snapshot_whose_sync_fails_stops_acknowledgements(folder: str) -> None:
    disk = FailingDisk()
    with Store.open(folder, segment_bytes=900, compact_in_background=False, disk=disk) as store:
        seq = write(store, put(pod(1)))
        disk.fails = {"sync": errno.EIO}
        with pytest.raises(StoreFailed):
            for number in range(2, 50):
                seq = write(store, put(pod(number)))
        assert seq > 1 and store.durable == 0
        disk.fails = {}
        with pytest.raises(StoreFailed):
            store.flush_blocking(seq)
    with Store.open(folder) as store:
        assert store.durable >= seq
        assert list_snapshots(folder)


def test_open_readonly_without_a_state_is_empty_and_makes_nothing(folder: str) -> None:
    with Store.open(folder, readonly=True) as reader:
        assert content(reader.tables) == {}
        assert reader.catch_up() == 0
        assert not os.path.exists(folder)
        with pytest.raises(StoreFailed):
            write(reader, put(pod(1)))
        with Store.open(folder) as store:
            write(store, put(pod(1)))
        assert reader.catch_up() == 1


def test_use_after_close_is_refused(folder: str) -> None:
    store = Store.open(folder)
    store.close()
    store.close()
    with pytest.raises(RuntimeClosed):
        store.catch_up()
    with pytest.raises(RuntimeClosed):
        write(store, put(pod(1)))


def test_listeners_hear_of_what_others_wrote(store: Store, folder: str) -> None:
    with Store.open(folder, readonly=True) as reader:
        heard: list[int] = []
        reader.listeners.append(lambda seq, at_ns, ops: heard.append(seq))
        write(store, put(pod(1)))
        write(store, put(pod(2)))
        reader.catch_up()
        assert heard == [1, 2]


def test_reading_imports_no_trio() -> None:
    code = (
        "import sys, podrt.store.wal, podrt.store.facts, podrt.store.journal\n"
        "assert 'trio' not in sys.modules and 'asyncio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_files_are_private(store: Store, folder: str) -> None:
    write(store, put(pod(1)))
    assert os.stat(folder).st_mode & 0o777 == 0o700
    for name in os.listdir(folder):
        assert os.stat(f"{folder}/{name}").st_mode & 0o077 == 0, name


def test_many_random_transactions_equal_a_dictionary_after_reopening(folder: str) -> None:
    import random

    from doubles.states import Model, apply

    rng = random.Random(5)
    model: Model = {}
    for _ in range(6):
        with Store.open(folder, segment_bytes=3000, compact_in_background=False) as store:
            assert content(store.tables) == model
            for _ in range(60):
                ops = random_ops(rng)
                write(store, *ops)
                model = apply(model, ops)
            check_indexes(store.tables)
            assert content(store.tables) == model
