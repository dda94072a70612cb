"""Kubernetes files played for real: processes, volumes, namespaces, and everything undone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml

from doubles.archives import directory, entry, symlink, tar_of
from podrt.config import Settings
from podrt.errors import AlreadyExists, InvalidConfig
from podrt.kube.down import down
from podrt.kube.plans import PodPlan, parse_text
from podrt.kube.play import Played, play
from podrt.runtime.runtime import Runtime, open_runtime

BUSYBOX = shutil.which("busybox") or ""
pytestmark = pytest.mark.skipif(not BUSYBOX, reason="needs busybox")
PATIENCE_S = 20.0

Plan = Callable[..., list[PodPlan]]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A root file system of busybox."""
    path = tmp_path / "busybox.tar"
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout
    links = [symlink(f"bin/{name}", "busybox") for name in names.split() if name != "busybox"]
    program = entry("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755)
    path.write_bytes(tar_of([directory("tmp", 0o1777), program, *links]))
    return path


@pytest.fixture
async def runtime(tmp_path: Path, archive: Path) -> AsyncIterator[Runtime]:
    settings = Settings(root=f"{tmp_path}/root", runroot=f"{tmp_path}/run")
    async with open_runtime(settings) as opened:
        await opened.import_image(str(archive), "base", changes=["ENV PATH=/bin"])
        yield opened
        with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE_S):
            await opened.remove_pods(opened.pods(), force=True, timeout_s=0)
    assert os.listdir(f"{tmp_path}/root/containers") == []
    assert os.listdir(f"{tmp_path}/root/pods") == []


@pytest.fixture
def plan(cgroup_parent: str) -> Plan:
    """Objects as plans, below this test's own cgroup parent."""

    def make(*objects: dict[str, Any]) -> list[PodPlan]:
        found = parse_text(yaml.safe_dump_all(objects).encode(), "a.yaml")
        return [
            msgspec.structs.replace(
                one, config=msgspec.structs.replace(one.config, cgroup_parent=cgroup_parent)
            )
            for one in found
        ]

    return make


def pod(name: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": list(containers),
            **spec,
        },
    }


def script(name: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "base", "command": ["/bin/sh", "-ec", text], **fields}


def sleeper(name: str = "main") -> dict[str, Any]:
    return {"name": name, "image": "base", "command": ["sleep", "600"]}


async def said(runtime: Runtime, name: str, word: str) -> str:
    """The log of a container once `word` stands in it."""
    path = trio.Path(runtime.settings.layout.log(runtime.container(name).id))
    with trio.fail_after(PATIENCE_S):
        while not await path.exists() or word not in await path.read_text():
            await trio.sleep(0.01)
    return await path.read_text()


def failures(played: list[Played]) -> list[str]:
    return [str(error) for one in played for error in one.errors]


async def test_play_a_pod_shares_its_volume_and_down_removes_it(
    runtime: Runtime, plan: Plan
) -> None:
    mounts = [{"name": "data", "mountPath": "/data"}]
    reads = [{"name": "data", "mountPath": "/data", "readOnly": True}]
    plans = plan(
        pod(
            "shop",
            script(
                "main",
                "cat /data/file; touch /data/x 2>/dev/null || echo $(WORD); stat -c %a /data",
                volumeMounts=reads,
                env=[{"name": "WORD", "value": "read-only"}],
            ),
            initContainers=[script("init", "echo from-init >/data/file", volumeMounts=mounts)],
            volumes=[{"name": "data", "emptyDir": {}}],
        )
    )
    played = await play(runtime, plans)
    assert failures(played) == []
    assert [name for name, _ in played[0].containers] == ["shop-init", "shop-main"]
    log = await said(runtime, "shop-main", "777")
    assert "from-init" in log
    assert "read-only" in log
    taken = await down(runtime, plans)
    assert [(one.pod_id, one.error) for one in taken] == [(played[0].pod_id, None)]
    assert runtime.pods() == []
    assert os.listdir(runtime.settings.layout.pods_dir) == []


async def test_play_a_deployment_gives_each_pod_its_network(runtime: Runtime, plan: Plan) -> None:
    template = {"spec": pod("x", script("main", "readlink /proc/self/ns/net; hostname"))["spec"]}
    plans = plan(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "fleet"},
            "spec": {"replicas": 4, "template": template},
        }
    )
    seen: list[tuple[str, int, int]] = []
    played = await play(runtime, plans, progress=lambda *step: seen.append(step))
    assert failures(played) == []
    logs = [await said(runtime, f"fleet-pod-{at}-main", f"fleet-pod-{at}") for at in range(4)]
    networks = {line.split()[-1] for log in logs for line in log.splitlines() if "net:[" in line}
    assert len(networks) == 4
    assert seen[0] == ("create", 0, 4)
    assert seen[-2:] == [("start", 0, 4), ("start", 4, 4)]


async def test_play_without_the_image_names_the_field_and_makes_nothing(
    runtime: Runtime, plan: Plan
) -> None:
    missing = {"name": "b", "image": "nowhere/none:1"}
    with pytest.raises(
        InvalidConfig,
        match=r"^a\.yaml: spec\.containers\[1\]\.image: no such image: nowhere/none:1$",
    ):
        await play(runtime, plan(pod("shop", sleeper("a"), missing)))
    with pytest.raises(InvalidConfig, match=r"^a\.yaml: spec\.containers\[0\]\.image: .*lowercase"):
        await play(runtime, plan(pod("shop", {"name": "a", "image": "BASE"})))
    assert runtime.pods() == []


async def test_play_when_one_name_is_taken_removes_the_others_again(
    runtime: Runtime, plan: Plan
) -> None:
    await play(runtime, plan(pod("second", sleeper())))
    many = [pod(f"pod{at}", sleeper()) for at in range(5)]
    with pytest.raises(AlreadyExists, match='"second" is already in use'):
        await play(runtime, plan(*many, pod("second", sleeper())))
    assert [one.name for one in runtime.pods()] == ["second"]


async def test_play_with_replace_makes_the_pods_anew(runtime: Runtime, plan: Plan) -> None:
    (first,) = await play(runtime, plan(pod("shop", sleeper())))
    (second,) = await play(runtime, plan(pod("shop", sleeper())), replace=True, start=False)
    assert second.pod_id != first.pod_id
    assert second.outcome is None
    assert [one.id for one in runtime.pods()] == [second.pod_id]


async def test_play_cancelled_in_the_middle_leaves_nothing(runtime: Runtime, plan: Plan) -> None:
    plans = plan(*[pod(f"pod{at}", sleeper()) for at in range(40)])
    with trio.CancelScope() as scope:

        def cancel(_stage: str, done: int, _total: int) -> None:
            if done:
                scope.cancel()

        await play(runtime, plans, progress=cancel)
    assert scope.cancelled_caught
    assert runtime.pods() == []
    assert runtime.containers() == []


async def test_play_a_missing_command_is_told_and_the_rest_runs(
    runtime: Runtime, plan: Plan
) -> None:
    plans = plan(pod("shop", {**sleeper("bad"), "command": ["/no/such"]}, sleeper("good")))
    played = await play(runtime, plans)
    (failure,) = failures(played)
    assert "/no/such" in failure
    assert "\n" not in failure
    assert runtime.container("shop-good").state() == "running"


async def test_play_host_paths_are_checked_before_anything_is_made(
    runtime: Runtime, plan: Plan, tmp_path: Path
) -> None:
    def with_path(kind: str, path: Path) -> list[PodPlan]:
        mounted = {**sleeper(), "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
        source = {"name": "v", "hostPath": {"path": str(path), "type": kind}}
        return plan(pod("shop", mounted, volumes=[source]))

    (tmp_path / "file").write_text("1")
    for kind, path in (("Directory", "file"), ("", "nowhere"), ("Socket", "file")):
        with pytest.raises(InvalidConfig, match=r"^a\.yaml: spec\.volumes\[0\]\.hostPath\.path: "):
            await play(runtime, with_path(kind, tmp_path / path))
    assert runtime.pods() == []
    assert failures(await play(runtime, with_path("DirectoryOrCreate", tmp_path / "made"))) == []
    assert (tmp_path / "made").is_dir()


async def test_down_of_absent_pods_says_so_and_is_no_error(runtime: Runtime, plan: Plan) -> None:
    plans = plan(pod("one", sleeper()), pod("two", sleeper()))
    await play(runtime, plans[:1])
    taken = await down(runtime, plans, timeout_s=0)
    assert [(one.pod_name, one.was_absent, one.error) for one in taken] == [
        ("one", False, None),
        ("two", True, None),
    ]
    assert all(one.was_absent for one in await down(runtime, plans))
