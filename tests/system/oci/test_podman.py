"""podman with conmon, and `podrt oci` as its runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.commands import SOURCES, command_environment
from doubles.oci_runtime import wait_for

CONFIG = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """podman with stores of its own."""

    def __init__(self, folder: Path, parent: str) -> None:
        runtime = folder / "podrt-oci"
        runtime.write_text(
            f"#!/bin/sh\nPYTHONPATH={SOURCES} exec {sys.executable} -m podrt oci "
            f'--root {folder}/oci "$@"\n'
        )
        runtime.chmod(0o755)
        config = folder / "containers.conf"
        config.write_text(CONFIG)
        self.parent = parent
        self.state = folder / "oci"
        self.environment = {**command_environment(), "CONTAINERS_CONF": str(config)}
        self.command = [
            "podman", "--root", f"{folder}/graph", "--runroot", f"{folder}/run", "--tmpdir",
            f"{folder}/tmp", "--storage-driver", "vfs", "--runtime", str(runtime),
        ]  # fmt: skip

    def run(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [*self.command, *words],
            input=text, capture_output=True, text=True, check=False, timeout=90,
            env=self.environment,
        )  # fmt: skip

    def __call__(self, *words: str, text: str | None = None) -> str:
        """A command that must succeed; its standard output."""
        done = self.run(*words, text=text)
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def start(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """`podman run` with what this machine needs."""
        flags = ("--network", "none", "--cgroup-parent", self.parent)
        return self.run("run", *flags, *words, text=text)


@pytest.fixture
def podman(
    rootfs: Path, tmp_path_factory: pytest.TempPathFactory, cgroups: str
) -> Iterator[Podman]:
    if shutil.which("podman") is None or shutil.which("conmon") is None:
        pytest.skip("needs podman and conmon")
    folder = tmp_path_factory.mktemp("p")
    made = Podman(folder, cgroups)
    archive = folder / "base.tar"
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(archive), "."], check=True)
    made("import", str(archive), "base")
    yield made
    made.run("rm", "--all", "--force", "--time", "0")
    made.run("rmi", "--all", "--force")
    shutil.rmtree(folder, ignore_errors=True)


def test_podman_runs_execs_and_stops_containers_of_podrt(podman: Podman) -> None:
    done = podman.start("--rm", "-i", "base", "sh", "-c", "cat; exit 7", text="through\n")
    assert (done.returncode, done.stdout) == (7, "through\n"), done.stderr
    assert podman.start("--rm", "-t", "base", "tty").stdout.split() == ["/dev/pts/0"]
    assert podman.start("--rm", "base", "/nope").returncode == 127
    assert podman.start("--rm", "base", "/etc").returncode == 126

    script = "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"
    done = podman.start("-d", "--name", "one", "base", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: podman("logs", "one") == "up\n", "the log")
    done = podman.run("exec", "one", "sh", "-c", "hostname; exit 5")
    assert done.returncode == 5, done.stderr
    assert (
        done.stdout
        == podman("inspect", "--format", "{{.Config.Hostname}}\n", "one").strip("\n") + "\n"
    )
    assert podman("exec", "-t", "one", "tty").startswith("/dev/pts/")
    assert podman.run("exec", "one", "/nope").returncode == 127
    podman("pause", "one")
    assert podman("inspect", "--format", "{{.State.Status}}", "one") == "paused\n"
    podman("unpause", "one")
    podman("stop", "--time", "20", "one")
    assert podman("inspect", "--format", "{{.State.ExitCode}}", "one") == "4\n"
    podman("rm", "one")
    assert {path.name for path in podman.state.iterdir()} <= {"@seccomp"}
