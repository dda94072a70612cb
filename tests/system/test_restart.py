"""Restarting on real processes: one ordered stop and one ordered start, and who is left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from doubles.commands import BUSYBOX, Podrt
from doubles.places import Place, is_gone, open_place, until
from podrt.errors import (
    Busy,
    EngineFailed,
    InvalidState,
    NothingToStart,
    Removed,
    WalkFailed,
)
from podrt.model.container import InitKind
from podrt.model.pod import PodConfig
from podrt.model.states import PodState
from podrt.runtime.pod import Pod

DEAF = ("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.02; done")


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


def net_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


async def restart_failing(pod: Pod) -> dict[str, str]:
    """Restart a pod of which something fails: name -> error, "" for none."""
    names = {container.id: container.name for container in pod.containers()}
    with pytest.raises(WalkFailed) as caught:
        await pod.restart()
    return {names[one]: str(error or "") for one, error in caught.value.outcomes.items()}


async def test_restart_gives_every_member_a_new_process_in_order(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "db")
    await place.add(pod, "web", needs=("db",))
    await place.add(pod, "till", needs=("web",))
    await pod.start()
    names = ("db", "web", "till")
    before = {name: place.pid(name) for name in names}
    ended: list[str] = []

    async def watch(name: str) -> None:
        await place.runtime.container(name).wait()
        ended.append(name)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(watch, name)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await pod.restart() == dict.fromkeys(one.id for one in pod.containers())
    assert ended == ["till", "web", "db"]
    after = {name: place.pid(name) for name in names}
    assert all(map(is_gone, before.values()))
    started = [place.facts(name).started_at_ns for name in names]
    assert started == sorted(started)
    assert len({net_of(pid) for pid in after.values()}) == 1
    assert set(place.states().values()) == {"running"}


async def test_restart_starts_those_that_did_not_run_and_no_init_container(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
    await place.add(pod, "a")
    await pod.start()
    await place.add(pod, "new")
    ended = await place.add(pod, "ended")
    await ended.start()
    await ended.stop()
    assert place.facts("seed").run == 1
    await pod.restart()
    assert place.states() == {
        "infra": "running", "a": "running", "new": "running", "ended": "running", "seed": "exited",
    }  # fmt: skip
    assert place.facts("seed").run == 1


async def test_restart_of_a_pod_never_started_runs_its_init_containers_first(
    place: Place,
) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "seed", "/bin/true", init=InitKind.ONCE)
    await place.add(pod, "check", "/bin/true", init=InitKind.ALWAYS)
    await place.add(pod, "a")
    await pod.restart()
    assert place.states() == {"infra": "running", "check": "stopped", "a": "running"}
    assert place.facts("check").finished_at_ns < place.facts("a").started_at_ns


async def test_restart_with_an_init_container_that_failed_runs_it_again(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "check", "/bin/false", init=InitKind.ALWAYS)
    await place.add(pod, "a")
    for run in (1, 2):
        with pytest.raises(InvalidState, match="init container check exited with code 1"):
            await pod.restart()
        assert place.facts("check").run == run
    assert place.states()["a"] == "configured"


async def test_restart_skips_paused_members_and_refuses_what_needs_them(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "db")
    await place.add(pod, "web", needs=("db",))
    await place.add(pod, "till", needs=("web",))
    await place.add(pod, "other")
    await pod.start()
    before = {name: place.pid(name) for name in ("db", "web", "till", "other")}
    await place.runtime.container("db").pause()
    errors = await restart_failing(pod)
    assert errors.pop(f"{pod.id[:12]}-infra") == errors.pop("db") == errors.pop("other") == ""
    assert "the following dependencies are not running: db" in errors.pop("web")
    assert errors == {"till": "a dependency of container till failed to start: web"}
    after = {name: place.pid(name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"other"}
    assert place.states() | {"db": ""} == dict.fromkeys(place.states(), "running") | {"db": ""}
    assert place.states()["db"] == "paused"
    # The infra stayed up under the paused one's feet.
    assert net_of(after["db"]) == net_of(after["other"])


async def test_restart_of_a_pod_paused_as_a_whole_touches_nobody(place: Place) -> None:
    pod = await place.pod("a", "b")
    pids = [place.pid(name) for name in "ab"]
    await pod.pause()
    assert await pod.restart() == dict.fromkeys(one.id for one in pod.containers())
    assert [place.pid(name) for name in "ab"] == pids
    assert pod.state() is PodState.PAUSED


async def test_restart_fails_only_what_needs_the_one_that_cannot_start(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "db", "/bin/plain")
    await place.add(pod, "web", needs=("db",))
    await place.add(pod, "other")
    errors = await restart_failing(pod)
    assert "exec" in errors["db"] and "a dependency of container web" in errors["web"]
    assert errors["other"] == "" and place.states()["other"] == "running"


async def test_restart_is_ended_by_a_stop_and_nothing_comes_up_after_it(place: Place) -> None:
    pod = await place.empty_pod()
    deaf = await place.add(pod, "deaf", *DEAF, stop_timeout_s=1000)
    await place.add(pod, "a")
    await pod.start()
    await until(lambda: any(True for _ in deaf.logs()))
    outcome: list[BaseException] = []

    async def restart() -> None:
        try:
            await pod.restart()
        except Busy as exc:
            outcome.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(restart)
        await until(lambda: place.states()["deaf"] == "stopping")
        await pod.stop(timeout_s=0)
    assert "ended by stop" in str(outcome[0])
    assert pod.state() is PodState.EXITED


async def test_restart_with_a_grace_period_of_its_own_overrides_each_one(place: Place) -> None:
    pod = await place.empty_pod()
    deaf = await place.add(pod, "deaf", *DEAF, stop_timeout_s=1000)
    await pod.start()
    await until(lambda: any(True for _ in deaf.logs()))
    before = place.pid("deaf")
    await pod.restart(timeout_s=0)
    assert place.pid("deaf") != before and place.states()["deaf"] == "running"
    await pod.kill(signal.SIGKILL)


async def test_restart_of_many_pods_gives_the_result_of_each(place: Place) -> None:
    pods = [await place.pod(f"{name}1", pod=name) for name in ("one", "two")]
    config = PodConfig(name="none", infra=False, cgroup_parent=place.cgroup_parent)
    empty = await place.runtime.create_pod(config)
    results = await place.runtime.restart_pods([*pods, empty])
    assert isinstance(results[empty.id], NothingToStart)
    for pod in pods:
        assert results[pod.id] == dict.fromkeys(one.id for one in pod.containers())


async def test_restart_of_one_container_leaves_its_pod_alone(place: Place) -> None:
    pod = await place.pod("a", "b")
    first, second = place.pid("a"), place.pid("b")
    one = place.runtime.container("a")
    await one.restart()
    assert is_gone(first) and place.pid("a") != first
    assert place.pid("b") == second
    assert net_of(place.pid("a")) == net_of(second)
    await one.stop()
    await one.restart()
    assert place.states()["a"] == "running"
    assert pod.state() is PodState.RUNNING


async def test_restart_of_one_that_could_not_come_back_leaves_it_running(place: Place) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "db")
    web = await place.add(pod, "web", needs=("db",))
    await pod.start()
    before = place.pid("web")
    db = place.runtime.container("db")
    await db.stop()
    with pytest.raises(InvalidState, match="dependencies are not running: db"):
        await web.restart()
    assert place.pid("web") == before and place.states()["web"] == "running"
    await db.start()
    await db.pause()
    with pytest.raises(InvalidState, match="unable to restart a container in a paused"):
        await db.restart()
    infra = place.runtime.container(f"{pod.id[:12]}-infra")
    with pytest.raises(InvalidState, match="restart the pod instead"):
        await infra.restart()


async def test_restart_of_one_that_cannot_run_says_why(place: Place) -> None:
    container = await place.add(None, "a", "/bin/nothing")
    with pytest.raises(EngineFailed, match="not found"):
        await container.restart()
    await container.remove()
    with pytest.raises(Removed):
        await container.restart()


# --- the command line -----------------------------------------------------------------------------


def test_restart_from_the_command_line_prints_words_and_refuses_wrong_ones(podrt: Podrt) -> None:
    podrt.pod("shop")
    for name in ("a", "b"):
        podrt(
            "create", "--pod", "shop", "--name", name, "--stop-timeout", "0",
            "base", "/bin/sleep", "1000",
        )  # fmt: skip
    assert podrt("pod", "restart", "-t", "0", "shop") == "shop\n"
    podrt("stop", "b")
    assert podrt.fails(125, "restart", "a", "nothing") == "no such container: nothing"
    assert podrt.fails(125, "pod", "restart", "nothing") == "no such pod: nothing"
    assert "is negative" in podrt.fails(125, "restart", "--time", "-1", "a")
    assert "provide at least one name" in podrt.fails(125, "restart")
    a_id = podrt.listed("ps", "--filter", "name=^a$")[0]["Id"]
    assert podrt("restart", "--running", "--time", "0") == f"{a_id}\n"
    assert len(podrt("restart", "--all").split()) == 2
