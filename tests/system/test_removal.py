"""Removing a pod: its order, and which error counts (semantics.md section 6, a test per row)."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from doubles.commands import BUSYBOX, Podrt
from doubles.places import CGROUPS, SLEEP, Place, is_gone, open_place, until
from podrt.errors import EngineFailed, InvalidConfig, InvalidState, PodrtError, StoreFailed
from podrt.model.container import ContainerConfig, Mount, MountKind
from podrt.runtime.context import Context
from podrt.runtime.pod import Pod
from podrt.store.records import ContainerRecord, Delete, PodRecord

DEAF = ("/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.02; done")


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


def pids_limit(path: str) -> str:
    """The limit of a cgroup, v1's or v2's."""
    for root in (CGROUPS / "pids", CGROUPS):
        file = root / path[1:] / "pids.max"
        if file.exists():
            return file.read_text().strip()
    return "gone"


def failing(patch: pytest.MonkeyPatch, owner: object, name: str, when: Callable[..., bool]) -> None:
    """Make a call fail with EIO when `when` of its arguments says so."""
    real = getattr(owner, name)

    def call(*arguments: Any, **words: Any) -> Any:
        if when(*arguments, **words):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **words)

    patch.setattr(owner, name, call)


def failing_commit(patch: pytest.MonkeyPatch, ctx: Context, kind: type) -> None:
    """Make the transaction fail that takes a record of that kind out."""
    real = ctx.commit

    async def commit(build: Any, **words: Any) -> None:
        ops = build(ctx.store.tables)
        if any(isinstance(op, Delete) and op.kind is kind for op in ops):
            raise StoreFailed("log", errno.EIO)
        await real(build, **words)

    patch.setattr(ctx, "commit", commit)


def is_there(place: Place, pod: Pod) -> bool:
    return any(one.id == pod.id for one in place.runtime.pods())


async def test_all_that_is_in_the_way_is_named_before_anything_is_touched(place: Place) -> None:
    pod = await place.pod("a", "b", "c", "d")
    await place.runtime.container("b").pause()
    await place.runtime.container("c").stop()
    before = place.states(), {name: place.facts(name) for name in "abcd"}
    with pytest.raises(InvalidState) as caught:
        await pod.remove()
    for words in ("a is running", "b is paused", "d is running"):
        assert words in str(caught.value)
    assert "c is" not in str(caught.value)
    assert (place.states(), {name: place.facts(name) for name in "abcd"}) == before
    assert not pod.record().removing


async def test_members_need_to_be_meant_and_an_infra_alone_does_not(place: Place) -> None:
    pod = await place.pod("a")
    with pytest.raises(InvalidState, match="it contains containers and cannot be removed"):
        await pod.remove(force=True, remove_containers=False)
    with pytest.raises(InvalidConfig, match="must be used with --force"):
        await pod.remove(timeout_s=1)
    assert place.states()["a"] == "running"
    bare = await place.empty_pod("bare")
    await bare.start()
    await bare.remove(remove_containers=False)
    assert not is_there(place, bare)


async def test_only_the_monitor_may_make_no_process_while_members_end(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "a", *DEAF, stop_timeout_s=600)
    await pod.start()
    pid = place.pid("a")
    record = pod.record()
    monitor = place.ctx.cgroups.monitor_path(record.config.cgroup_parent, pod.id)
    assert pids_limit(monitor) == "512"
    async with trio.open_nursery() as nursery:

        async def remove() -> None:
            await pod.remove(force=True)

        nursery.start_soon(remove)
        await until(lambda: pids_limit(monitor) == "1")
        assert place.states() == {"infra": "removing", "a": "removing"}
        assert pids_limit(record.cgroup_path) != "1"
        os.kill(pid, 9)
    assert pids_limit(monitor) == pids_limit(record.cgroup_path) == "gone"


async def test_a_limit_that_cannot_be_set_is_only_logged(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await place.pod("a")
    failing(monkeypatch, place.ctx.cgroups, "update", lambda *_: True)
    await pod.remove(force=True)
    assert "cannot limit the monitor" in caplog.text
    assert not is_there(place, pod)


async def test_a_member_that_cannot_be_removed_keeps_the_pod_for_a_second_rm(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await place.pod("a", "b", "c")
    pids = [place.pid(name) for name in "abc"]
    stuck = {place.runtime.container(name).record().cgroup_path for name in "ab"}
    with monkeypatch.context() as patch:
        failing(patch, place.ctx.cgroups, "remove", lambda path: path in stuck)
        with pytest.raises(EngineFailed, match="remove cgroup") as caught:
            await pod.remove(force=True)
    # The first is returned, the other one logged.
    assert sum(path in str(caught.value) for path in stuck) == 1
    assert sum(path in caplog.text for path in stuck) == 1
    assert all(map(is_gone, pids))
    assert pod.record().removing
    assert pod.record().infra_id
    assert set(place.states().values()) == {"removing"}
    await pod.remove()
    assert not is_there(place, pod)
    assert place.states() == {}


@pytest.mark.parametrize("which", ["monitor", "pod"])
async def test_a_cgroup_that_stays_does_not_keep_the_pod(
    place: Place, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    pod = await place.pod("a")
    record = pod.record()
    parent = record.config.cgroup_parent
    paths = {
        "monitor": place.ctx.cgroups.monitor_path(parent, pod.id), "pod": record.cgroup_path
    }  # fmt: skip
    with monkeypatch.context() as patch:
        failing(patch, place.ctx.cgroups, "remove", lambda path: path == paths[which])
        with pytest.raises(EngineFailed, match="remove cgroup"):
            await pod.remove(force=True)
    assert not is_there(place, pod)
    assert [one.what for one in await place.runtime.check()] == [paths[which]]
    assert [one.is_repaired for one in await place.runtime.check(repair=True)] == [True]
    assert pids_limit(paths[which]) == "gone"


async def test_a_lock_that_cannot_be_freed_is_told_at_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a")
    with monkeypatch.context() as patch:
        failing(patch, place.ctx.locks, "free", lambda _, owner: owner == pod.id)
        with pytest.raises(EngineFailed, match="free lock"):
            await pod.remove(force=True)
    assert not is_there(place, pod)
    assert [one.kind for one in await place.runtime.check(repair=True)] == ["lock"]


@pytest.mark.parametrize("kind", [ContainerRecord, PodRecord])
async def test_a_record_that_cannot_be_taken_out_is_an_error_at_once(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type,
) -> None:
    pod = await place.pod("a")
    monitor = place.ctx.cgroups.monitor_path(place.cgroup_parent, pod.id)
    caplog.set_level(logging.ERROR)
    with monkeypatch.context() as patch:
        failing(patch, place.ctx.cgroups, "remove", lambda path: path == monitor)
        failing_commit(patch, place.ctx, kind)
        with pytest.raises(StoreFailed):
            await pod.remove(force=True)
    assert is_there(place, pod)
    assert pod.record().removing
    # What failed earlier is logged: the later error is the one that is returned.
    assert (monitor in caplog.text) == (kind is PodRecord)
    assert len(pod.containers()) == (2 if kind is ContainerRecord else 0)
    await pod.remove()
    assert not is_there(place, pod)
    assert pids_limit(monitor) == "gone"


async def test_a_pod_s_own_volume_that_stays_is_only_logged_and_a_named_one_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await place.empty_pod()
    mounts = (
        Mount(kind=MountKind.VOLUME, source="./own", destination="/own"),
        Mount(kind=MountKind.VOLUME, source="named", destination="/named"),
    )
    config = ContainerConfig(name="a", image="base", command=SLEEP, pod=pod.id, mounts=mounts)
    await place.runtime.create_container(config)
    layout = place.ctx.layout
    assert "volumes" in os.listdir(layout.pod(pod.id))
    from podrt.linux import trees

    with monkeypatch.context() as patch:
        failing(patch, trees, "remove_tree", lambda path: path == layout.pod(pod.id))
        await pod.remove(force=True)
    assert "Input/output error" in caplog.text
    assert not is_there(place, pod)
    assert os.listdir(layout.volumes_dir) == ["named"]
    assert [one.kind for one in await place.runtime.check(repair=True)] == ["pod directory"]


async def test_a_removal_that_died_is_finished_by_rm_also_when_members_still_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a")
    pid = place.pid("a")
    with monkeypatch.context() as patch:

        async def die(*_: object) -> None:
            raise SystemExit

        patch.setattr("podrt.runtime.teardown.end_process", die)
        with pytest.raises((SystemExit, BaseExceptionGroup)):
            await pod.remove(force=True)
    assert not is_gone(pid)
    assert pod.record().removing
    with pytest.raises(PodrtError, match="it is being removed"):
        await pod.start()
    await pod.remove()
    assert is_gone(pid)
    assert not is_there(place, pod)


def test_exit_codes_are_podman_s(podrt: Podrt) -> None:
    podrt.fails(1, "pod", "rm", "none")
    podrt("pod", "rm", "--ignore", "none")
    podrt.fails(1, "rm", "none")
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "a", "base", *SLEEP)
    podrt("start", "a")
    podrt.fails(2, "rm", "a")
    podrt.fails(125, "pod", "rm", "shop")
    assert "must be used with --force" in podrt.fails(125, "pod", "rm", "--time", "1", "shop")
    assert "must be used with --force" in podrt.fails(125, "rm", "--time", "1", "a")
    podrt("pod", "rm", "--force", "--time", "0", "shop")
