"""Monitors with one protection taken out: an attack that a test repels must succeed on them."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# The sources: what is installed has the binary alone.
NATIVE = Path(__file__).parents[2] / "src/podrt/_native"
# (source file, what the protection is, what stands there without it)
Change = tuple[str, str, str]


def copy_without(folder: Path, changes: Sequence[Change]) -> Path:
    """A changed copy of the sources.

    A protection that is not where it is expected, exactly once, is an error: the test would show
    nothing any more.
    """
    sources = folder / "native"
    shutil.copytree(NATIVE, sources, ignore=shutil.ignore_patterns("bin", "__pycache__"))
    for name, old, new in changes:
        path = sources / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} holds {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))
    return sources


def build_without(folder: Path, changes: Sequence[Change]) -> Path:
    """The monitor compiled from a changed copy of its sources."""
    sources = copy_without(folder, changes)
    made = folder / "podrt-monitor"
    files = [str(path) for path in sources.glob("*.c") if path.name != "pause.c"]
    compiler = ["gcc"]
    if shutil.which("musl-gcc"):
        machine = f"/usr/include/{platform.machine()}-linux-gnu"
        compiler = ["musl-gcc", "-idirafter", "/usr/include", "-idirafter", machine]
    words = [*compiler, "-std=gnu11", "-O1", "-w", "-static", *files, "-o", str(made)]
    subprocess.run(words, check=True)
    return made
