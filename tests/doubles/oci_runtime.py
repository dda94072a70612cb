"""`podrt oci` (or another OCI runtime) as its callers use it, on bundles of a test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from doubles.commands import BUSYBOX, command_environment
from podrt.model.runtimespec import encode
from podrt.oci.template import template

APPLETS = (
    "sh sleep cat echo ls id true false grep ps tty hostname env stty kill mount readlink touch "
    "umask wc seq head mkdir"
).split()
PATIENCE_S = 20.0


def busybox_root(folder: Path) -> Path:
    """A root file system: busybox, its applets, and the directories mounts go to."""
    for name in ("bin", "proc", "sys", "dev", "tmp", "etc", "data"):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "bin/plain").write_text("no program\n")
    return folder


def wait_for(look: Any, what: str) -> None:
    """Until `look` is true."""
    end = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


class OciRuntime:
    """A runtime's command with a root of its own."""

    def __init__(self, command: Sequence[str], root: Path) -> None:
        self.command = [*command, "--root", str(root)]
        self.root = root
        self.ids: list[str] = []

    def run(
        self, *words: str, text: str | None = None, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        for verb in ("create", "run"):
            if verb in words:
                self.ids.append(words[-1])
        return subprocess.run(
            [*self.command, *words],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=command_environment(),
            **how,
        )

    def __call__(self, *words: str, **how: Any) -> str:
        """A command that must succeed; its standard output."""
        done = self.run(*words, **how)
        assert done.returncode == 0, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def detached(self, *words: str) -> None:
        """`create` or another command whose container keeps the standard streams open."""
        self.ids.append(words[-1])
        with open(os.devnull, "r+b") as null, tempfile.TemporaryFile() as errors:
            done = subprocess.run(
                [*self.command, *words],
                stdin=null,
                stdout=null,
                stderr=errors,
                check=False,
                timeout=60,
                env=command_environment(),
            )
            errors.seek(0)
            assert done.returncode == 0, (words, done.returncode, errors.read())

    def fails(self, *words: str, code: int = 1, **how: Any) -> str:
        """A command that must fail with one line; that line without the program's name."""
        done = self.run(*words, **how)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        return lines[0].partition(": ")[2]

    def state(self, container_id: str) -> dict[str, Any]:
        """The state as a document."""
        found: dict[str, Any] = msgspec.json.decode(self("state", container_id))
        return found

    def wait_status(self, container_id: str, status: str) -> None:
        """Until the container has this status."""
        wait_for(lambda: self.state(container_id)["status"] == status, status)

    def clean(self) -> None:
        """Delete whatever a failed test left."""
        left = os.listdir(self.root) if self.root.exists() else []
        for container_id in set(self.ids).intersection(left):
            self.run("delete", "--force", container_id)


class Bundle:
    """A bundle whose document a test changes before it uses it."""

    def __init__(self, path: Path, rootfs: Path, cgroup: str) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.cgroup = cgroup
        made = encode(template(rootless=False))
        self.spec: dict[str, Any] = msgspec.json.decode(made)
        self.spec["root"] = {"path": str(rootfs), "readonly": False}
        self.spec["linux"]["cgroupsPath"] = cgroup
        self.process["terminal"] = False

    @property
    def process(self) -> dict[str, Any]:
        """`process` of the document."""
        found: dict[str, Any] = self.spec["process"]
        return found

    @property
    def linux(self) -> dict[str, Any]:
        """`linux` of the document."""
        found: dict[str, Any] = self.spec["linux"]
        return found

    def args(self, *words: str) -> Bundle:
        """Set the program."""
        self.process["args"] = list(words)
        return self

    def sh(self, script: str) -> Bundle:
        """Set a shell script as the program."""
        return self.args("sh", "-c", script)

    def written(self) -> str:
        """Write the document; the bundle's path."""
        (self.path / "config.json").write_bytes(msgspec.json.encode(self.spec))
        return str(self.path)


def remove_cgroups(parent: str) -> None:
    """Remove a test's cgroup parent in every hierarchy."""
    for path in Path("/sys/fs/cgroup").glob(f"*{parent}"):
        for below in sorted(path.rglob("*"), reverse=True):
            if below.is_dir():
                with contextlib.suppress(OSError):
                    below.rmdir()
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        Path(f"/sys/fs/cgroup{parent}").rmdir()
