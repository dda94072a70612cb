"""The fuzz targets without sanitizers, on a few inputs; `make fuzz` does the rest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuzz.__main__ import watch
from fuzz.loop import SEED_FILE, TARGETS, make_target, run_all
from fuzz.sanitized import PROJECT

SAMPLE = {"frames": 1500, "journal": 500, "snapshots": 400, "segments": 400, "locks": 60}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where a store is made and opened in no time."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="podrt_test_fuzz_", dir=base))
    yield made
    shutil.rmtree(made)


def progress_of(folder: Path) -> int:
    return os.open(folder / SEED_FILE, os.O_RDWR | os.O_CREAT)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TARGETS)
def test_fuzz_of_a_sample_finds_nothing(
    folder: Path, name: str, rounds: Callable[[int, int], int]
) -> None:
    count = rounds(SAMPLE[name], 40 * SAMPLE[name])
    progress = progress_of(folder)
    try:
        figures = run_all(make_target(name, folder), range(count), 500.0, progress)
    except BaseException:
        print("seed", (folder / SEED_FILE).read_text())
        raise
    finally:
        os.close(progress)
    outcomes = figures["outcomes"]
    assert isinstance(outcomes, dict)
    assert len(outcomes) > 1, "inputs that all come to the same test little"


def test_fuzz_of_inputs_that_once_were_findings_finds_nothing(folder: Path) -> None:
    # A left-over segment of another course, behind sealed ones that a snapshot holds.
    assert make_target("segments", folder).run(1100299840194) == "refused"


class Leaking:
    def __init__(self, folder: Path) -> None:
        self.opened: list[int] = []

    def run(self, seed: int) -> str:
        if seed == 50:
            self.opened.append(os.open("/dev/null", os.O_RDONLY))
        return "used"


def test_fuzz_of_what_leaves_a_descriptor_open_is_a_finding(tmp_path: Path) -> None:
    progress = progress_of(tmp_path)
    target = Leaking(tmp_path)
    try:
        with pytest.raises(AssertionError, match="descriptors left open"):
            run_all(target, range(200), 60.0, progress)
        assert int((tmp_path / SEED_FILE).read_text()) == 96
    finally:
        for fd in (progress, *target.opened):
            os.close(fd)


def test_fuzz_of_what_never_ends_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / SEED_FILE).write_text("7")
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"], text=True)
    try:
        assert watch(child, tmp_path, 0, patience_s=0.2) == "it hangs"
        assert child.returncode == -signal.SIGABRT
    finally:
        child.kill()
        child.wait()


def test_fuzz_without_sanitizers_says_what_is_missing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz", "--seconds", "1"],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(PROJECT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr == "podrt: fuzzing needs gcc with its sanitizers (on Debian: gcc)\n"
