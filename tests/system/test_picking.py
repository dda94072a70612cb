"""Files with IDs, filters, dependents, new names: which containers and pods a verb is for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.commands import BUSYBOX, Podrt, command_environment

SLEEP = ("base", "/bin/sleep", "1000")


@pytest.fixture
def podrt(tmp_path: Path, cgroup_parent: str) -> Iterator[Podrt]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    made = Podrt(tmp_path, cgroup_parent)
    made.import_busybox(tmp_path)
    try:
        yield made
    finally:
        made.remove_all()


def names(podrt: Podrt) -> set[str]:
    rows: list[dict[str, Any]] = podrt.listed("ps", "-a", "--filter", "name=^[a-z]+$")
    return {row["Names"][0] for row in rows}


def add(podrt: Podrt, name: str, *flags: str) -> str:
    return podrt("create", "--name", name, "--pod", "shop", "--stop-timeout", "0", *flags, *SLEEP)


def test_containers_are_picked_by_file_and_by_filter(podrt: Podrt, tmp_path: Path) -> None:
    podrt.pod("shop")
    file = f"{tmp_path}/id"
    add(podrt, "a", "--cidfile", file)
    add(podrt, "b", "--label", "tier=x")
    podrt("pod", "start", "shop")
    identity = Path(file).read_text()
    assert podrt("kill", "--cidfile", file) == f"{identity}\n"
    podrt("wait", "a")
    assert podrt("stop", "--filter", "label=tier=x").strip() in podrt("ps", "-aq", "--no-trunc")
    assert "--filter and arguments" in podrt.fails(125, "stop", "--filter", "label=x", "b")
    assert "bogus is an invalid filter" in podrt.fails(125, "rm", "--filter", "bogus=1")
    assert "--cidfile: /none: No such file" in podrt.fails(125, "rm", "--cidfile", "/none")
    assert podrt("rm", "--ignore", "--cidfile", "/none") == ""
    assert podrt("rm", "--cidfile", file) == f"{identity}\n"
    assert podrt("rm", "--filter", "label=tier=x").count("\n") == 1
    assert podrt("rm", "--filter", "label=tier=x") == ""
    assert names(podrt) == set()


def test_rm_with_dependents_removes_them_first(podrt: Podrt) -> None:
    podrt.pod("shop")
    add(podrt, "db")
    web = add(podrt, "web", "--requires", "db").strip()
    till = add(podrt, "till", "--requires", "web").strip()
    add(podrt, "other")
    assert "in use by web" in podrt.fails(125, "rm", "db")
    assert podrt("rm", "--depend", "db").split() == [till, web, "db"]
    assert names(podrt) == {"other"}


def test_pods_are_picked_by_file(podrt: Podrt, tmp_path: Path) -> None:
    files = [f"{tmp_path}/{name}" for name in ("one", "two")]
    ids = [podrt.pod(file[-3:], "--pod-id-file", file) for file in files]
    words = [word for file in files for word in ("--pod-id-file", file)]
    for verb in ("stop", "rm"):
        assert podrt("pod", verb, *words).split() == ids
    assert "--pod-id-file: /none" in podrt.fails(125, "pod", "start", "--pod-id-file", "/none")
    error = podrt.fails(125, "pod", "rm", "--all", "--pod-id-file", files[0])
    assert "cannot be used together" in error
    error = podrt.fails(125, "pod", "stop", "--pod-id-file", files[0], "x")
    assert "no arguments are needed" in error


def test_rename_of_a_running_container_and_what_refuses_it(podrt: Podrt) -> None:
    # Names that no ID can begin with.
    podrt.pod("shop")
    add(podrt, "x")
    add(podrt, "y")
    podrt("start", "x")
    assert podrt("rename", "x", "z") == ""
    assert names(podrt) == {"y", "z"}
    assert podrt.run("container", "exists", "x").returncode == 1
    assert podrt.run("container", "exists", "z").returncode == 0
    assert podrt("stop", "z") == "z\n"
    assert "already in use" in podrt.fails(125, "rename", "y", "shop")
    assert "accepts 2 arg(s), received 1" in podrt.fails(125, "rename", "y")
    assert "a b" in podrt.fails(125, "rename", "y", "a b")
    assert "no such container: none" in podrt.fails(125, "rename", "none", "d")
    assert "accepts 1 arg(s), received 0" in podrt.fails(125, "container", "exists")
    assert names(podrt) == {"y", "z"}


def test_listings_show_sizes_and_namespaces(podrt: Podrt) -> None:
    podrt.pod("shop")
    script = "echo 0123456789 >/tmp/one; mkdir -p /tmp/a/b; echo 0123 >/tmp/a/b/two; sleep 1000"
    words = ("--name", "a", "--pod", "shop", "--stop-timeout", "0", "base", "/bin/sh", "-c")
    podrt("create", *words, script)
    podrt("pod", "start", "shop")
    pid = next(row["Pid"] for row in podrt.listed("ps") if row["Names"] == ["a"])
    upper = (
        podrt.root / "containers" / podrt("ps", "-q", "--no-trunc", "--filter", "name=^a$").strip()
    )
    while not (upper / "upper/tmp/a/b/two").exists():
        assert podrt.run("ps").returncode == 0
    line = podrt("ps", "--ns", "--noheading", "--filter", "name=^a$").split()
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    wanted = [os.readlink(f"/proc/{pid}/ns/{kind}").strip("abcdefghijklmnopqrstuvwxyz:[]")
              for kind in kinds]  # fmt: skip
    assert line[1:] == ["a", str(pid), *wanted]
    size = podrt.listed("ps", "--size", "--filter", "name=^a$")[0]["Size"]
    image = podrt.listed("image", "ls")[0]["Size"]
    assert size == {"rwSize": 16, "rootFsSize": image + 16}
    assert "16B (virtual " in podrt("ps", "--size", "--filter", "name=^a$")
    template = "{{.Name}} {{.SizeRw}}"
    assert podrt("inspect", "--latest", "--size", "--format", template) == "a 16\n"
    assert "ipc,net,uts" in podrt("pod", "ps", "--ns", "--noheading")
    assert "conflict" in podrt.fails(125, "ps", "--size", "--ns")
    assert "--watch: 0 is not above 0" in podrt.fails(125, "ps", "--watch", "0")
    assert "no names or ids" in podrt.fails(125, "inspect")


def test_ps_watched_shows_again_what_is_there(podrt: Podrt) -> None:
    podrt.pod("shop")
    words = podrt.words("ps", "-a", "--watch", "1", "--format", "{{.Names}}")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=command_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("-infra\n")
        add(podrt, "late")
        seen = ""
        while "late" not in seen:
            seen = process.stdout.readline()
            assert seen
        process.terminate()
