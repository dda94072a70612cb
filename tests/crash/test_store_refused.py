"""A disk that refuses, under real processes: whoever is told of it, nobody loses anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import podrt
from doubles.states import container, content, pod
from podrt.errors import StoreFailed
from podrt.store.commit import wait_durable
from podrt.store.records import ContainerRecord, GroupRecord, PodRecord, delete, put
from podrt.store.wal import Store

TESTS = Path(__file__).parent.parent
SOURCES = Path(podrt.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{SOURCES}:{TESTS}"}
PATIENCE_S = 20
PEER_REFUSED = 3

# Commits, one line for each that was acknowledged, until it is refused.
PEER = """
import sys
from podrt.errors import StoreFailed
from podrt.store.records import GroupRecord, put
from podrt.store.wal import Store
with Store.open(sys.argv[1], segment_bytes=20_000) as store:
    number = 0
    while True:
        number += 1
        try:
            seq = store.transact(lambda _: [put(GroupRecord(id=sys.argv[2], epoch=number))])
            store.flush_blocking(seq)
        except StoreFailed as error:
            print("refused", error.errno, flush=True)
            sys.exit(3)
        print(number, seq, flush=True)
"""

# Commits a little, then its disk fails.
FAILING = """
import errno, sys
from doubles.disks import FailingDisk
from doubles.states import pod
from podrt.errors import StoreFailed
from podrt.store.records import put
from podrt.store.wal import Store
disk = FailingDisk()
with Store.open(sys.argv[1], disk=disk) as store:
    for number in range(1, 20):
        store.flush_blocking(store.transact(lambda _: [put(pod(number))]))
    sys.stdin.readline()
    disk.fails = {sys.argv[2]: errno.EIO}
    try:
        # The others' syncs may have made one durable before ours has begun.
        while True:
            store.flush_blocking(store.transact(lambda _: [put(pod(20))]))
    except StoreFailed as error:
        print(error.errno, store.durable, flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@pytest.mark.parametrize("call", ["sync", "write"])
def test_a_disk_failing_one_process_under_load_stops_acknowledgements_in_all(
    tmp_path: Path, call: str
) -> None:
    folder = str(tmp_path / "state")
    peers = [start(PEER, folder, name) for name in ("a", "b")]
    failing = start(FAILING, folder, call)
    try:
        heard = [peer.stdout.readline() for peer in peers]  # type: ignore[union-attr]
        failed, _ = failing.communicate("go\n", timeout=PATIENCE_S)
        number, durable = map(int, failed.split())
        acknowledged = []
        for peer, first in zip(peers, heard, strict=True):
            lines = [first, *peer.communicate(timeout=PATIENCE_S)[0].splitlines()]
            assert peer.returncode == PEER_REFUSED
            assert lines[-1] == f"refused {number}"
            acknowledged.append([tuple(map(int, line.split())) for line in lines[:-1]])
    finally:
        for process in (*peers, failing):
            end(process)
    for lines in acknowledged:
        # A sync that had begun before may still have ended well; nothing after that did.
        assert call == "write" or max(seq for _, seq in lines) <= durable
    with Store.open(folder) as store:
        for name, lines in zip("ab", acknowledged, strict=True):
            record = store.tables.get(GroupRecord, name)
            assert record is not None and record.epoch >= len(lines) > 0
        store.flush_blocking(store.transact(lambda _: [put(pod(50))]))


async def test_every_task_that_waits_for_the_disk_hears_of_another_process_failing(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "state")
    failing = start(FAILING, folder, "sync")
    refused = []
    lasts: dict[int, int] = {}

    async def commit(store: Store, task: int) -> None:
        try:
            while True:
                lasts[task] = lasts.get(task, 0) + 1
                record = GroupRecord(id=f"task{task}", epoch=lasts[task])
                seq = store.transact(lambda _, record=record: [put(record)])
                await wait_durable(store, seq)
                assert store.durable >= seq
        except StoreFailed as error:
            refused.append(error.errno)

    try:
        with Store.open(folder) as store, trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for task in range(50):
                    nursery.start_soon(commit, store, task)
                await trio.to_thread.run_sync(failing.communicate, "go\n", PATIENCE_S)
            assert len(refused) == 50 and set(refused) == {5}
    finally:
        end(failing)
    with Store.open(folder) as store:
        for task, last in lasts.items():
            record = store.tables.get(GroupRecord, f"task{task}")
            # All but the last were acknowledged.
            assert (record.epoch if record is not None else 0) >= last - 1


FULL_DISK = """
import errno, os, subprocess, sys
options = "size=512k,mode=700"
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", sys.argv[1]], check=True)
from crash.test_store_refused import meet_a_full_disk
meet_a_full_disk(sys.argv[1])
print("done")
"""

# Opens the store before the disk is full, and goes on afterwards.
NEIGHBOUR = """
import sys
from doubles.states import container
from podrt.errors import StoreFailed
from podrt.store.records import GroupRecord, put
from podrt.store.wal import Store
with Store.open(sys.argv[1]) as store:
    for number, line in enumerate(sys.stdin):
        try:
            seq = store.transact(lambda _: [put(GroupRecord(id="neighbour", epoch=number))])
            store.flush_blocking(seq)
            print("done", flush=True)
        except StoreFailed as error:
            print(error.errno, flush=True)
"""


def fill(store: Store, error_number: int) -> int:
    """Commit pods until there is no space; gives the last one that was acknowledged."""
    count = 0
    try:
        while True:
            following = put(pod(count + 1))
            store.flush_blocking(store.transact(lambda _, op=following: [op]))
            count += 1
    except StoreFailed as error:
        assert error.errno == error_number, error
    return count


def meet_a_full_disk(mount: str) -> None:
    import errno

    folder, ballast = f"{mount}/state", f"{mount}/ballast"
    neighbour = start(NEIGHBOUR, folder)

    def ask_neighbour() -> str:
        assert neighbour.stdin is not None and neighbour.stdout is not None
        print(file=neighbour.stdin, flush=True)
        return neighbour.stdout.readline().strip()

    assert ask_neighbour() == "done"
    with Store.open(folder, segment_bytes=100_000, compact_in_background=False) as store:
        count = fill(store, errno.ENOSPC)
        assert count > 100, count
        before = content(store.tables)
        # Whatever is smaller would fit: all the same nothing is promised until a reopen.
        assert ask_neighbour() == str(errno.ENOSPC)
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    with Store.open(folder, readonly=True) as reader:
        assert content(reader.tables) == before
    remove_on_full_disk(folder, count)
    with Store.open(folder) as store:
        # What the reserve held is anybody's now.
        assert fill(store, errno.ENOSPC) < count
    # And without it nobody could free the disk.
    with Store.open(folder) as store:
        try:
            store.transact(lambda _: [delete(PodRecord, pod(1).id)])
        except StoreFailed as error:
            assert error.errno == errno.ENOSPC
        else:
            raise AssertionError("a removal found space without the reserve")
    os.unlink(ballast)
    subprocess.run(["mount", "-o", "remount,size=4m", mount], check=True)
    with Store.open(folder) as store:
        assert store.tables.get(PodRecord, pod(count).id) is None
        store.flush_blocking(store.transact(lambda _: [put(container(1, 0))]))
        assert os.path.exists(f"{folder}/reserve")
    with Store.open(folder, segment_bytes=100_000, compact_in_background=False) as store:
        # Who stays open has a try of its own, whether there is space by then or not.
        first = fill(store, errno.ENOSPC)
        assert first > 0
        store.retry_full()
        fill(store, errno.ENOSPC)
        subprocess.run(["mount", "-o", "remount,size=8m", mount], check=True)
        store.retry_full()
        store.flush_blocking(store.transact(lambda _: [put(container(2, 0))]))
    assert ask_neighbour() == "done"
    neighbour.communicate()
    with Store.open(folder, readonly=True) as reader:
        assert reader.tables.get(ContainerRecord, container(1, 0).id) == container(1, 0)
        record = reader.tables.get(GroupRecord, "neighbour")
        assert record is not None and record.epoch == 2


def remove_on_full_disk(folder: str, count: int) -> None:
    """Each in a store of its own, as commands do; nothing else finds space meanwhile."""
    for number in range(count, count - 60, -1):
        with Store.open(folder) as store:
            seq = store.transact(lambda _, number=number: [delete(PodRecord, pod(number).id)])
            store.flush_blocking(seq)
    with Store.open(folder, readonly=True) as reader:
        assert reader.tables.get(PodRecord, pod(count).id) is None
        assert reader.tables.get(PodRecord, pod(1).id) == pod(1)


def test_a_disk_that_is_full_refuses_loses_nothing_and_lets_things_be_removed(
    tmp_path: Path,
) -> None:
    result = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr
