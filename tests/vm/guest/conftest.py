"""podrt over a root on a tmpfs, with a small image, for the tests in the guest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.command_server import CommandServer
from doubles.commands import Podrt
from vm.guest.cli import IMAGE, PARENT, Cli

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def podrt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    folder = tmp_path_factory.mktemp("podrt")
    archive = folder / "rootfs.tar"
    maker = PROJECT / "examples" / "make_rootfs.py"
    subprocess.run([sys.executable, maker, archive], check=True)
    with CommandServer(Podrt(folder)) as server:
        cli = Cli(server)
        cli("image", "import", str(archive), IMAGE)
        yield cli
        cli("pod", "rm", "--all", "--force", code=None)


@pytest.fixture
def pod(podrt: Cli, request: pytest.FixtureRequest) -> Iterator[str]:
    """The ID of an empty pod, removed by force afterwards."""
    name = request.node.name.replace("[", "-").replace("]", "")[:60]
    identity = podrt("pod", "create", "--name", name, "--cgroup-parent", PARENT)
    yield identity
    podrt("pod", "rm", "--force", "--time", "0", identity, code=None)
