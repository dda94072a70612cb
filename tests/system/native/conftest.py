"""A monitor of its own for each test, driven by hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import podrt
from doubles.monitor_driver import Box, Client, Group, killed_at_end, make_busybox_root

NATIVE = Path(podrt.__file__).parent / "_native"


@pytest.fixture(scope="session")
def monitor_binary() -> Path:
    """The built monitor; PODRT_MONITOR_BINARY names another (sanitizer builds)."""
    path = Path(os.environ.get("PODRT_MONITOR_BINARY") or NATIVE / "bin/podrt-monitor")
    if not path.exists():
        pytest.skip("podrt-monitor is not built")
    return path


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/bin/busybox").exists():
        pytest.skip("needs a static busybox (Debian: busybox-static)")
    return make_busybox_root(tmp_path_factory.mktemp("root"))


@pytest.fixture
def group(tmp_path: Path, monitor_binary: Path) -> Iterator[Group]:
    """A group whose monitor is up; at the end every process of it is gone."""
    made = Group(tmp_path, monitor_binary)
    made.spawn()
    pids: list[int] = []
    try:
        with killed_at_end(pids):
            yield made
            pids += made.processes()
    finally:
        made.let_go()
        made.wait_end()
        shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def client(group: Group) -> Client:
    return group.connect()


@pytest.fixture
def box(group: Group, client: Client, busybox_root: Path) -> Box:
    return Box(group, client, busybox_root)
