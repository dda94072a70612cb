"""What the seed's functions promise where no other test looks: conditions, order and errors.

tests/source/seed_table.py says which function each test is about. Source: semantics.md.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from doubles.commands import BUSYBOX
from doubles.places import Place, is_gone, open_place
from podrt.config import Settings
from podrt.engines.monitor import Monitor
from podrt.errors import (
    AlreadyExists,
    EngineFailed,
    InvalidConfig,
    InvalidState,
    NothingToStart,
    Removed,
    RuntimeClosed,
    StoreFailed,
    WalkFailed,
)
from podrt.model.container import ContainerConfig, Dependency
from podrt.model.event import Action
from podrt.model.pod import PodConfig
from podrt.model.states import ContainerState, PodState
from podrt.runtime import create, stop
from podrt.runtime.events import read_events
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import open_runtime
from podrt.store.records import ContainerRecord, PodRecord, Put

pytestmark = pytest.mark.skipif(not BUSYBOX, reason="needs busybox")


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


VERBS: dict[str, Callable[[Pod], Awaitable[object]]] = {
    "start": lambda pod: pod.start(),
    "stop": lambda pod: pod.stop(),
    "restart": lambda pod: pod.restart(),
    "pause": lambda pod: pod.pause(),
    "unpause": lambda pod: pod.unpause(),
    "kill": lambda pod: pod.kill(signal.SIGKILL),
    "remove": lambda pod: pod.remove(),
}
READS: dict[str, Callable[[Pod], object]] = {
    "state": lambda pod: pod.state(),
    "status": lambda pod: pod.status(),
    "containers": lambda pod: pod.containers(),
    "container_ids": lambda pod: pod.container_ids(),
    "has_container": lambda pod: pod.has_container("0" * 64),
    "namespace": lambda pod: pod.namespace,
    "labels": lambda pod: pod.labels,
    "created_at_ns": lambda pod: pod.created_at_ns,
    "cgroup_parent": lambda pod: pod.cgroup_parent,
    "uses_pod_cgroup": lambda pod: pod.uses_pod_cgroup,
    "cgroup_path": lambda pod: pod.cgroup_path,
}


# --- handles ------------------------------------------------------------------------------------


async def test_every_call_on_a_removed_pod_says_removed(place: Place) -> None:
    pod = await place.pod("a")
    await pod.remove(force=True)
    for call in VERBS.values():
        with pytest.raises(Removed, match="pod shop has been removed"):
            await call(pod)
    for look in READS.values():
        with pytest.raises(Removed, match="pod shop has been removed"):
            look(pod)


async def test_every_call_of_a_closed_runtime_says_closed_first_of_all(
    tmp_path: Path, place: Place
) -> None:
    settings = Settings(root=str(tmp_path / "other"), runroot=str(tmp_path / "other_run"))
    async with open_runtime(settings) as runtime:
        config = PodConfig(name="shop", cgroup_parent=place.cgroup_parent)
        pod, gone = await runtime.create_pod(config), await runtime.create_pod(PodConfig())
        await gone.remove()
        await pod.remove()
    for handle in (pod, gone):
        for call in VERBS.values():
            with pytest.raises(RuntimeClosed):
                await call(handle)
        for look in READS.values():
            with pytest.raises(RuntimeClosed):
                look(handle)
    with pytest.raises(RuntimeClosed):
        await runtime.create_pod(PodConfig())


async def test_what_a_pod_says_of_itself_is_what_it_was_made_with(place: Place) -> None:
    labels = {"app": "shop"}
    config = PodConfig(
        name="shop", labels=labels, namespace="mine", cgroup_parent=place.cgroup_parent
    )
    pod = await place.runtime.create_pod(config)
    assert (len(pod.id), pod.name, pod.namespace) == (64, "shop", "mine")
    assert pod.cgroup_parent == place.cgroup_parent and pod.uses_pod_cgroup
    assert pod.cgroup_path == f"{place.cgroup_parent}/{pod.id}"
    assert pod.created_at_ns == pod.record().created_at_ns > 0
    apart = PodConfig(name="apart", use_pod_cgroup=False, cgroup_parent=place.cgroup_parent)
    without = await place.runtime.create_pod(apart)
    assert (without.cgroup_path, without.uses_pod_cgroup) == ("", False)


async def test_labels_handed_out_are_a_copy(place: Place) -> None:
    config = PodConfig(name="shop", labels={"a": "b"}, cgroup_parent=place.cgroup_parent)
    pod = await place.runtime.create_pod(config)
    pod.labels["a"] = "changed"
    pod.labels["new"] = "c"
    assert pod.labels == {"a": "b"}


async def test_members_are_listed_in_order_of_creation_infra_first(place: Place) -> None:
    pod, other = await place.empty_pod(), await place.empty_pod("other")
    made = [await place.add(pod, name) for name in ("c", "a", "b")]
    foreign = await place.add(other, "x")
    ids = pod.container_ids()
    assert ids[1:] == [one.id for one in made] == [one.id for one in pod.containers()][1:]
    assert pod.record().infra_id == ids[0]
    assert all(pod.has_container(one) for one in ids)
    assert not pod.has_container(foreign.id) and not pod.has_container(made[0].id[:12])


# --- NewPod -------------------------------------------------------------------------------------


async def test_generated_name_that_is_taken_by_either_kind_is_generated_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.empty_pod("taken_pod")
    await place.add(None, "taken_container")
    names = iter(["taken_pod", "taken_container", "free"])
    monkeypatch.setattr(create, "generate_name", lambda: next(names))
    pod = await place.runtime.create_pod(PodConfig(cgroup_parent=place.cgroup_parent))
    # The host name follows the name that it came to in the end.
    assert (pod.name, pod.record().config.hostname) == ("free", "free")


async def test_generated_names_that_are_all_taken_end_in_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.empty_pod("taken")
    monkeypatch.setattr(create, "generate_name", lambda: "taken")
    monkeypatch.setattr(create, "generate_unique_name", lambda: "taken")
    with pytest.raises(AlreadyExists):
        await place.runtime.create_pod(PodConfig(cgroup_parent=place.cgroup_parent))


async def test_create_that_fails_gives_its_locks_back_and_tells_of_no_event(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = sorted(place.ctx.locks.owners())

    def fail(*_: object) -> None:
        raise StoreFailed("here", errno.EIO)

    monkeypatch.setattr(create, "write_group_files", fail)
    with pytest.raises(StoreFailed, match="here"):
        await place.empty_pod()
    monkeypatch.undo()
    assert sorted(place.ctx.locks.owners()) == locks
    assert [record.event for record in read_events(place.runtime.view)] == []
    pod = await place.empty_pod()
    told = [record.event for record in read_events(place.runtime.view)]
    assert [one.id for one in told if one.action is Action.CREATE and one.type == "pod"] == [pod.id]


async def test_lock_that_cannot_be_given_back_hides_no_error_of_a_create(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreFailed("here", errno.EIO)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(create, "write_group_files", fail)
    monkeypatch.setattr(place.ctx.locks, "free", refuse)
    with pytest.raises(StoreFailed, match="here"):
        await place.empty_pod()
    monkeypatch.undo()
    assert place.runtime.pods() == []
    await place.runtime.check(repair=True)


# --- Start, Stop, Kill, Pause -------------------------------------------------------------------


async def test_start_of_a_pod_without_containers_says_there_is_none_to_begin_with(
    place: Place,
) -> None:
    config = PodConfig(name="shop", infra=False, cgroup_parent=place.cgroup_parent)
    pod = await place.runtime.create_pod(config)
    words = "no containers in pod shop have no dependencies, cannot start pod"
    for call in (pod.start, pod.restart):
        with pytest.raises(NothingToStart, match=words):
            await call()


async def test_start_of_a_cycle_names_it_before_anything_is_touched(place: Place) -> None:
    pod = await place.empty_pod()
    a = await place.add(pod, "a")
    b = await place.add(pod, "b", needs=("a",))
    # Create refuses a cycle; a log of an older version might hold one.
    old = a.record()
    config = msgspec.structs.replace(old.config, requires=(Dependency(b.id),))
    broken = msgspec.structs.replace(old, config=config)
    place.ctx.record(lambda _: [Put(broken)])
    for call in (pod.start, pod.restart):
        with pytest.raises(InvalidConfig, match=r"depend on each other: \w -> \w -> \w"):
            await call()
    assert set(place.states().values()) == {"configured"}
    place.ctx.record(lambda _: [Put(old)])


async def test_start_of_a_paused_member_is_its_error_and_the_rest_starts(place: Place) -> None:
    pod = await place.pod("a", "b")
    await place.runtime.container("b").stop()
    await place.runtime.container("a").pause()
    with pytest.raises(WalkFailed) as caught:
        await pod.start()
    errors = {
        place.ctx.load_container(one).config.name: str(error)
        for one, error in caught.value.outcomes.items()
        if error
    }
    assert errors == {"a": "cannot start container a: it is paused"}
    assert place.states()["b"] == "running"


async def failing_for(
    place: Place, name: str, call: Callable[[], Awaitable[object]]
) -> dict[str, str]:
    """The errors, by name, of a call that must fail for one container and no other."""
    with pytest.raises(WalkFailed) as caught:
        await call()
    names = {one.id: one.name for one in place.runtime.containers()}
    assert set(caught.value.outcomes) == set(names)
    errors = {names[one]: str(e) for one, e in caught.value.outcomes.items() if e is not None}
    assert set(errors) == {name}
    return errors


async def test_stop_that_fails_for_one_stops_the_others_and_keeps_the_infra(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a", "b", "c")
    pids = {name: place.pid(name) for name in "abc"}
    real = stop.stop_running

    async def fail_for_b(ctx: object, monitor: object, record: ContainerRecord, t: object) -> None:
        if record.config.name == "b":
            raise EngineFailed("stop", errno.EIO, "b")
        await real(ctx, monitor, record, t)  # type: ignore[arg-type]

    monkeypatch.setattr(stop, "stop_running", fail_for_b)
    await failing_for(place, "b", pod.stop)
    monkeypatch.undo()
    assert {name for name, pid in pids.items() if is_gone(pid)} == {"a", "c"}
    states = place.states()
    assert (states["a"], states["b"], states["infra"]) == ("exited", "running", "running")
    await pod.stop()
    assert pod.state() is PodState.EXITED


async def test_kill_that_fails_for_one_reaches_the_others_and_leaves_no_lock_held(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a", "b", "c")
    pids = {name: place.pid(name) for name in "abc"}
    refused = place.runtime.container("b").id
    real = Monitor.signal

    async def fail_for_b(self: Monitor, container_id: str, run: int, number: int) -> None:
        if container_id == refused:
            raise EngineFailed("signal", errno.EPERM, "b")
        await real(self, container_id, run, number)

    monkeypatch.setattr(Monitor, "signal", fail_for_b)
    await failing_for(place, "b", lambda: pod.kill(signal.SIGKILL))
    monkeypatch.undo()
    for name in "ac":
        await place.runtime.container(name).wait()
    assert not is_gone(pids["b"])
    assert all(entry.holder is None for entry in place.ctx.locks.table.entries())
    await pod.stop()
    assert is_gone(pids["b"])


async def test_kill_skips_who_does_not_run_and_what_is_no_end_is_no_wish(place: Place) -> None:
    pod = await place.pod("a", "b")
    await place.runtime.container("b").stop()
    await pod.kill(signal.SIGHUP)
    assert place.runtime.container("a").record().user_stopped is False
    assert place.states()["b"] == "exited"
    await pod.kill(signal.SIGTERM)
    assert place.runtime.container("a").record().user_stopped is True


async def test_pause_and_unpause_that_fail_for_one_do_the_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a", "b", "c")
    # With one that is stopped each is frozen by itself.
    await place.runtime.container("c").stop()
    refused = place.runtime.container("b").record().cgroup_path
    cgroups = place.ctx.cgroups
    real = {"freeze": cgroups.freeze, "thaw": cgroups.thaw}

    def failing(verb: str) -> Callable[[str], None]:
        def act(path: str) -> None:
            if path == refused:
                raise EngineFailed(verb, errno.EIO, path)
            real[verb](path)

        return act

    monkeypatch.setattr(cgroups, "freeze", failing("freeze"))
    await failing_for(place, "b", pod.pause)
    assert (place.states()["a"], place.states()["b"]) == ("paused", "running")
    monkeypatch.undo()
    await pod.pause()
    assert place.states()["b"] == "paused"
    monkeypatch.setattr(cgroups, "thaw", failing("thaw"))
    await failing_for(place, "b", pod.unpause)
    assert (place.states()["a"], place.states()["b"]) == ("running", "paused")
    monkeypatch.undo()
    await pod.unpause()


# --- Status, Inspect ------------------------------------------------------------------------------


async def test_status_fails_as_a_whole_where_inspect_shows_unknown(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from podrt.cli.shapes import pod_document

    pod = await place.pod("a", "b")
    status = {place.ctx.load_container(one).config.name: word for one, word in pod.status().items()}
    assert {status["a"], status["b"]} == {ContainerState.RUNNING} and len(status) == 3
    real = place.ctx.view.state
    broken = place.runtime.container("b").id

    def fail_for_b(record: ContainerRecord) -> ContainerState:
        if record.id == broken:
            raise StoreFailed("journal", errno.EIO, "read")
        return real(record)

    monkeypatch.setattr(place.ctx.view, "state", fail_for_b)
    monkeypatch.setattr(place.ctx.view, "pod_state", lambda pod: PodState.RUNNING)
    with pytest.raises(StoreFailed, match="journal"):
        pod.status()
    shown = {
        one["Name"]: one["State"]
        for one in pod_document(place.ctx.view, pod.record())["Containers"]
    }
    assert (shown["a"], shown["b"]) == ("running", "unknown")


# --- removePod ------------------------------------------------------------------------------------


async def test_rm_names_all_that_are_in_the_way_and_touches_none(place: Place) -> None:
    pod = await place.pod("a", "b", "c")
    await place.runtime.container("b").pause()
    await place.runtime.container("c").stop()
    before = place.states()
    with pytest.raises(InvalidState, match="a is running, b is paused: stop them first or use"):
        await pod.remove()
    assert place.states() == before and not pod.record().removing


async def test_rm_of_a_pod_with_containers_needs_to_be_told_to_remove_them(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "a")
    with pytest.raises(InvalidState, match="it contains containers and cannot be removed"):
        await pod.remove(remove_containers=False)
    assert set(place.states()) == {"infra", "a"}
    await place.runtime.container("a").remove()
    # Nothing but its infra goes without asking.
    await pod.start()
    await pod.remove(remove_containers=False)


async def test_rm_that_cannot_remove_a_container_stays_removing_and_is_resumed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a", "b")
    cgroups = place.ctx.cgroups
    real = cgroups.remove
    refused = place.runtime.container("b").record().cgroup_path

    def fail_for_b(path: str) -> None:
        if path == refused:
            raise OSError(errno.EBUSY, "busy")
        real(path)

    monkeypatch.setattr(cgroups, "remove", fail_for_b)
    with pytest.raises(EngineFailed, match="remove cgroup"):
        await pod.remove(force=True, timeout_s=0)
    monkeypatch.undo()
    assert pod.record().removing
    assert place.states()["b"] == "removing"
    for call in (pod.start, pod.stop, pod.pause, pod.restart):
        with pytest.raises(InvalidState, match="it is being removed"):
            await call()
    await pod.remove(force=True, timeout_s=0)
    assert place.runtime.pods() == []


async def test_rm_that_cannot_remove_the_pod_s_cgroup_goes_on_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a")
    cgroups = place.ctx.cgroups
    real = cgroups.remove
    refused = pod.cgroup_path

    def fail_for_pod(path: str) -> None:
        if path == refused:
            raise OSError(errno.EBUSY, "busy")
        real(path)

    monkeypatch.setattr(cgroups, "remove", fail_for_pod)
    with pytest.raises(EngineFailed, match=f"remove cgroup {refused}"):
        await pod.remove(force=True, timeout_s=0)
    monkeypatch.undo()
    assert place.runtime.pods() == [] and place.runtime.containers() == []
    # What stayed is remembered, and mended.
    assert [finding.kind for finding in await place.runtime.check(repair=True)] == ["cgroup"]


async def test_rm_that_cannot_limit_the_monitor_only_logs_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pod = await place.pod("a")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(place.ctx.cgroups, "update", refuse)
    await pod.remove(force=True, timeout_s=0)
    assert "cannot limit the monitor" in caplog.text
    assert place.runtime.pods() == []


async def test_rm_that_cannot_free_a_lock_removes_the_pod_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = await place.pod("a")
    refused = pod.record().lock
    real = place.ctx.locks.free

    def fail_for_pod(lock: int, owner: str) -> None:
        if lock == refused:
            raise OSError(errno.EIO, "no")
        real(lock, owner)

    monkeypatch.setattr(place.ctx.locks, "free", fail_for_pod)
    with pytest.raises(EngineFailed, match=f"free lock {pod.id}"):
        await pod.remove(force=True, timeout_s=0)
    monkeypatch.undo()
    assert place.runtime.pods() == []
    assert [finding.kind for finding in await place.runtime.check(repair=True)] == ["lock"]


async def test_rm_tells_of_its_end_once_and_after_everything_is_gone(place: Place) -> None:
    pod = await place.pod("a")
    await pod.remove(force=True, timeout_s=0)
    told = [record.event for record in read_events(place.runtime.view)]
    assert [one.id for one in told if one.type == "pod" and one.action is Action.REMOVE] == [pod.id]
    assert told[-1].id == pod.id
    assert place.ctx.store.tables.get(PodRecord, pod.id) is None


async def test_container_config_of_a_member_has_no_cgroup_parent_of_its_own(place: Place) -> None:
    pod = await place.empty_pod()
    config = ContainerConfig(name="a", image="base", pod=pod.id, cgroup_parent="/other")
    with pytest.raises(InvalidConfig, match="--cgroup-parent"):
        await place.runtime.create_container(config)
    assert place.states() == {"infra": "configured"}
