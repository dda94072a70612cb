"""Clones of pods and containers: the same under new names, beside or in place of the original."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from doubles.commands import BUSYBOX, Podrt
from doubles.places import Place, open_place
from podrt.errors import InvalidConfig, InvalidState
from podrt.model.container import InitKind, Mount, MountKind, Security
from podrt.model.pod import PodConfig
from podrt.model.resources import Resources
from podrt.runtime.pod import Pod

MIB = 1 << 20


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


async def make_shop(place: Place) -> Pod:
    """Pod shop: db, web which needs it, and an init container."""
    pod = await place.runtime.create_pod(
        PodConfig(
            name="shop",
            labels={"team": "a"},
            cgroup_parent=place.cgroup_parent,
            resources=Resources(memory_bytes=256 * MIB),
        )
    )
    await place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
    await place.add(pod, "db")
    await place.add(pod, "web", needs=("db",))
    return pod


def names(pod: Pod) -> list[str]:
    return [one.name for one in pod.containers() if not one.record().config.is_infra]


async def test_clone_of_a_running_pod_starts_beside_it_with_its_own_parts(place: Place) -> None:
    pod = await make_shop(place)
    await pod.start()
    clone = await place.runtime.clone_pod(pod, PodConfig())
    assert (clone.name, names(clone)) == ("shop-clone", ["seed-clone", "db-clone", "web-clone"])
    web = place.runtime.container("web-clone").record()
    db = place.runtime.container("db-clone")
    assert [edge.on for edge in web.config.requires] == [db.id]
    await clone.start()
    assert place.facts("db-clone").started_at_ns <= place.facts("web-clone").started_at_ns
    assert place.facts("seed-clone").exit_code == 0
    spaces = {one: os.readlink(f"/proc/{place.pid(one)}/ns/uts") for one in ("db", "db-clone")}
    assert spaces["db"] != spaces["db-clone"]
    uts = f"/proc/{place.pid('db-clone')}/root/etc/hostname"
    assert await trio.Path(uts).read_text() == "shop-clone\n"
    record = clone.record()
    assert record.cgroup_path != pod.record().cgroup_path
    assert place.ctx.cgroups.limits(record.cgroup_path).memory_bytes == 256 * MIB
    assert dict(record.config.labels) == {"team": "a"}
    again = await place.runtime.clone_pod(pod, PodConfig())
    assert (again.name, names(again)[1]) == ("shop-clone1", "db-clone1")


async def test_clone_of_a_pod_with_changes(place: Place, tmp_path: Path) -> None:
    pod = await make_shop(place)
    given = PodConfig(
        name="other",
        hostname="else",
        labels={"tier": "b"},
        resources=Resources(pids_limit=99),
        host_namespaces=frozenset({"uts"}),
        mounts=(Mount(kind=MountKind.BIND, source=str(tmp_path), destination="/given"),),
        security=Security(no_new_privileges=True),
    )
    clone = await place.runtime.clone_pod(pod, given)
    await clone.start()
    config = clone.record().config
    assert (config.name, config.hostname) == ("other", "else")
    assert dict(config.labels) == {"team": "a", "tier": "b"}
    limits = place.ctx.cgroups.limits(clone.record().cgroup_path)
    assert (limits.memory_bytes, limits.pids_limit) == (256 * MIB, 99)
    pid = place.pid("db-clone")
    assert os.readlink(f"/proc/{pid}/ns/uts") == os.readlink("/proc/self/ns/uts")
    assert "NoNewPrivs:\t1" in await trio.Path(f"/proc/{pid}/status").read_text()
    assert " /given " in await trio.Path(f"/proc/{pid}/mountinfo").read_text()
    # What members have from the pod is not there twice in a clone of the clone.
    await place.runtime.clone_pod(clone, PodConfig())
    with pytest.raises(InvalidConfig, match="does not share pid"):
        await place.runtime.clone_pod(pod, PodConfig(host_namespaces=frozenset({"pid"})))


async def test_clone_of_a_container_stays_in_its_pod_or_moves(place: Place) -> None:
    pod = await place.pod("db")
    clone = await place.runtime.clone_container(
        place.runtime.container("db"), limits=Resources(memory_bytes=64 * MIB)
    )
    assert clone.name == "db-clone" and clone.record().pod_id == pod.id
    await clone.start()
    assert place.ctx.cgroups.limits(clone.record().cgroup_path).memory_bytes == 64 * MIB
    other = await place.empty_pod("other")
    moved = await place.runtime.clone_container(clone, name="moved", pod="other")
    assert moved.record().pod_id == other.id
    infra = next(one for one in pod.containers() if one.record().config.is_infra)
    with pytest.raises(InvalidState, match="infra"):
        await place.runtime.clone_container(infra)


async def test_clone_on_the_command_line_starts_and_destroys(place: Place, tmp_path: Path) -> None:
    pod = await make_shop(place)
    await pod.start()
    commands = Podrt(tmp_path)

    async def podrt(*words: str) -> tuple[int, str, str]:
        done = await trio.to_thread.run_sync(lambda: commands.run(*words))
        return done.returncode, done.stdout, done.stderr

    code, out, _ = await podrt("pod", "clone", "--start", "--destroy", "shop", "next")
    assert code == 0 and out.strip() == place.runtime.pod("next").id
    assert [one.name for one in place.runtime.pods()] == ["next"]
    assert place.states()["web-clone"] == "running"
    code, out, _ = await podrt("container", "clone", "--run", "web-clone", "web2")
    assert code == 0 and out.strip() == place.runtime.container("web2").id
    assert place.states()["web2"] == "running"
    for words, reason in (
        (("pod", "clone"), "accepts between 1 and 2 arg(s), received 0"),
        (("pod", "clone", "a", "b", "c"), "accepts between 1 and 2 arg(s), received 3"),
        (("pod", "clone", "none"), "no such pod: none"),
        (("pod", "clone", "next", "web2"), "already in use"),
        (("container", "clone"), "accepts between 1 and 3 arg(s), received 0"),
        (("container", "clone", "none"), "no such container: none"),
        (("container", "clone", "-f", "web2"), "cannot set --force without --destroy"),
        (("container", "clone", "web2", "x", "noimage"), "no such image: noimage"),
        (("container", "clone", "web2", "web2"), "already in use"),
    ):
        code, out, error = await podrt(*words)
        assert (code, out) == (125, "") and reason in error and error.count("\n") == 1, error
    assert len(place.runtime.pods()) == 1
