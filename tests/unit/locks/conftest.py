"""Lock tables in a tmpfs where there is one: that is where the real one lives."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from doubles.lock_peer import Peer
from podrt._fast.locktable import LockTable
from podrt.locks.locks import Locks


@pytest.fixture
def table_path() -> Iterator[str]:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="podrt_test_locks_", dir=base)
    yield f"{folder}/locks"
    shutil.rmtree(folder)


@pytest.fixture
def table(table_path: str) -> Iterator[LockTable]:
    table = LockTable.open(table_path)
    yield table
    table.close()


@pytest.fixture
def start_peer(table_path: str) -> Iterator[Callable[[], Peer]]:
    """Starts other processes at the same table; all are gone after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(Peer(table_path))


@pytest.fixture
def open_locks(table_path: str) -> Iterator[Callable[[], Locks]]:
    """Opens the table for tasks; each call is another process as far as the table can tell."""
    opened: list[Locks] = []

    def open_one() -> Locks:
        opened.append(Locks.open(table_path))
        return opened[-1]

    yield open_one
    for locks in opened:
        locks.close()
