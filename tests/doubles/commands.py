"""The `podrt` command as a user runs it, below a directory of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

import podrt
from doubles.archives import directory, entry, symlink, tar_of

SOURCES = Path(podrt.__file__).parents[1]
BUSYBOX = shutil.which("busybox") or ""
APPLETS = ("sh", "sleep", "cat", "echo", "ls", "id", "true", "false", "grep", "wget", "httpd", "nc")


def command_environment() -> dict[str, str]:
    """The environment under which `python -m podrt` is the podrt that is tested."""
    return {**os.environ, "PYTHONPATH": str(SOURCES)}


def busybox_archive(path: Path) -> Path:
    """A root file system with busybox and some applets, as an archive at `path`."""
    links = [symlink(f"bin/{name}", "busybox") for name in APPLETS]
    program = entry("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755)
    plain = entry("bin/plain", b"no program\n", mode=0o644)
    passwd = entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\nann:x:7:8::/:/bin/sh\n", mode=0o644)
    path.write_bytes(tar_of([directory("tmp", 0o1777), program, plain, passwd, *links]))
    return path


class Podrt:
    """Runs podrt commands on one root."""

    def __init__(self, folder: Path, cgroup_parent: str = "") -> None:
        self.root = folder / "root"
        self.runroot = folder / "run"
        self.cgroup_parent = cgroup_parent

    def words(self, *arguments: str) -> list[str]:
        """The whole command line."""
        places = ["--root", str(self.root), "--runroot", str(self.runroot)]
        return [sys.executable, "-m", "podrt", *places, *arguments]

    def run(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return subprocess.run(
            self.words(*arguments),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
            env=command_environment(),
        )

    def __call__(self, *arguments: str) -> str:
        """Run a command that must succeed; its standard output."""
        done = self.run(*arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout

    def fails(self, code: int, *arguments: str, text: str | None = None) -> str:
        """Run a command that must fail with `code` and one line of error; that line."""
        done = self.run(*arguments, text=text)
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("See 'podrt")]
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("Error: ")
        return lines[0].removeprefix("Error: ")

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """A listing as data."""
        found: list[dict[str, Any]] = msgspec.json.decode(self(*arguments, "--format", "json"))
        return found

    def import_busybox(self, folder: Path) -> None:
        """Make the image `base`."""
        self("image", "import", str(busybox_archive(folder / "busybox.tar")), "base")

    def pod(self, name: str, *flags: str) -> str:
        """Create a pod below the test's cgroup parent; its ID."""
        parent = ["--cgroup-parent", self.cgroup_parent] if self.cgroup_parent else []
        return self("pod", "create", "--name", name, *parent, *flags).strip()

    def is_clean(self) -> bool:
        """Whether no object, file, lock or cgroup of this root is left."""
        return self.run("system", "check").stdout == "" and not self.files()

    def files(self) -> list[str]:
        """What objects of this root have on the disk."""
        places = [self.root / name for name in ("containers", "pods", "journal")]
        return [name for place in (*places, self.runroot / "pods") for name in os.listdir(place)]

    def remove_all(self) -> None:
        """Remove whatever is left, so that a failed test leaves nothing."""
        self.run("pod", "rm", "--all", "--force", "--time", "0")
        self.run("rm", "--all", "--force", "--time", "0")
        self.run("system", "check", "--repair")


def monitors_of(run_dir: str) -> list[int]:
    """The monitors that hold a file below `run_dir`."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if not (process / "comm").read_text().startswith("podrt-monitor"):
                continue
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(run_dir) for link in links):
            found.append(int(process.name))
    return found
