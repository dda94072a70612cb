"""Restart and exit policies on real processes, kept while no podrt runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doubles.commands import BUSYBOX, Podrt, command_environment, monitors_of
from doubles.places import SLEEP, Place, is_gone, open_place, until
from podrt.errors import InvalidState
from podrt.model.container import ContainerConfig, InitKind
from podrt.model.pod import ExitPolicy, PodConfig
from podrt.model.states import ContainerState, PodState
from podrt.model.verbs import Verb
from podrt.runtime.claims import claim
from podrt.runtime.container import Container
from podrt.runtime.pod import Pod

FAILING = ("/bin/sh", "-c", "exit 3")
AGAIN = ("/bin/sh", "-c", "[ -e /tmp/n ] && exec sleep 1000; echo > /tmp/n; exit 3")


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


async def pod_with(
    place: Place, *, restart: str = "", exit_policy: ExitPolicy = ExitPolicy.CONTINUE
) -> Pod:
    return await place.runtime.create_pod(
        PodConfig(
            name="shop",
            cgroup_parent=place.cgroup_parent,
            restart_policy=restart,
            exit_policy=exit_policy,
        )
    )


async def lone(
    place: Place, *command: str, restart: str = "", auto_remove: bool = False
) -> Container:
    return await place.runtime.create_container(
        ContainerConfig(
            name="a",
            image="base",
            command=command,
            restart_policy=restart,
            auto_remove=auto_remove,
            stop_timeout_s=0,
            cgroup_parent=place.cgroup_parent,
        )
    )


def kill_monitor(place: Place, group_id: str) -> None:
    (pid,) = monitors_of(place.ctx.layout.group_run(group_id))
    os.kill(pid, signal.SIGKILL)


async def until_state(container: Container, state: ContainerState) -> None:
    await until(lambda: container.state() is state)


def settlers(place: Place) -> list[int]:
    """The running `system settle` of this place."""
    root = place.runtime.settings.root.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"settle" in words and root in words and words[0] != b"podrt-monitor":
                found.append(int(entry.name))
    return found


# --- restart policies ---------------------------------------------------------------------------


async def test_always_is_started_again_and_shown_until_it_is_stopped(place: Place) -> None:
    one = await lone(place, *FAILING, restart="always")
    await one.start()
    await until(lambda: one.facts().restarts >= 2)
    await until_state(one, ContainerState.RESTARTING)
    await one.stop()
    facts = one.facts()
    assert (facts.exit_code, facts.by_user) == (3, True)
    assert one.state() is ContainerState.EXITED
    assert facts.run == 1 + facts.restarts
    assert one.record().user_stopped


async def test_count_begins_anew_with_a_start_by_hand(place: Place) -> None:
    one = await lone(place, *FAILING, restart="on-failure:1")
    await one.start()
    assert await one.wait() == 3
    assert (one.facts().restarts, one.facts().run) == (1, 2)
    await one.start()
    assert one.facts().run >= 3
    assert await one.wait() == 3
    assert (one.facts().restarts, one.facts().run) == (1, 4)


async def test_pod_default_is_for_ordinary_members_only(place: Place) -> None:
    pod = await pod_with(place, restart="always")
    await place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
    again = await place.add(pod, "again", *AGAIN)
    own = await place.runtime.create_container(
        ContainerConfig(name="own", image="base", pod=pod.id, command=FAILING, restart_policy="no")
    )
    await pod.start()
    await until(lambda: again.facts().restarts == 1 and again.state() is ContainerState.RUNNING)
    await until_state(own, ContainerState.STOPPED)
    assert place.facts("seed").run == 1
    assert (own.facts().run, own.facts().restarts) == (1, 0)
    infra = [one for one in pod.containers() if one.record().config.is_infra]
    assert infra[0].state() is ContainerState.RUNNING


async def test_pod_with_one_in_back_off_has_not_ended_and_is_not_pruned(place: Place) -> None:
    pod = await pod_with(place, restart="always")
    one = await place.add(pod, "a", *FAILING)
    await pod.start()
    await until(lambda: one.facts().restarts >= 3)
    await until_state(one, ContainerState.RESTARTING)
    assert pod.state() is PodState.DEGRADED
    assert await place.runtime.prune_pods() == {}
    await pod.stop()
    assert pod.state() is PodState.EXITED
    assert list(await place.runtime.prune_pods()) == [pod.id]


async def test_killed_by_the_user_is_not_started_again_killed_by_others_is(place: Place) -> None:
    one = await lone(place, *SLEEP, restart="always")
    await one.start()
    os.kill(place.pid("a"), signal.SIGKILL)
    await until(lambda: one.facts().restarts == 1 and one.state() is ContainerState.RUNNING)
    await one.kill(signal.SIGKILL)
    await until_state(one, ContainerState.STOPPED)
    assert one.facts().restarts == 1


@pytest.mark.parametrize("verb", ["stop", "kill", "remove", "force", "restart", "start"])
async def test_verb_in_back_off_calls_it_off(place: Place, verb: str) -> None:
    one = await lone(place, *FAILING, restart="always")
    await one.start()
    await until(lambda: one.facts().restarts >= 2)
    await until_state(one, ContainerState.RESTARTING)
    run = one.facts().run
    if verb == "stop":
        await one.stop()
    elif verb == "kill":
        await one.kill(signal.SIGTERM)
    elif verb in ("remove", "force"):
        await one.remove(force=verb == "force")
        assert place.runtime.containers() == []
        return
    elif verb == "restart":
        await one.restart()
    else:
        await one.start()
    if verb in ("stop", "kill"):
        assert one.state() in (ContainerState.STOPPED, ContainerState.EXITED)
        assert one.facts().run >= run
    else:
        assert one.facts().run > run
        await one.stop()
    assert one.facts().by_user


async def test_signal_that_does_not_end_finds_nobody_in_back_off(place: Place) -> None:
    one = await lone(place, *FAILING, restart="always")
    await one.start()
    await until(lambda: one.facts().restarts >= 3)
    await until_state(one, ContainerState.RESTARTING)
    with pytest.raises(InvalidState, match="can only kill running containers"):
        await one.kill(signal.SIGHUP)
    await one.stop()


async def test_back_off_is_kept_by_the_next_monitor(place: Place) -> None:
    pod = await pod_with(place)
    one = await place.runtime.create_container(
        ContainerConfig(
            name="a", image="base", pod=pod.id, command=FAILING, restart_policy="on-failure:4"
        )
    )
    await pod.start()
    await until(lambda: one.facts().restarts >= 2)
    await until_state(one, ContainerState.RESTARTING)
    kill_monitor(place, pod.id)
    assert one.state() is ContainerState.RESTARTING
    # Whoever waits is the next command.
    assert await one.wait() == 3
    assert (one.facts().restarts, one.facts().run) == (4, 5)


async def test_one_taken_over_is_started_again_by_the_next_monitor(place: Place) -> None:
    pod = await pod_with(place, restart="always")
    one = await place.add(pod, "a")
    await place.add(pod, "b")
    await place.runtime.container("a").start()
    kill_monitor(place, pod.id)
    await place.runtime.container("b").start()
    os.kill(place.pid("a"), signal.SIGKILL)
    await until(lambda: one.facts().restarts == 1 and one.state() is ContainerState.RUNNING)
    assert one.facts().run == 2


async def test_one_that_ended_without_a_monitor_is_started_again_by_the_next(
    place: Place,
) -> None:
    pod = await pod_with(place, restart="on-failure:1")
    one = await place.add(pod, "a")
    await place.add(pod, "b")
    await one.start()
    pid = place.pid("a")
    kill_monitor(place, pod.id)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: is_gone(pid))
    await place.runtime.container("b").start()
    await until(lambda: one.facts().restarts == 1 and one.state() is ContainerState.RUNNING)


async def test_check_finds_and_mends_what_no_monitor_keeps(place: Place) -> None:
    one = await lone(place, *FAILING, restart="on-failure:4")
    await one.start()
    await until(lambda: one.facts().restarts >= 3)
    await until_state(one, ContainerState.RESTARTING)
    kill_monitor(place, one.id)
    await until(lambda: not monitors_of(place.ctx.layout.group_run(one.id)))
    problems = [found.problem for found in await place.runtime.check()]
    assert "no monitor keeps its policies" in problems
    await place.runtime.check(repair=True)
    await until_state(one, ContainerState.STOPPED)
    assert one.facts().restarts == 4


async def test_one_the_user_stopped_stays_so_under_the_next_monitor(place: Place) -> None:
    pod = await pod_with(place, restart="always")
    one = await place.add(pod, "a")
    await place.add(pod, "b")
    await pod.start()
    await one.stop()
    kill_monitor(place, pod.id)
    await place.runtime.container("b").restart()
    assert one.state() is ContainerState.EXITED
    assert one.facts().restarts == 0


async def test_stops_against_restarts_end_stopped(place: Place) -> None:
    one = await lone(place, *FAILING, restart="always")
    for _ in range(8):
        await one.start()
        await until(lambda: one.facts().restarts >= 1)
        await one.stop()
        assert one.state() is ContainerState.EXITED
        assert one.facts().by_user


# --- exit policies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "first", "second"),
    [
        (ExitPolicy.CONTINUE, PodState.DEGRADED, PodState.EXITED),
        (ExitPolicy.STOP, PodState.DEGRADED, PodState.EXITED),
        (ExitPolicy.STOP_ANY, PodState.EXITED, PodState.EXITED),
    ],
)
async def test_exit_policy_decides_what_becomes_of_the_pod(
    place: Place, policy: ExitPolicy, first: PodState, second: PodState
) -> None:
    pod = await pod_with(place, exit_policy=policy)
    await place.add(pod, "a")
    await place.add(pod, "b")
    await pod.start()
    pids = [place.pid("a"), place.pid("b")]
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: pod.state() is first)
    if first is not PodState.EXITED:
        os.kill(pids[1], signal.SIGKILL)
    await until(lambda: pod.state() is second)
    states = place.states()
    if policy is ExitPolicy.CONTINUE:
        assert states == {"infra": "running", "a": "stopped", "b": "stopped"}
        return
    await until(lambda: set(place.states().values()) == {"exited"})
    await until(lambda: not monitors_of(place.ctx.layout.group_run(pod.id)))
    assert not place.ctx.cgroups.exists(pod.record().cgroup_path)
    assert not place.runtime.container("b").record().user_stopped
    await pod.start()
    assert pod.state() is PodState.RUNNING


async def test_exit_policy_waits_for_one_in_back_off(place: Place) -> None:
    pod = await pod_with(place, restart="on-failure:2", exit_policy=ExitPolicy.STOP)
    one = await place.add(pod, "a", *FAILING)
    await pod.start()
    await until(lambda: set(place.states().values()) == {"exited"})
    assert (one.facts().restarts, one.facts().exit_code) == (2, 3)


async def test_stop_of_the_last_container_ends_the_pod(place: Place) -> None:
    pod = await pod_with(place, restart="always", exit_policy=ExitPolicy.STOP)
    one = await place.add(pod, "a")
    await pod.start()
    await one.stop()
    await until(lambda: set(place.states().values()) == {"exited"})
    assert one.record().user_stopped


async def test_settling_that_was_killed_is_done_all_the_same(place: Place) -> None:
    pod = await pod_with(place, exit_policy=ExitPolicy.STOP)
    await place.add(pod, "a")
    await pod.start()
    async with claim(place.ctx, pod.id, Verb.START):
        os.kill(place.pid("a"), signal.SIGKILL)
        await until(lambda: settlers(place) != [])
        for pid in settlers(place):
            os.kill(pid, signal.SIGKILL)
    await until(lambda: set(place.states().values()) == {"exited"})


async def test_settling_twice_changes_nothing(place: Place) -> None:
    pod = await pod_with(place, exit_policy=ExitPolicy.STOP_ANY)
    await place.add(pod, "a")
    await place.add(pod, "b")
    await pod.start()
    await place.runtime.settle(pod.id)
    assert pod.state() is PodState.RUNNING
    os.kill(place.pid("a"), signal.SIGKILL)
    await until(lambda: set(place.states().values()) == {"exited"})
    # What ended in an earlier life of the pod does not end this one.
    await place.runtime.container("b").start()
    await place.runtime.settle(pod.id)
    assert place.states()["b"] == "running"


# --- removal at the end -------------------------------------------------------------------------


async def test_removed_at_its_end_alone_and_in_a_pod(place: Place) -> None:
    pod = await pod_with(place, exit_policy=ExitPolicy.STOP)
    await place.runtime.create_container(
        ContainerConfig(name="b", image="base", pod=pod.id, command=SLEEP, auto_remove=True)
    )
    one = await lone(place, *SLEEP, auto_remove=True)
    await one.start()
    await pod.start()
    for name in ("a", "b"):
        os.kill(place.pid(name), signal.SIGKILL)
    await until(lambda: place.states() == {"infra": "exited"})
    assert one.id not in os.listdir(place.ctx.layout.containers_dir)


async def test_removed_at_its_end_waits_for_its_restarts(place: Place) -> None:
    one = await lone(place, *FAILING, restart="on-failure:1", auto_remove=True)
    await one.start()
    run = one.facts().run
    await until(lambda: place.states() == {})
    assert run >= 1


def test_run_whose_client_died_is_removed_at_its_end(podrt: Podrt) -> None:
    words = ("run", "--rm", "--name", "a", "--cgroup-parent", podrt.cgroup_parent, "base")
    client = subprocess.Popen(podrt.words(*words, *SLEEP), env=command_environment())
    try:
        wait_for(podrt, lambda found: found and found[0]["State"] == "running")
    finally:
        client.kill()
        client.wait()
    podrt("kill", "--signal", "KILL", "a")
    wait_for(podrt, lambda found: not found)


def wait_for(podrt: Podrt, is_so: Any) -> list[dict[str, Any]]:
    """The containers once `is_so` says yes to them."""
    for _ in range(200):
        found = podrt.listed("ps", "--all")
        if is_so(found):
            return found
    raise AssertionError(found)


# --- the command line ---------------------------------------------------------------------------


def test_listings_show_who_is_started_again(podrt: Podrt) -> None:
    parent = ("--cgroup-parent", podrt.cgroup_parent)
    podrt("run", "-d", "--name", "a", *parent, "--restart", "on-failure:7", "base", *FAILING)
    wait_for(podrt, lambda found: found[0]["Restarts"] >= 3 and found[0]["State"] == "restarting")
    assert "Restarting (3) in " in podrt("ps", "--all")
    (document,) = msgspec.json.decode(podrt("inspect", "a"))
    assert document["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 7}
    assert document["RestartCount"] >= 3
    assert podrt("ps", "-aq", "--filter", "restart-policy=on-failure") != ""
    assert podrt("ps", "-aq", "--filter", "restart-policy=always") == ""
    podrt("rm", "a")


def test_start_of_those_that_a_boot_should_start(podrt: Podrt) -> None:
    parent = ("--cgroup-parent", podrt.cgroup_parent, "--stop-timeout", "0")
    names = {"always": "always", "kept": "unless-stopped", "stopped": "unless-stopped", "no": "no"}
    for name, policy in names.items():
        podrt("create", "--name", name, *parent, "--restart", policy, "base", *SLEEP)
    podrt("start", "stopped")
    podrt("stop", "stopped")
    podrt("start", "--filter", "should-start-on-boot=true")
    running = {one["Names"][0] for one in podrt.listed("ps")}
    assert running == {"always", "kept"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--restart", "sometimes"), "--restart"),
        (("--rm", "--restart", "always"), "the --rm option conflicts with --restart"),
        (("--init-ctr", "once", "--pod", "new:p", "--restart", "always"), "sidecars"),
    ],
)
def test_policy_that_cannot_be_is_refused(podrt: Podrt, words: tuple[str, ...], said: str) -> None:
    assert said in podrt.fails(125, "create", *words, "base", *SLEEP)


def test_settle_of_a_group_that_is_gone_is_silent(podrt: Podrt) -> None:
    assert podrt("system", "settle", "ab" * 32) == ""
