"""Pruning: what has ended goes, what may still be wanted stays."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from doubles.commands import BUSYBOX, Podrt, command_environment
from doubles.places import Place, open_place
from podrt.errors import InvalidState
from podrt.model.states import PodState
from podrt.model.verbs import Verb
from podrt.runtime import teardown
from podrt.runtime.claims import claim
from podrt.runtime.group import open_group
from podrt.runtime.order import member_graph
from podrt.runtime.start import Starter, load_pod


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


async def test_prune_takes_exited_and_stopped_pods_only(place: Place) -> None:
    pods = {name: await place.pod(f"{name}1", pod=name) for name in ("runs", "exited", "stopped")}
    pods["empty"] = await place.empty_pod("empty")
    pods["paused"] = await place.pod("p1", "p2", pod="paused")
    await pods["exited"].stop()
    await place.add(pods["stopped"], "never")
    await pods["stopped"].stop()
    await place.runtime.container("p1").pause()
    await place.runtime.container("p2").stop()
    # By its states alone the paused one could go, too.
    assert pods["stopped"].state() is pods["paused"].state() is PodState.STOPPED
    gone = {pods["exited"].id: None, pods["stopped"].id: None}
    assert await place.runtime.prune_pods() == gone
    assert {pod.name for pod in place.runtime.pods()} == {"runs", "empty", "paused"}
    assert await place.runtime.prune_pods() == {}


async def test_prune_spares_a_pod_that_is_started_while_it_waits(place: Place) -> None:
    pod = await place.pod("a")
    await pod.stop()
    pruned: list[object] = []

    async def prune() -> None:
        pruned.append(await place.runtime.prune_pods())

    async with trio.open_nursery() as nursery:
        async with claim(place.ctx, pod.id, Verb.START):
            nursery.start_soon(prune)
            await trio.testing.wait_all_tasks_blocked(0.05)
            record, members = load_pod(place.ctx, pod.id, "start")
            async with open_group(place.ctx, pod.id, place.cgroup_parent) as monitor:
                await Starter(place.ctx, monitor, record, {}).run(member_graph(members))
    assert pruned == [{}]
    assert pod.state() is PodState.RUNNING


async def test_removal_with_a_condition_that_fails_touches_nothing(place: Place) -> None:
    pod = await place.pod("a")
    await pod.stop()
    with pytest.raises(InvalidState, match="in use again"):
        await teardown.remove_pod(place.ctx, pod.id, only_if=lambda record: False)
    assert pod.state() is PodState.EXITED


async def test_prune_of_containers_leaves_pods_and_what_runs(place: Place) -> None:
    pod = await place.pod("member")
    await pod.stop()
    alone = {name: await place.add(None, name) for name in ("new", "ended", "runs", "paused")}
    for name in ("ended", "runs", "paused"):
        await alone[name].start()
    await alone["ended"].stop()
    await alone["paused"].pause()
    kept = await place.runtime.prune_containers(lambda record: record.config.name == "nothing")
    assert kept == {}
    gone = {alone["new"].id: None, alone["ended"].id: None}
    assert await place.runtime.prune_containers() == gone
    assert place.states() == {
        "infra": "exited", "member": "exited", "runs": "running", "paused": "paused",
    }  # fmt: skip


# --- the command line -----------------------------------------------------------------------------


def answered(podrt: Podrt, answer: str, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        podrt.words(*words),
        input=answer,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=command_environment(),
    )
    return done.returncode, done.stdout, done.stderr


def test_prune_asks_and_prints_the_ids_of_what_went(podrt: Podrt) -> None:
    pod_id = podrt.pod("shop")
    podrt("run", "--pod", "shop", "base", "/bin/true")
    podrt("pod", "stop", "shop")
    code, out, asked = answered(podrt, "n\n", "pod", "prune")
    assert (code, out) == (0, "") and "WARNING! This will remove all stopped/exited pods" in asked
    code, out, said = answered(podrt, "", "pod", "prune")
    assert (code, out) == (125, "") and said.splitlines()[-1].startswith("Error: EOF")
    assert answered(podrt, "y\n", "pod", "prune")[:2] == (0, f"{pod_id}\n")
    assert podrt("pod", "prune", "--force") == ""
    assert "unrecognized" in podrt.fails(125, "pod", "prune", "shop")


def test_prune_of_containers_goes_by_label_and_age(podrt: Podrt) -> None:
    for name, label in (("a", "tier=front"), ("b", "tier=back"), ("c", "other")):
        podrt("create", "--name", name, "--label", label, "base", "/bin/true")
    prune = ("container", "prune", "--force", "--filter")
    assert podrt(*prune, "until=10m") == ""
    assert "no duration" in podrt.fails(125, *prune, "until=soon")
    assert "invalid filter" in podrt.fails(125, *prune, "name=a")
    assert len(podrt(*prune, "label=tier=front").split()) == 1
    assert len(podrt(*prune, "label!=tier").split()) == 1
    assert [row["Names"] for row in podrt.listed("ps", "-a")] == [["b"]]
    assert len(podrt(*prune, "until=2999-01-01T00:00:00Z").split()) == 1
