"""Facts move from a pod's journal into the log while its monitor goes on: nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from doubles.commands import Podrt, monitors_of
from podrt.store.journal import RECORD_BYTES, JournalReader
from podrt.store.records import ContainerRecord, GroupRecord
from podrt.store.wal import Store


@contextlib.contextmanager
def log_of(podrt: Podrt) -> Iterator[Store]:
    with Store.open(str(podrt.root / "state"), readonly=True) as store:
        store.catch_up()
        yield store


def make_pod(podrt: Podrt) -> str:
    pod = podrt.pod("p")
    for name in ("stays", "moves"):
        podrt("create", "--pod", "p", "--name", name, "base", "sleep", "1000")
    podrt("pod", "start", "p")
    return pod


def group_of(podrt: Podrt, pod: str) -> GroupRecord:
    with log_of(podrt) as store:
        group = store.tables.get(GroupRecord, pod)
        assert group is not None
        return group


def journal_of(podrt: Podrt, group: GroupRecord) -> Path:
    return podrt.root / "journal" / f"{group.id}.{group.epoch}"


def states(podrt: Podrt) -> dict[str, str]:
    listed = podrt.listed("ps", "--all")
    return {row["Names"][0]: row["State"] for row in listed if "infra" not in row["Names"][0]}


def test_wishes_fold_what_the_journal_holds_so_that_nobody_reads_it_again(podrt: Podrt) -> None:
    pod = make_pod(podrt)
    for _ in range(3):
        podrt("stop", "--time", "0", "moves")
        podrt("start", "moves")
    podrt("stop", "--time", "0", "moves")
    group = group_of(podrt, pod)
    path = journal_of(podrt, group)
    # The last wish says that the stopped run was cleaned up, and came behind everything.
    assert group.folded_bytes == path.stat().st_size
    assert group.folded_bytes > 12 * RECORD_BYTES
    with JournalReader(str(path), seq=group.folded_seq, bytes_read=group.folded_bytes) as reader:
        assert reader.read() == []
    with log_of(podrt) as store:
        for record in store.tables.members(pod):
            if record.config.name == "stays":
                os.kill(record.facts.pid, 0)
                assert record.facts.epoch == group.epoch
    assert states(podrt) == {"stays": "running", "moves": "exited"}
    assert "137" in podrt("inspect", "--format", "json", "moves")


def test_folded_facts_survive_the_journal_they_came_from(podrt: Podrt) -> None:
    pod = make_pod(podrt)
    podrt("stop", "--time", "0", "moves")
    group = group_of(podrt, pod)
    path = journal_of(podrt, group)
    content = path.read_bytes()
    # As if a full disk had torn it: what the log has folded is not looked for again.
    with path.open("r+b") as file:
        file.seek(64)
        file.write(bytes(group.folded_bytes - 64))
    try:
        assert states(podrt) == {"stays": "running", "moves": "exited"}
    finally:
        path.write_bytes(content)


def test_process_whose_start_was_folded_is_taken_over_after_the_monitors_death(
    podrt: Podrt,
) -> None:
    pod = make_pod(podrt)
    podrt("stop", "--time", "0", "moves")
    before = group_of(podrt, pod)
    for pid in monitors_of(str(podrt.runroot)):
        os.kill(pid, signal.SIGKILL)
    assert states(podrt) == {"stays": "running", "moves": "exited"}
    podrt("start", "moves")
    after = group_of(podrt, pod)
    assert after.epoch == before.epoch + 1
    assert not journal_of(podrt, before).exists()
    assert states(podrt) == {"stays": "running", "moves": "running"}
    podrt("kill", "stays")
    assert podrt("wait", "stays").strip() == "137"
    with log_of(podrt) as store:
        assert store.tables.ids(ContainerRecord)
