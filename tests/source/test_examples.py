from __future__ import annotations

import io
import subprocess
import sys
import tarfile

import pytest
import yaml

from source.sources import PROJECT

EXAMPLES = PROJECT / "examples"
REQUIRES = "podrt.io/requires."


def rootfs() -> bytes:
    command = [sys.executable, str(EXAMPLES / "make_rootfs.py")]
    return subprocess.run(command, capture_output=True, check=True).stdout


def pod_of(name: str) -> tuple[dict[str, str], dict[str, list[dict[str, object]]]]:
    """The annotations and the spec of an example's pod."""
    document = yaml.safe_load((EXAMPLES / name).read_text())
    pod = document["spec"]["template"] if document["kind"] == "Deployment" else document
    return pod["metadata"]["annotations"], pod["spec"]


def test_make_rootfs_twice_gives_the_same_bytes() -> None:
    assert rootfs() == rootfs()


def test_make_rootfs_holds_what_programs_expect() -> None:
    with tarfile.open(fileobj=io.BytesIO(rootfs())) as tar:
        entries = {entry.name: entry for entry in tar}
    assert entries["tmp"].mode == 0o1777
    assert entries["root"].mode == 0o700
    assert entries["bin/busybox"].isreg() and entries["bin/busybox"].mode == 0o755
    assert entries["bin/sh"].linkname == "busybox"
    assert {"etc/passwd", "etc/group", "proc", "sys", "dev", "bin/httpd"} <= entries.keys()
    assert all(entry.uid == entry.gid == entry.mtime == 0 for entry in entries.values())


@pytest.mark.parametrize("name", ["shop.yaml", "fleet.yaml"])
def test_examples_require_only_containers_they_have(name: str) -> None:
    annotations, spec = pod_of(name)
    names = {container["name"] for container in spec["containers"]}
    edges = {
        key.removeprefix(REQUIRES): set(value.split(","))
        for key, value in annotations.items()
        if key.startswith(REQUIRES)
    }
    assert edges
    assert edges.keys() <= names
    assert set().union(*edges.values()) <= names
