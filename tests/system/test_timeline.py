"""`pod start --timeline` on real processes: what it says fits what the kernel says."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from doubles.commands import Podrt

SLEEP = ("base", "/bin/sleep", "1000")


def member(podrt: Podrt, name: str, *flags: str, command: tuple[str, ...] = SLEEP) -> None:
    podrt("create", "--pod", "shop", "--name", name, "--stop-timeout", "0", *flags, *command)


def tracks(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Every container's events by its name."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return {
        name: [e for e in events if e["tid"] == tid and e["ph"] != "M"]
        for tid, name in names.items()
    }


def end_of(track: list[dict[str, Any]]) -> dict[str, Any]:
    return next(event for event in track if event["cat"] == "end")


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_start_with_timeline_tells_waits_and_stages_in_order(podrt: Podrt, tmp_path: Path) -> None:
    podrt.pod("shop")
    member(podrt, "db")
    member(podrt, "web", "--requires", "db")
    path = tmp_path / "start.json"
    podrt("pod", "start", "--timeline", str(path), "shop")
    found = tracks(path)
    db, web = found["db"], found["web"]
    assert end_of(db)["name"] == end_of(web)["name"] == "running"
    waits = [event for event in web if event["cat"] == "wait"]
    assert [event["name"] for event in waits] == ["wait for db"]
    # Who waited went on only once what it waited for ran.
    assert waits[0]["ts"] + waits[0]["dur"] >= end_of(db)["ts"]
    for track in (db, web):
        stages = [event for event in track if event["cat"] == "stage"]
        names = [event["name"] for event in stages]
        assert names[0] == "clone" and names[-1] == "exec"
        assert {"mount /proc", "mask /proc/keys", "switch root", "load seccomp filter"} < set(names)
        at = [event["ts"] for event in track]
        assert at == sorted(at)
        assert all(a["ts"] + a["dur"] <= b["ts"] + 0.01 for a, b in itertools.pairwise(stages))


def test_stage_times_are_those_of_the_process(podrt: Podrt, tmp_path: Path) -> None:
    podrt.pod("shop")
    member(podrt, "db")
    path = tmp_path / "start.json"
    podrt("pod", "start", "--timeline", str(path), "shop")
    db = tracks(path)["db"]
    begun_s = json.loads(path.read_text())["otherData"]["begun_at_ns"] / 1e9
    clone = next(event for event in db if event["name"] == "clone")
    # The kernel's own stamp of the process lies between clone and running.
    pid = next(int(row["Pid"]) for row in podrt.listed("ps") if row["Names"] == ["db"])
    boot_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks_s = 2 / os.sysconf("SC_CLK_TCK")
    born_s = boot_s + start_ticks(pid) / os.sysconf("SC_CLK_TCK") - begun_s
    assert clone["ts"] / 1e6 - ticks_s <= born_s <= end_of(db)["ts"] / 1e6 + ticks_s


def test_failed_start_is_in_the_timeline_with_who_was_not_tried(
    podrt: Podrt, tmp_path: Path
) -> None:
    podrt.pod("shop")
    member(podrt, "db", command=("base", "/bin/none"))
    member(podrt, "web", "--requires", "db")
    path = tmp_path / "start.json"
    assert podrt.run("pod", "start", "--timeline", str(path), "shop").returncode == 125
    found = tracks(path)
    assert "/bin/none" in end_of(found["db"])["name"]
    assert end_of(found["db"])["name"].startswith("failed: ")
    assert "dependency of container web failed" in end_of(found["web"])["name"]


def test_timeline_that_cannot_be_written_starts_nothing(podrt: Podrt, tmp_path: Path) -> None:
    podrt.pod("shop")
    member(podrt, "db")
    path = str(tmp_path / "none" / "start.json")
    assert f"cannot write {path}" in podrt.fails(125, "pod", "start", "--timeline", path, "shop")
    assert podrt.listed("pod", "ps")[0]["Status"] == "Created"


def test_picture_has_a_row_for_each_container_and_replaces_what_was_there(
    podrt: Podrt, tmp_path: Path
) -> None:
    podrt.pod("shop")
    member(podrt, "db")
    path = tmp_path / "start.svg"
    path.write_text("x" * 1_000_000)
    podrt("pod", "start", "--timeline", str(path), "shop")
    text = path.read_text()
    assert text.startswith("<svg ") and text.endswith("</svg>\n")
    assert ">db</text>" in text and "<title>mount /proc: " in text and "<title>running" in text
