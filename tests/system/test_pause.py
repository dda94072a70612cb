"""Pausing on real processes: what stands still, what goes on, and what a frozen one survives."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from doubles.commands import BUSYBOX, Podrt, monitors_of
from doubles.places import (
    Place,
    cpu_ticks,
    freezer_of,
    is_frozen,
    is_frozen_itself,
    is_gone,
    open_place,
    until,
)
from podrt.engines.wire import Kind
from podrt.errors import InvalidState, Unsupported, WalkFailed
from podrt.model.states import PodState
from podrt.runtime.group import open_group
from podrt.runtime.pod import Pod
from podrt.store.journal import JournalReader
from podrt.store.journal import Kind as Fact


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


def pauses_in_journal(place: Place, pod: Pod) -> list[tuple[int, str]]:
    """What the pod's journal says of pauses: (kind, whose)."""
    reader = JournalReader(place.ctx.layout.journal(pod.id, 1))
    try:
        pauses = (Fact.PAUSED, Fact.UNPAUSED)
        return [(record.kind, record.id) for record in reader.read() if record.kind in pauses]
    finally:
        reader.close()


async def test_pause_of_a_pod_that_runs_freezes_its_cgroup_in_one_write(place: Place) -> None:
    pod = await place.pod("a", "b")
    groups = [place.freezer("a"), place.freezer("b")]
    members = dict.fromkeys(container.id for container in pod.containers())
    assert await pod.pause() == members
    assert is_frozen_itself(groups[0].parent) and groups[0].parent.name == pod.id
    assert all(is_frozen(group) and not is_frozen_itself(group) for group in groups)
    assert pod.state() is PodState.PAUSED
    assert place.states() == {"infra": "paused", "a": "paused", "b": "paused"}
    assert await pod.pause() == members
    assert pauses_in_journal(place, pod) == [(Fact.PAUSED, pod.id)]
    assert await pod.unpause() == members
    assert pauses_in_journal(place, pod) == [(Fact.PAUSED, pod.id), (Fact.UNPAUSED, pod.id)]
    assert not any(map(is_frozen, groups))
    assert pod.state() is PodState.RUNNING
    assert set(place.states().values()) == {"running"}
    assert await place.runtime.unpause_pods([pod]) == {pod.id: members}


async def test_pause_of_a_pod_stops_the_clock_of_its_processes(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "a", "/bin/sh", "-c", "while :; do :; done")
    await pod.start()
    pid = place.pid("a")
    await until(lambda: cpu_ticks(pid) > 1)
    await pod.pause()
    before = cpu_ticks(pid)
    # Ten times what a running one needs for a tick.
    await trio.sleep(0.1)
    assert cpu_ticks(pid) == before
    await pod.unpause()
    await until(lambda: cpu_ticks(pid) > before)


async def test_pause_of_a_pod_with_an_ended_member_freezes_only_what_runs(place: Place) -> None:
    pod = await place.pod("a", "b")
    ended = place.runtime.container("b")
    await ended.stop()
    await pod.pause()
    group = place.freezer("a")
    assert is_frozen_itself(group) and not is_frozen(group.parent)
    assert place.states() == {"infra": "running", "a": "paused", "b": "exited"}
    await ended.start()
    assert place.states()["b"] == "running" and is_frozen(group)
    await pod.unpause()
    assert not is_frozen(group)


async def test_unpause_of_one_member_leaves_the_others_frozen(place: Place) -> None:
    pod = await place.pod("a", "b", "c")
    groups = [place.freezer(name) for name in "abc"]
    one = place.runtime.container("b")
    await pod.pause()
    await one.unpause()
    assert [is_frozen(group) for group in groups] == [True, False, True]
    assert place.states() == {"infra": "running", "a": "paused", "b": "running", "c": "paused"}
    assert pod.state() is PodState.DEGRADED
    await one.pause()
    assert pod.state() is PodState.PAUSED
    await pod.unpause()
    assert set(place.states().values()) == {"running"}
    assert not any(map(is_frozen, groups))


async def test_kill_of_a_paused_member_ends_it_and_no_other(place: Place) -> None:
    pod = await place.pod("a", "b")
    first, second = place.pid("a"), place.pid("b")
    await pod.pause()
    await place.runtime.container("a").kill(signal.SIGKILL)
    assert await place.runtime.container("a").wait() == 137
    assert is_gone(first) and not is_gone(second)
    assert place.states()["b"] == "paused" and is_frozen(freezer_of(second))
    await pod.kill(signal.SIGKILL)
    assert await place.runtime.container("b").wait() == 137
    await pod.start()
    assert set(place.states().values()) == {"running"}


async def test_kill_of_a_pod_that_is_paused_ends_all_of_it(place: Place) -> None:
    pod = await place.pod("a", "b", "c")
    await pod.pause()
    await pod.kill(signal.SIGKILL)
    for name in "abc":
        assert await place.runtime.container(name).wait() == 137


async def test_gentle_signal_to_a_paused_container_arrives_when_it_is_unpaused(
    place: Place,
) -> None:
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done"
    container = await place.add(None, "a", "/bin/sh", "-c", script)
    await container.start()
    await until(lambda: any(True for _ in container.logs()))
    await container.pause()
    await container.kill(signal.SIGTERM)
    assert place.states() == {"a": "paused"}
    await container.unpause()
    assert await container.wait() == 3


async def test_removal_by_force_ends_what_is_paused(place: Place) -> None:
    pod = await place.pod("a", "b")
    alone = await place.add(None, "alone")
    await alone.start()
    pids = [place.pid(name) for name in ("a", "b", "alone")]
    await pod.pause()
    await alone.pause()
    with pytest.raises(InvalidState, match="a is paused"):
        await pod.remove()
    with pytest.raises(InvalidState, match="it is running"):
        await alone.remove()
    await place.runtime.container("a").remove(force=True)
    await alone.remove(force=True)
    assert [is_gone(pid) for pid in pids] == [True, False, True]
    assert place.states() == {"infra": "running", "b": "paused"}
    await pod.remove(force=True)
    assert is_gone(pids[1])


async def test_removal_by_force_of_a_pod_frozen_as_a_whole_ends_all_of_it(place: Place) -> None:
    pod = await place.pod("a", "b", "c")
    pids = [place.pid(name) for name in "abc"]
    await pod.pause()
    await pod.remove(force=True)
    assert all(map(is_gone, pids))
    assert place.states() == {}


async def test_stop_leaves_paused_members_and_what_they_live_in(place: Place) -> None:
    pod = await place.pod("a", "b")
    first = place.pid("a")
    paused = place.runtime.container("a")
    await paused.pause()
    with pytest.raises(InvalidState, match="it is paused"):
        await paused.stop()
    await pod.stop()
    assert place.states() == {"infra": "running", "a": "paused", "b": "exited"}
    await place.runtime.container("b").start()
    assert os.readlink(f"/proc/{place.pid('b')}/ns/net") == os.readlink(f"/proc/{first}/ns/net")
    with pytest.raises(InvalidState, match="is paused"):
        await paused.start()


async def test_start_in_a_pod_frozen_as_a_whole_leaves_the_paused_ones_paused(
    place: Place,
) -> None:
    pod = await place.pod("a", "b")
    await pod.pause()
    assert is_frozen_itself(place.freezer("a").parent)
    added = await place.add(pod, "c")
    await added.start()
    assert place.states() == {"infra": "running", "a": "paused", "b": "paused", "c": "running"}
    assert is_frozen(place.freezer("a")) and not is_frozen(place.freezer("c"))


async def test_start_of_what_needs_a_paused_one_is_refused(place: Place) -> None:
    pod = await place.pod("db")
    web = await place.add(pod, "web", needs=("db",))
    await place.runtime.container("db").pause()
    with pytest.raises(InvalidState, match="dependencies are not running: db"):
        await web.start()


async def test_members_killed_behind_our_back_in_a_frozen_pod_can_be_started_again(
    place: Place,
) -> None:
    pod = await place.pod("a")
    pid = place.pid("a")
    await pod.pause()
    os.kill(pid, signal.SIGKILL)
    state = freezer_of(pid).parent / "freezer.state"
    if state.exists():
        # cgroup v1 keeps the signal from it.
        state.write_text("THAWED")
    assert await place.runtime.container("a").wait() == 137
    await pod.start()
    assert place.states() == {"infra": "running", "a": "running"}


async def test_pause_outlives_the_death_of_the_monitor(place: Place) -> None:
    pod = await place.pod("a", "b")
    await pod.pause()
    (monitor,) = monitors_of(place.ctx.settings.runroot)
    os.kill(monitor, signal.SIGKILL)
    await until(lambda: is_gone(monitor))
    assert place.states() | {"infra": ""} == {"infra": "", "a": "paused", "b": "paused"}
    await place.runtime.container("a").unpause()
    assert (place.states()["a"], place.states()["b"]) == ("running", "paused")
    await pod.unpause()
    assert not is_frozen(place.freezer("b"))


async def test_pause_cut_off_before_its_freeze_is_mended_by_the_next(place: Place) -> None:
    container = await place.add(None, "a")
    await container.start()
    async with open_group(place.ctx, container.id, place.cgroup_parent) as monitor:
        await monitor.note(Kind.PAUSE, container.id)
    group = place.freezer("a")
    assert place.states() == {"a": "paused"} and not is_frozen(group)
    await container.pause()
    assert is_frozen(group)
    await container.unpause()
    assert place.states() == {"a": "running"} and not is_frozen(group)


async def test_pause_of_a_process_with_a_kill_underway_lets_it_die(place: Place) -> None:
    container = await place.add(None, "a")
    await container.start()
    pid = place.pid("a")
    place.ctx.cgroups.freeze(container.record().cgroup_path)
    os.kill(pid, signal.SIGKILL)
    if not is_gone(pid):
        await container.pause()
    assert await container.wait() == 137
    await container.start()
    assert place.states() == {"a": "running"}


async def test_pause_waits_for_the_verb_that_works_on_the_pod(place: Place) -> None:
    pod = await place.empty_pod()
    for name in ("a", "b", "c"):
        await place.add(pod, name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pod.start)
        nursery.start_soon(pod.pause)
    # Whoever came first, nothing is half paused.
    assert pod.state() in (PodState.PAUSED, PodState.RUNNING)
    await pod.pause()
    assert pod.state() is PodState.PAUSED


async def test_pause_without_cgroups_is_an_error_and_says_nothing_to_the_journal(
    tmp_path: Path,
) -> None:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, "", cgroup_manager="disabled") as place:
        pod = await place.pod("a")
        with pytest.raises(Unsupported):
            await place.runtime.container("a").pause()
        with pytest.raises(WalkFailed):
            await pod.pause()
        assert pod.state() is PodState.RUNNING
        assert pauses_in_journal(place, pod) == []


# --- the command line -----------------------------------------------------------------------------

SLEEP = ("base", "/bin/sleep", "1000")


def test_pause_of_what_cannot_be_is_refused_before_anything_is_touched(podrt: Podrt) -> None:
    pod_id = podrt.pod("shop")
    podrt("run", "-d", "--pod", "shop", "--name", "a", "--stop-timeout", "0", *SLEEP)
    assert podrt.fails(125, "pause", "a", "nothing") == "no such container: nothing"
    assert podrt.fails(125, "pod", "pause", "shop", "nothing") == "no such pod: nothing"
    assert "is not paused, can't unpause" in podrt.fails(125, "unpause", "a")
    assert "provide at least one name" in podrt.fails(125, "pause")
    assert "no arguments are needed with --all" in podrt.fails(125, "pause", "--all", "a")
    assert "pause the pod instead" in podrt.fails(125, "pause", f"{pod_id[:12]}-infra")
    assert podrt("pause", "a") == "a\n"
    assert "already paused" in podrt.fails(125, "pause", "a")
    assert podrt("pod", "unpause", "shop") == "shop\n"


def test_pause_of_all_takes_those_that_run_and_of_filters_those_that_match(
    podrt: Podrt, tmp_path: Path
) -> None:
    podrt.pod("shop")
    ids = [
        podrt("run", "-d", "--pod", "shop", "--name", name, "--stop-timeout", "0", *SLEEP)
        for name in "ab"
    ]
    new = podrt("create", "--pod", "shop", "--name", "new", *SLEEP)
    (tmp_path / "cid").write_text(ids[1])
    assert sorted(podrt("pause", "--all").splitlines(True)) == sorted(ids)
    assert podrt("unpause", "--filter", "name=^a$") == ids[0]
    assert podrt("unpause", "--cidfile", str(tmp_path / "cid")) == ids[1]
    assert podrt("unpause", "--all") == ""
    assert "is not running, can't pause" in podrt.fails(125, "pause", new.strip())
