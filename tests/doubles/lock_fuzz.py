"""Damages lock tables and then uses them: only podrt's own errors may come of it.

Run as a program it does so for a while with a build that has AddressSanitizer and
UndefinedBehaviorSanitizer: `python lock_fuzz.py FOLDER SECONDS FIRST_SEED`.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import random
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import podrt

INSTALLED = Path(podrt.__file__).resolve().parents[1]
SOURCE = Path(__file__).resolve().parents[2] / "src"
FAST = SOURCE / "podrt/_fast"
OWNER = b"a" * 32
CHECKED_BYTES = 52
INSIDE = "PODRT_FUZZ_INSIDE"


def living_image(path: str) -> bytes:
    """A table with some life in it, as bytes; its file is gone again."""
    from podrt._fast.locktable import LockTable

    table = LockTable.open(path)
    for _ in range(70):
        index = table.allocate(OWNER)
        table.acquire_nowait(index)
        table.claim(index, 3)
    table.close()
    data = Path(path).read_bytes()
    os.unlink(path)
    return data


def damaged(image: bytes, seed: int) -> bytes:
    """The image with something wrong with it; the same for the same seed."""
    from podrt._fast.lockfile import CHUNKS_AT, PAGE

    rng = random.Random(seed)
    data = bytearray(image)
    areas = ((0, 64), (64, 256), (PAGE, 20_000), (CHUNKS_AT, 275_000), (0, len(data)))
    some = areas if rng.random() < 0.1 else areas[1:]
    for _ in range(rng.choice((1, 8, 200))):
        at = rng.randrange(*rng.choice(some))
        word = rng.choice((rng.randbytes(8), b"\xff" * 8, bytes(8), rng.randbytes(1) + bytes(7)))
        data[at : at + 8] = word
    if rng.random() < 0.1:
        data[64:68] = (4096 * rng.randrange(3000)).to_bytes(4, "little")
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def use_everything(path: str, seed: int) -> None:
    """Every call of the table, with good and bad arguments.

    Raises: StoreCorrupt when the table cannot be attached to; nothing else.
    """
    from podrt._fast.locktable import LockTable
    from podrt.errors import PodrtError

    rng = random.Random(seed)
    table = LockTable.open(path)
    calls: list[Callable[[], object]] = [
        lambda: list(table.entries()),
        lambda: table.allocate(OWNER),
        lambda: table.wait_any([1, 2], [1, 2], table.mail(), 100),
    ]
    for index in (1, 2, 64, 65, 4095, 4096, -1, *(rng.randrange(1, 9000) for _ in range(40))):
        calls += calls_on(table, index, rng)
    calls.append(table.repair)
    for call in calls:
        try:
            call()
        except PodrtError:
            continue
    table.close()


def calls_on(table: Any, index: int, rng: random.Random) -> list[Callable[[], object]]:
    token = rng.getrandbits(64)
    return [
        lambda: table.acquire_nowait(index) and table.claim(index, 4),
        lambda: table.acquire_waited(index, True),
        lambda: table.wait(index, 0),
        lambda: table.read_claim(index),
        lambda: table.holder(index),
        lambda: table.entry(index),
        lambda: table.waiters(index),
        lambda: table.preempt(index, token, 3),
        lambda: table.drop_claim(index, token),
        lambda: table.wait_claim_change(index, token, 0),
        lambda: table.free(index, OWNER),
        lambda: table.release(index),
    ]


def build(folder: str) -> str:
    """The module with both sanitizers; its path."""
    made, module = f"{folder}/locktable.c", f"{folder}/locktable.so"
    cython = [sys.executable, "-m", "cython", "-3", f"-I{SOURCE}", "-o", made]
    subprocess.run([*cython, str(FAST / "locktable.pyx")], check=True)
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-shared", "-fPIC"]
    fatal = "-fno-sanitize-recover=undefined"
    includes = [f"-I{FAST}", f"-I{sysconfig.get_path('include')}"]
    subprocess.run(["gcc", *flags, fatal, *includes, made, "-o", module], check=True)
    return module


def run_inside(folder: str, seconds: float, first_seed: int) -> int:
    """The loop itself, in a process that has the sanitizers; how many tables it used."""
    name = "podrt._fast.locktable"
    loader = importlib.machinery.ExtensionFileLoader(name, f"{folder}/locktable.so")
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module
    from podrt.errors import StoreCorrupt

    path = f"{folder}/locks"
    image = living_image(path)
    until = time.monotonic() + seconds
    seed = first_seed
    while time.monotonic() < until:
        Path(f"{folder}/seed").write_text(str(seed))
        Path(path).write_bytes(damaged(image, seed))
        try:
            use_everything(path, seed)
        except StoreCorrupt:
            pass
        seed += 1
    return seed - first_seed


def run(folder: str, seconds: float, first_seed: int) -> str:
    """Build, then fuzz in a process of its own; on a finding the folder keeps seed and table.

    Raises: CalledProcessError; the sanitizer's report is on standard error.
    """
    build(folder)
    found = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        INSIDE: "1",
        "LD_PRELOAD": ":".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(INSTALLED),
        "PYTHONMALLOC": "malloc",
    }
    ran = subprocess.run(
        [sys.executable, __file__, folder, str(seconds), str(first_seed)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return ran.stdout


if __name__ == "__main__":
    where, how_long, start = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    if os.environ.get(INSIDE):
        print(f"{run_inside(where, how_long, start)} tables from seed {start}, no finding")
    else:
        print(run(where, how_long, start), end="")
