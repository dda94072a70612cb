"""Suites of other rooms, run once more where cgroup v2 is all there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
SUITES = [
    "tests/contract/test_cgroup_managers.py",
    "tests/system/native/test_compiled_plans.py",
    "tests/system/native/test_launcher_isolation.py",
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", [suite for suite in SUITES if (PROJECT / suite).exists()])
def test_run_suite_on_pure_cgroup_v2_passes(suite: str, tmp_path: Path) -> None:
    base = tmp_path / "tests"
    flags = ["-q", "-p", "no:cacheprovider", f"--basetemp={base}", "--timeout=300"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, suite],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed[1]) > 0, result.stdout[-2000:]
    print(result.stdout[-500:])
