"""Plays the examples with the installed `podrt` command: what `make run` does.

usage: run.py [--root DIR] [--runroot DIR] [shop] [fleet]      both without arguments

It works in two directories of its own, so it sees no other pods of this host, and removes
everything when it ends. What a killed run left behind, the next one removes first.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
PODRT = Path(sys.executable).parent / "podrt"
ROOT = "/var/tmp/podrt-examples"
RUNROOT = "/run/podrt-examples"
IMAGE = "localhost/busybox:latest"
EXAMPLES = ("shop", "fleet")
# Programs are started within milliseconds; this is for a machine that is busy with other things.
PATIENCE_S = 60.0
SHOWN = 6

PR_SET_PDEATHSIG = 1

options = argparse.Namespace()
times: list[tuple[str, float]] = []


def parse() -> None:
    """Read the command line into `options`."""
    parser = argparse.ArgumentParser(description="play the examples, and remove them again")
    parser.add_argument("--root", type=Path, default=Path(ROOT), help=f"state (default {ROOT})")
    parser.add_argument("--runroot", type=Path, default=Path(RUNROOT), help=f"(default {RUNROOT})")
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help="shop or fleet; both")
    parser.parse_args(namespace=options)
    if unknown := set(options.examples) - set(EXAMPLES):
        parser.error(f"no example is called {', '.join(sorted(unknown))}")


def podrt(*arguments: str, quiet: bool = False, check: bool = True) -> str:
    """Run one podrt command. Its progress is shown, its result returned."""
    places = ["--root", str(options.root), "--runroot", str(options.runroot)]
    command = [str(PODRT), *places, *arguments]
    silent = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=silent, text=True, check=False)
    if check and done.returncode != 0:
        raise SystemExit(f"run: podrt {' '.join(arguments)} failed ({done.returncode})")
    return done.stdout


def say(text: str) -> None:
    print(f"\n=== {text}", flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Remember how long something took, for the table at the end."""
    start = time.monotonic()
    yield
    times.append((what, time.monotonic() - start))


@contextmanager
def the_only_run() -> Iterator[None]:
    """Two runs at once would remove each other's pods."""
    with open(f"{options.runroot}.lock", "w") as file:
        if not locked(file):
            print("run: another run of the examples is going on, waiting for it", flush=True)
            deadline = time.monotonic() + PATIENCE_S
            while not locked(file):
                if time.monotonic() > deadline:
                    raise SystemExit("run: the other run does not end")
                time.sleep(0.2)
        yield


def locked(file: TextIO) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end_with_the_parent() -> None:
    """When make is killed, clean up and end instead of going on alone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def remove_everything() -> None:
    """Remove this run's pods, or a former run's, and the directories they were in."""
    folders = [folder for folder in (options.root, options.runroot) if folder.exists()]
    if folders:
        quietly("pod", "rm", "--all", "--force", "--time", "2")
        quietly("rm", "--all", "--force", "--time", "2")
        quietly("image", "rm", IMAGE)
        quietly("system", "check", "--repair")
        check_nothing_is_left()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def quietly(*arguments: str) -> None:
    """A step of cleaning up; the ones after it are tried in any case."""
    podrt(*arguments, quiet=True, check=False)


def import_image() -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        subprocess.run([sys.executable, str(HERE / "make_rootfs.py"), file.name], check=True)
        podrt("image", "import", file.name, IMAGE)
    print(podrt("image", "ls"), end="")


def listed(*arguments: str) -> list[dict[str, Any]]:
    """A listing as data."""
    rows: list[dict[str, Any]] = json.loads(podrt(*arguments, "--format", "json") or "[]")
    return rows


def show(*arguments: str) -> None:
    """A listing for people; of a long one the beginning."""
    lines = podrt(*arguments).splitlines()
    print("\n".join(lines[: SHOWN + 1]))
    if len(lines) > SHOWN + 1:
        print(f"... and {len(lines) - SHOWN - 1} more")


def wait_log(container: str, word: str) -> str:
    """The container's log, once `word` stands in it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        text = podrt("logs", container)
        if word in text:
            return text
        if time.monotonic() > deadline:
            raise SystemExit(f"run: {container} did not say {word!r}; it said:\n{text}")
        time.sleep(0.1)


def play_shop() -> None:
    say("shop.yaml: one pod; db and cache, then web, then worker")
    with timed("shop: play"):
        podrt("kube", "play", str(HERE / "shop.yaml"))
    show("pod", "ps")
    show("ps")
    say("the worker's log: it went through web to the cache and the database")
    print(wait_log("shop-worker", "worker: done"), end="")
    with timed("shop: down"):
        podrt("kube", "down", str(HERE / "shop.yaml"))


def play_fleet() -> None:
    say("fleet.yaml: 50 pods of 2 containers, each pod with a network of its own")
    with timed("fleet: play 50 pods, 100 containers"):
        podrt("kube", "play", str(HERE / "fleet.yaml"))
    show("pod", "ps")
    show("ps")
    running = [row["Names"][0] for row in listed("ps") if row["Pid"]]
    callers = [name for name in running if name.endswith("-caller")]
    print(f"{len(running)} containers are running, each with a process of its own")
    if len(running) != 100 or len(callers) != 50:
        raise SystemExit("run: that is not the whole fleet")
    say("what some callers got from their own servers")
    for name in (callers[0], callers[len(callers) // 2], callers[-1]):
        print(f"{name}: {wait_log(name, 'hello').strip()}")
    with timed("fleet: down"):
        podrt("kube", "down", str(HERE / "fleet.yaml"))


def check_nothing_is_left() -> None:
    left = listed("pod", "ps") + listed("ps", "--all")
    if left:
        raise SystemExit(f"run: cannot remove {len(left)} pods and containers below {options.root}")


def main() -> None:
    parse()
    if os.geteuid() != 0:
        raise SystemExit("run: podrt needs root; try: sudo make run")
    end_with_the_parent()
    with the_only_run():
        if options.root.exists():
            say("removing what an interrupted run left")
            remove_everything()
        try:
            say(f"importing {IMAGE}")
            with timed("image: import"):
                import_image()
            for name, play in (("shop", play_shop), ("fleet", play_fleet)):
                if name in (options.examples or EXAMPLES):
                    play()
            check_nothing_is_left()
        finally:
            with timed("removing the rest"):
                remove_everything()
    say("times")
    for what, seconds in times:
        print(f"{seconds:8.2f} s  {what}")
    print("\nEverything is gone again. To keep pods: podrt kube play examples/shop.yaml")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
