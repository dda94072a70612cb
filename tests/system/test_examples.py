from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

RUN = Path(__file__).resolve().parents[2] / "examples" / "run.py"
PATIENCE_S = 60.0


def command(folder: Path, *arguments: str) -> list[str]:
    places = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]
    return [sys.executable, str(RUN), *places, *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *arguments), capture_output=True, text=True, check=False)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run_examples_shop_shows_the_worker_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "shop")
    assert done.returncode == 0, done.stderr
    assert "worker: apples cost 3 (from the db)" in done.stdout
    assert "worker: plums cost 7 (from the cache)" in done.stdout
    assert "shop: play" in done.stdout
    assert not (tmp_path / "root").exists()
    assert not (tmp_path / "run").exists()


def test_run_examples_killed_in_the_middle_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            command(tmp_path, "shop"), stdout=out, stderr=out, start_new_session=True
        )
        wait_until(lambda: "worker's log" in said.read_text() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "root").exists(), said.read_text()

    done = run(tmp_path, "shop")

    assert done.returncode == 0, done.stderr
    assert "removing what an interrupted run left" in done.stdout
    assert "worker: done" in done.stdout
    assert not (tmp_path / "root").exists()


def test_run_examples_unknown_name_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    done = run(tmp_path, "bakery")
    assert done.returncode == 2
    assert "no example is called bakery" in done.stderr
    assert not (tmp_path / "root").exists()
