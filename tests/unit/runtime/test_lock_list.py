from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from doubles.claim_peer import context_at
from podrt.model.ids import new_id
from podrt.model.pod import PodConfig
from podrt.model.verbs import Verb
from podrt.runtime.context import Context
from podrt.runtime.lock_list import GONE, LockRow, lock_rows
from podrt.runtime.view import View
from podrt.store.records import Delete, IntentRecord, PodRecord, Put


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    with context_at(str(tmp_path)) as ctx:
        yield ctx


def add_pod(ctx: Context) -> PodRecord:
    pod = PodRecord(id=new_id(), config=PodConfig(name="shop"))
    ctx.record(lambda _: [Put(IntentRecord(id=pod.id, kind="pod", name="shop"))])
    lock = ctx.locks.allocate(pod.id)
    pod = PodRecord(id=pod.id, config=pod.config, lock=lock)
    ctx.record(lambda _: [Delete(IntentRecord, pod.id), Put(pod)])
    return pod


def only_row(ctx: Context) -> LockRow:
    (row,) = lock_rows(ctx.view)
    return row


def test_row_of_a_pod_at_rest_says_nothing_more(ctx: Context) -> None:
    pod = add_pod(ctx)
    row = only_row(ctx)
    assert (row.lock, row.kind, row.name, row.owner_id) == (pod.lock, "pod", "shop", pod.id)
    assert (row.state, row.holder, row.claim, row.waiters, row.notes) == (
        "allocated", None, None, (), ()
    )  # fmt: skip


def test_row_shows_holder_and_claim(ctx: Context) -> None:
    pod, table = add_pod(ctx), ctx.locks.table
    table.acquire_nowait(pod.lock)
    token = table.claim(pod.lock, Verb.START)
    table.preempt(pod.lock, token, Verb.FORCE_REMOVE)
    row = only_row(ctx)
    assert row.holder is not None
    assert row.claim is not None
    assert (row.holder.pid, row.holder.is_alive) == (os.getpid(), True)
    assert row.holder.command == Path("/proc/self/comm").read_text().strip()
    assert (row.claim.verb, row.claim.preempted_by) == ("start", "rm --force")
    assert row.claim.owner == row.holder
    assert row.notes == ()


def test_row_of_a_verb_from_a_newer_podrt_shows_its_number(ctx: Context) -> None:
    pod, table = add_pod(ctx), ctx.locks.table
    table.acquire_nowait(pod.lock)
    table.claim(pod.lock, 77)
    row = only_row(ctx)
    assert row.claim is not None
    assert row.claim.verb == "verb 77"


def test_row_of_a_creation_at_work_is_not_abandoned(ctx: Context) -> None:
    intent = IntentRecord(id=new_id(), kind="container", name="web")
    ctx.record(lambda _: [Put(intent)])
    ctx.locks.allocate(intent.id)
    row = only_row(ctx)
    assert (row.kind, row.name, row.notes) == ("container", "web", ())


def test_row_without_an_owner_says_so(ctx: Context) -> None:
    owner = new_id()
    ctx.locks.allocate(owner)
    row = only_row(ctx)
    assert (row.kind, row.name, row.owner_id) == (GONE, owner[:12], owner)
    assert row.notes == ("its owner is gone",)


def test_row_of_a_lock_given_back_while_held_says_so(ctx: Context) -> None:
    pod, table = add_pod(ctx), ctx.locks.table
    table.acquire_nowait(pod.lock)
    ctx.locks.free(pod.lock, pod.id)
    row = only_row(ctx)
    assert (row.state, row.kind, row.owner_id) == ("free", GONE, "")
    assert row.notes == ("given back, but still held",)
    table.release(pod.lock)
    assert lock_rows(ctx.view) == []


def test_rows_of_a_second_lock_of_one_owner_name_the_one_it_uses(ctx: Context) -> None:
    pod = add_pod(ctx)
    second = ctx.locks.allocate(pod.id)
    notes = {row.lock: row.notes for row in lock_rows(ctx.view)}
    assert notes == {pod.lock: (), second: (f"its owner uses lock {pod.lock}",)}


def test_rows_of_another_tenant_are_left_out(ctx: Context) -> None:
    pod = add_pod(ctx)
    ctx.record(lambda _: [Put(msgspec.structs.replace(pod, namespace="blue"))])
    ctx.locks.allocate(new_id())
    assert len(lock_rows(ctx.view)) == 2
    for namespace, seen in (("blue", [pod.lock]), ("green", [])):
        view = View(ctx.layout, ctx.store, ctx.boot_id, namespace)
        assert [row.lock for row in lock_rows(view)] == seen


def test_rows_are_none_where_there_is_no_table(tmp_path: Path) -> None:
    with context_at(str(tmp_path)) as ctx:
        os.unlink(ctx.layout.locks)
        assert lock_rows(ctx.view) == []
        assert not os.path.exists(ctx.layout.locks)
