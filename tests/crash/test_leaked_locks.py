"""Locks whose process was killed between a lock and its record: `system check` returns them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from doubles.commands import Podrt
from podrt._fast.locktable import LockTable
from podrt.config import Settings
from podrt.runtime.runtime import Runtime, open_runtime

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "src/podrt/_fast"
# Whose locks the program gives back.
OLD = b"o" * 32
KILLED = -9


@pytest.fixture
def lock_steps(tmp_path: Path) -> str:
    """The program that dies before its N-th write to a table."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    program, source = str(tmp_path / "lock_steps"), str(HERE / "lock_steps.c")
    subprocess.run(
        [compiler, "-std=gnu11", "-O1", f"-I{HEADERS}", source, "-o", program], check=True
    )
    return program


def owners_and_torn(podrt: Podrt) -> tuple[set[str], int]:
    table = LockTable.look(str(podrt.runroot / "locks"))
    assert table is not None
    entries = list(table.entries())
    table.close()
    owners = {entry.owner_id.hex() for entry in entries if entry.state == "allocated"}
    return owners, sum(entry.is_torn for entry in entries)


async def check_returns_all(runtime: Runtime) -> None:
    """One look finds it, one repair mends it, then nothing is left to say."""
    looked = await runtime.check()
    assert looked and not any(finding.is_repaired for finding in looked)
    assert {finding.kind for finding in looked} == {"lock"}
    repaired = await runtime.check(repair=True)
    assert repaired and all(finding.is_repaired for finding in repaired)
    assert await runtime.check() == []


async def test_check_returns_locks_left_by_a_death_at_any_write(
    podrt: Podrt, lock_steps: str
) -> None:
    objects = {podrt.pod("shop"), podrt.listed("ps", "-a")[0]["Id"]}
    settings = Settings(root=str(podrt.root), runroot=str(podrt.runroot))
    async with open_runtime(settings) as runtime:
        for verb in ("allocate", "free"):
            seen = set()
            code, step = KILLED, 0
            while code == KILLED:
                step += 1
                index = runtime._ctx.locks.allocate(OLD.hex()) if verb == "free" else 0
                words = [lock_steps, settings.layout.locks, str(step), verb, str(index)]
                code = (await trio.run_process(words, check=False)).returncode
                owners, torn = owners_and_torn(podrt)
                seen.add((len(owners - objects), torn))
                if (owners, torn) != (objects, 0):
                    await check_returns_all(runtime)
                    assert owners_and_torn(podrt) == (objects, 0)
            assert code == 0
            assert {(1, 0), (0, 1)} <= seen, "it never died in between"
