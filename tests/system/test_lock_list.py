"""`podrt system locks`: what it says of locks and claims that real processes have."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.commands import Podrt, command_environment
from doubles.lock_peer import Peer
from podrt._fast import lockfile
from podrt.model.ids import new_id

SLEEP = ("base", "sleep", "1000")
Row = dict[str, Any]


@pytest.fixture
def running() -> Iterator[Callable[[list[str]], subprocess.Popen[str]]]:
    """Starts commands beside the test; all have ended after it."""
    with contextlib.ExitStack() as stack:

        def start(words: list[str]) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    words, stderr=subprocess.PIPE, env=command_environment(), text=True
                )
            )
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def bare(tmp_path: Path) -> Podrt:
    """The command on a root where nothing will run: a pod there is files only."""
    return Podrt(tmp_path)


@pytest.fixture
def peers(bare: Podrt) -> Iterator[Callable[[], Peer]]:
    """Other processes with the lock table open."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(Peer(str(bare.runroot / "locks")))


def rows(podrt: Podrt, *flags: str) -> dict[str, Row]:
    """The listing by "pod shop", "container web" or "gone"."""
    listed = podrt.listed("system", "locks", *flags)
    return {f"{row['Kind']} {row['Name']}": row for row in listed}


def until(look: Callable[[], Any]) -> Any:
    """What `look` gives once that is something."""
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def claim_of(podrt: Podrt, what: str) -> Callable[[], Row | None]:
    return lambda: rows(podrt)[what]["Claim"]


def test_locks_of_an_unused_root_are_none_and_make_nothing(bare: Podrt) -> None:
    assert bare("system", "locks").split() == [
        "LOCK", "OBJECT", "STATE", "HOLDER", "CLAIM", "WAITERS", "NOTE"
    ]  # fmt: skip
    assert bare.listed("system", "locks") == []
    assert not bare.root.exists() and not bare.runroot.exists()


def test_locks_at_rest_name_their_objects_and_nothing_else(bare: Podrt) -> None:
    pod = bare.pod("shop")
    found = rows(bare)
    assert sorted(key.split()[0] for key in found) == ["container", "pod"]
    number = bare("pod", "inspect", "shop").partition('"LockNumber": ')[2].split()[0]
    assert found["pod shop"] == {
        "Lock": int(number), "Kind": "pod", "Name": "shop", "Id": pod, "State": "allocated",
        "Holder": None, "Claim": None, "Waiters": [], "Notes": [],
    }  # fmt: skip
    assert bare("system", "locks", "--abandoned", "--noheading") == ""


def test_locks_show_a_stop_at_work_who_waits_for_it_and_who_ends_it(
    podrt: Podrt, running: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    podrt.pod("shop")
    podrt("run", "-d", "--pod", "shop", "--name", "web", *SLEEP)
    stop = running(podrt.words("pod", "stop", "-t", "600", "shop"))
    claim = until(claim_of(podrt, "pod shop"))
    assert (claim["Verb"], claim["Pid"], claim["Alive"]) == ("stop", stop.pid, True)
    assert (claim["Command"][:6], claim["PreemptedBy"]) == ("python", "")
    start = running(podrt.words("pod", "start", "shop"))
    until(lambda: rows(podrt)["pod shop"]["Waiters"] == [start.pid])
    start.kill()
    until(lambda: rows(podrt)["pod shop"]["Waiters"] == [])
    assert f"stop, {stop.pid} (python" in podrt("system", "locks")
    podrt("pod", "kill", "--signal", "HUP", "shop")
    assert rows(podrt)["pod shop"]["Claim"]["PreemptedBy"] == "", "HUP asks nobody to end"
    assert stop.poll() is None
    podrt("pod", "kill", "shop")
    assert stop.wait(30) == 125
    assert stop.stderr is not None
    assert stop.stderr.read() == "Error: pod shop is busy: ended by kill\n"
    assert rows(podrt)["pod shop"]["Claim"] is None
    web = podrt.listed("ps", "-a", "--filter", "name=web")[0]
    assert (web["State"], web["ExitCode"]) == ("stopped", 128 + signal.SIGKILL)


def test_forced_removal_ends_a_stop_that_waits_and_removes(
    podrt: Podrt, running: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    podrt.pod("shop")
    podrt("run", "-d", "--pod", "shop", "--name", "web", *SLEEP)
    stop = running(podrt.words("pod", "stop", "-t", "600", "shop"))
    until(claim_of(podrt, "pod shop"))
    podrt("pod", "rm", "--force", "--time", "0", "shop")
    assert stop.wait(30) == 125
    assert stop.stderr is not None
    assert stop.stderr.read() == "Error: pod shop is busy: ended by rm --force\n"
    assert rows(podrt) == {}


def test_locks_say_that_a_claim_is_a_dead_commands_and_the_next_verb_takes_it(
    podrt: Podrt, running: Callable[[list[str]], subprocess.Popen[str]]
) -> None:
    podrt.pod("shop")
    podrt("run", "-d", "--pod", "shop", "--name", "web", *SLEEP)
    stop = running(podrt.words("pod", "stop", "-t", "600", "shop"))
    until(claim_of(podrt, "pod shop"))
    stop.kill()
    stop.wait()
    row = rows(podrt, "--abandoned")["pod shop"]
    assert row["Notes"] == ["the claim is a dead process's"]
    assert (row["Claim"]["Verb"], row["Claim"]["Alive"], row["Claim"]["Command"]) == (
        "stop", False, ""
    )  # fmt: skip
    podrt("pod", "rm", "--force", "--time", "0", "shop")
    assert rows(podrt) == {}


def test_locks_show_holder_waiter_and_a_dead_holder(bare: Podrt, peers: Callable[[], Peer]) -> None:
    bare.pod("shop")
    number = rows(bare)["pod shop"]["Lock"]
    holder, waiter = peers(), peers()
    assert holder.call("acquire_nowait", number) == 1
    waiter.send("hold_many", number, 1)
    row = until(lambda: (row := rows(bare)["pod shop"])["Waiters"] and row)
    assert row["Holder"] == {"Pid": holder.pid, "Command": "python", "Alive": True}
    assert (row["Waiters"], row["Notes"]) == ([waiter.pid], [])
    waiter.kill()
    assert rows(bare)["pod shop"]["Waiters"] == [], "a dead process waits for nothing"
    holder.kill()
    row = rows(bare, "--abandoned")["pod shop"]
    assert row["Holder"] == {"Pid": holder.pid, "Command": "", "Alive": False}
    assert row["Notes"] == ["its holder died"]
    assert f"{holder.pid} (dead)" in bare("system", "locks", "-a")


def test_locks_without_an_owner_are_abandoned_until_repaired(
    bare: Podrt, peers: Callable[[], Peer]
) -> None:
    bare.pod("shop")
    stray = new_id()
    number = peers().call("allocate", stray)
    torn = peers().call("allocate", new_id())
    again = peers().call("allocate", rows(bare)["pod shop"]["Id"])
    tear(bare, torn)
    found = {row["Lock"]: row for row in bare.listed("system", "locks", "--abandoned")}
    assert sorted(found) == [number, torn, again]
    assert (found[number]["Kind"], found[number]["Id"]) == ("gone", stray)
    assert found[number]["Notes"] == ["its owner is gone"]
    assert found[torn]["Notes"] == ["half allocated by a process that died"]
    assert found[again]["Notes"] == [f"its owner uses lock {rows_lock(bare)}"]
    done = bare.run("system", "check")
    assert (done.returncode, done.stdout.count("\n")) == (1, 3), done.stdout
    assert bare("system", "check", "--repair").count("(repaired)") == 3
    assert bare("system", "locks", "--abandoned", "--noheading") == ""
    assert bare("system", "check") == ""


def rows_lock(bare: Podrt) -> int:
    return next(
        int(row["Lock"]) for row in bare.listed("system", "locks")
        if row["Kind"] == "pod" and not row["Notes"]
    )  # fmt: skip


def tear(bare: Podrt, number: int) -> None:
    """The state in which a process leaves an entry that dies while it allocates it."""
    allocating, never_used_slot = 1, 4095
    entry = lockfile.CHUNKS_AT + lockfile.PAGE + number * lockfile.ENTRY_BYTES
    with open(bare.runroot / "locks", "r+b") as file:
        file.seek(entry + 48)
        file.write(struct.pack("<I", allocating | never_used_slot << 2))


def test_locks_of_a_table_that_cannot_be_read_fail_in_one_line(bare: Podrt) -> None:
    bare.pod("shop")
    table = bare.runroot / "locks"
    kept = table.read_bytes()
    for damaged in (b"", b"no table" * 100, kept[:5000], b"\0" * len(kept)):
        table.write_bytes(damaged)
        assert str(table) in bare.fails(125, "system", "locks")
    table.unlink()
    table.mkdir()
    assert str(table) in bare.fails(125, "system", "locks")
    table.rmdir()
    assert rows(bare) == {}
    table.write_bytes(kept)


def test_locks_with_a_wrong_command_line_fail_in_one_line(bare: Podrt) -> None:
    for words in (["--format", "{{.Lock"], ["--such"], ["shop"]):
        bare.fails(125, "system", "locks", *words)


def test_locks_are_refused_to_another_user_in_one_line(bare: Podrt) -> None:
    script = """
import os, sys
import podrt.cli.kube, podrt.cli.system, podrt.runtime.lock_list
from podrt.cli.main import main
os.setresgid(1000, 1000, 1000)
os.setresuid(1000, 1000, 1000)
sys.exit(main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *bare.words("system", "locks")[3:]],
        capture_output=True, text=True, check=False, env=command_environment(),
    )  # fmt: skip
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1 and "podrt needs root" in done.stderr


def test_locks_are_listed_while_every_lock_is_held(bare: Podrt, peers: Callable[[], Peer]) -> None:
    bare.pod("shop")
    holder = peers()
    for row in rows(bare).values():
        assert holder.call("acquire_nowait", row["Lock"]) == 1
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        assert {row["Holder"]["Pid"] for row in rows(bare).values()} == {holder.pid}
        assert len(bare.listed("pod", "ps")) == 1
    finally:
        os.kill(holder.pid, signal.SIGCONT)


def test_locks_do_not_load_trio(bare: Podrt) -> None:
    bare.pod("shop")
    script = """
import sys
from podrt.cli.main import main
assert main(sys.argv[1:]) == 0
assert "trio" not in sys.modules and "asyncio" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-c", script, *bare.words("system", "locks")[3:]],
        check=True, stdout=subprocess.DEVNULL, env=command_environment(),
    )  # fmt: skip
