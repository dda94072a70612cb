"""`podrt oci` below a root of its own, and bundles of busybox."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX
from doubles.oci_runtime import Bundle, OciRuntime, busybox_root, remove_cgroups

Bundles = Callable[..., Bundle]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUSYBOX:
        pytest.skip("needs a static busybox (Debian: busybox-static)")
    return busybox_root(tmp_path_factory.mktemp("oci") / "rootfs")


@pytest.fixture
def cgroups(cgroup_parent: str) -> Iterator[str]:
    yield cgroup_parent
    remove_cgroups(cgroup_parent)


@pytest.fixture
def oci(tmp_path: Path, cgroups: str) -> Iterator[OciRuntime]:
    runtime = OciRuntime([sys.executable, "-m", "podrt", "oci"], tmp_path / "state")
    yield runtime
    runtime.clean()
    left = os.listdir(runtime.root) if runtime.root.exists() else []
    assert set(left) <= {"@seccomp"}


@pytest.fixture
def bundle(tmp_path: Path, rootfs: Path, cgroups: str) -> Bundle:
    """A bundle whose root is this test's own."""
    own = tmp_path / "rootfs"
    shutil.copytree(rootfs, own, symlinks=True)
    return Bundle(tmp_path / "bundle", own, f"{cgroups}/c")
