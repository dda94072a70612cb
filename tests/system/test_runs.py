"""Each start of a container has a run number of its own, whatever ends when."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from doubles.commands import BUSYBOX, monitors_of
from doubles.places import Place, is_gone, open_place, until
from podrt.engines.liveness import has_monitor
from podrt.engines.wire import Kind
from podrt.errors import InvalidState
from podrt.model.states import ContainerState
from podrt.runtime import teardown
from podrt.runtime.group import open_group
from podrt.runtime.start import Starter


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


async def test_start_of_one_that_ended_behind_the_wish_is_seen_to_run(place: Place) -> None:
    pod = await place.pod("a")
    first = place.facts("a")
    async with open_group(place.ctx, pod.id, place.cgroup_parent) as monitor:
        starter = Starter(place.ctx, monitor, pod.record(), {})
        member = place.runtime.container("a")
        # It still runs when everybody gets the next number, and has ended when its turn comes.
        starter.wish({member.id})
        await member.kill(signal.SIGKILL)
        await until(lambda: is_gone(first.pid) and place.states()["a"] != "running")
        await starter.act(member.id)
    assert place.states()["a"] == "running"
    assert place.facts("a").run == first.run + 1
    pid = place.pid("a")
    assert pid != first.pid
    await pod.stop(timeout_s=0)
    await until(lambda: is_gone(pid))


async def test_start_behind_a_removal_that_was_cut_short_is_refused(place: Place) -> None:
    lone = await place.add(None, "a")
    await lone.start()
    record = lone.record()
    pid = place.pid("a")
    # As if the removal had been killed right after it told the monitor.
    await teardown._mark_container(place.ctx, lone.id)
    async with open_group(place.ctx, lone.id, place.cgroup_parent) as monitor:
        await monitor.note(Kind.REMOVING, lone.id)
        await teardown.end_process(place.ctx, monitor, record, 0)
    with pytest.raises(InvalidState, match="it is being removed"):
        await lone.start()
    assert [finding.kind for finding in await place.runtime.check(repair=True)] == ["container"]
    await until(lambda: is_gone(pid))
    assert place.runtime.containers() == []


async def test_forced_removal_marks_before_it_tells_the_monitor(place: Place) -> None:
    lone = await place.add(None, "a")
    await lone.start()
    for monitor in monitors_of(place.ctx.layout.group_run(lone.id)):
        os.kill(monitor, signal.SIGSTOP)
    stopped = monitors_of(place.ctx.layout.group_run(lone.id))
    assert has_monitor(place.ctx.layout, lone.id)
    try:
        with trio.move_on_after(0.5):
            await lone.remove(force=True)
        assert lone.state() is ContainerState.REMOVING
    finally:
        for monitor in stopped:
            os.kill(monitor, signal.SIGCONT)
    await place.runtime.check(repair=True)
    assert place.runtime.containers() == []


async def test_forced_removal_of_one_that_is_frozen_and_said_to_run_ends_it(place: Place) -> None:
    pod = await place.pod("a")
    record = place.runtime.container("a").record()
    # As if whoever was stopping or thawing it had been killed.
    place.ctx.cgroups.freeze(record.cgroup_path)
    with trio.fail_after(20):
        await pod.remove(force=True, timeout_s=0)


async def test_stop_of_one_that_is_frozen_and_said_to_run_ends_it(place: Place) -> None:
    pod = await place.pod("a")
    record = place.runtime.container("a").record()
    place.ctx.cgroups.freeze(record.cgroup_path)
    with trio.fail_after(20):
        await pod.stop(timeout_s=0)
    assert place.states()["a"] == "exited"


async def test_restart_of_one_whose_pod_is_frozen_and_said_to_run_runs_it_again(
    place: Place,
) -> None:
    pod = await place.pod("a")
    pid = place.pid("a")
    place.ctx.cgroups.freeze(pod.record().cgroup_path)
    with trio.fail_after(20):
        await place.runtime.container("a").restart(timeout_s=0)
    assert place.states()["a"] == "running"
    assert place.pid("a") != pid
