"""`top`, `stats` and `pod graph` on real processes, held against /proc and the cgroup files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from doubles.commands import BUSYBOX, command_environment
from doubles.places import CGROUPS, Place, open_place, until
from podrt.cli.columns import COLUMNS
from podrt.cli.main import main
from podrt.model.container import ContainerConfig, InitKind
from podrt.model.resources import Resources
from podrt.model.verbs import Verb
from podrt.runtime.claims import claim, lock_of


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


class Reader:
    """Reading commands in this process: they are synchronous."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        settings = place.ctx.settings
        self.places = ["--root", settings.root, "--runroot", settings.runroot]
        self._capsys = capsys

    def __call__(self, *words: str) -> str:
        assert main([*self.places, *words]) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out

    def rows(self, *words: str) -> list[list[str]]:
        """The lines of a table below its heading, split at two blanks or more."""
        lines = self(*words).splitlines()
        return [[cell for cell in line.split("  ") if cell.strip()] for line in lines[1:]]

    def data(self, *words: str) -> Any:
        return json.loads(self(*words, "--format", "json"))

    def fails(self, *words: str) -> str:
        assert main([*self.places, *words]) == 125
        out, error = self._capsys.readouterr()
        assert out == ""
        return error.splitlines()[0].removeprefix("Error: ")


@pytest.fixture
def read(place: Place, capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(place, capsys)


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def start_family(place: Place, name: str = "web", *, user: str = "ann") -> int:
    """A container that runs a shell and two sleeping children; the shell's pid."""
    container = await place.runtime.create_container(
        ContainerConfig(
            name=name,
            image="base",
            command=("/bin/sh", "-c", "sleep 1000 & sleep 1001 & wait"),
            user=user,
            stop_timeout_s=0,
            cgroup_parent=place.cgroup_parent,
        )
    )
    await container.start()
    pid = place.pid(name)
    await until(lambda: len(children_of(pid)) == 2)
    # Forked, but not yet in their program.
    await until(lambda: all("sleep" in name_of(child) for child in children_of(pid)))
    return pid


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


# --- top ------------------------------------------------------------------------------------------


async def test_top_shows_numbers_and_users_as_they_are_inside(place: Place, read: Reader) -> None:
    pid = await start_family(place)
    family = [pid, *children_of(pid)]
    heading = read("top", "web").splitlines()[0].split()
    assert heading == ["USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND"]
    rows = read.rows("top", "web", "hpid,pid", "ppid", "user", "comm")
    assert [int(row[0]) for row in rows] == family
    assert [row[1] for row in rows] == [status_of(one)["NSpid"][-1] for one in family]
    assert [row[2].strip() for row in rows] == ["0", "1", "1"]
    assert {row[3].strip() for row in rows} == {"ann"}
    assert [row[4].strip() for row in rows] == ["sh", "sleep", "sleep"]
    assert read.rows("top", "web")[0][-1].endswith("sleep 1000 & sleep 1001 & wait")


async def test_top_descriptors_agree_with_proc(place: Place, read: Reader) -> None:
    pid = await start_family(place, user="root")
    words = ["state", "nice", "pgid", "seccomp", "rss", "vsz", "tty", "capamb", "capbnd"]
    row = read.rows("top", "web", *words)[0]
    found = {word: cell.strip() for word, cell in zip(words, row, strict=True)}
    status = status_of(pid)
    assert found["rss"] == status["VmRSS"][0]
    assert found["vsz"] == status["VmSize"][0]
    nice = str(os.getpriority(os.PRIO_PROCESS, pid))
    assert (found["state"], found["nice"], found["tty"]) == (status["State"][0], nice, "?")
    assert (found["seccomp"], found["capamb"], found["pgid"]) == ("filter", "none", "1")
    names = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP")
    assert found["capbnd"] == ",".join([*names, "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"])
    assert read.rows("top", "web", "%U", "%p", "huser", "hgroup", "groups")[0][1].strip() == "1"
    everything = read("top", "web", ",".join(COLUMNS)).splitlines()
    assert len(everything) == 4 and everything[0].startswith("COMMAND")


async def test_top_looks_up_users_in_the_container_and_is_not_led_out_of_it(
    place: Place, read: Reader, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("stolen:x:7:8::/:/bin/sh\n")
    scripts = {
        "link": f"/bin/busybox ln -sf {secret} /etc/passwd; exec /bin/sleep 1000",
        "pipe": "/bin/busybox rm /etc/passwd; /bin/busybox mkfifo /etc/passwd; "
        "exec /bin/sleep 1000",
    }
    for name, script in scripts.items():
        container = await place.add(None, name, "/bin/sh", "-c", script)
        await container.start()
        pid = place.pid(name)
        await until(lambda pid=pid: name_of(pid).strip() == "sleep")
        assert read("top", name, "user", "huser").split() == ["USER", "HUSER", "0", "root"]


async def test_top_writes_nothing_but_text_on_the_terminal(place: Place, read: Reader) -> None:
    container = await place.add(None, "a", "/bin/sh", "-c", "sleep 1000; :", "\x1b]0;title\x07")
    await container.start()
    shown = read("top", "a")
    assert "\x1b" not in shown and "?]0;title?" in shown


async def test_top_of_a_pod_shows_all_that_runs_in_it(place: Place, read: Reader) -> None:
    pod = await place.pod("a", "b", "c")
    await place.runtime.container("b").stop()
    await place.runtime.container("c").pause()
    assert [row[0] for row in read.rows("pod", "top", "shop", "hpid")] == [str(place.pid("a"))]
    await pod.unpause()
    assert len(read.rows("pod", "top", "--latest")) == 2


async def test_top_of_what_does_not_run_is_refused(place: Place, read: Reader) -> None:
    container = await place.add(None, "a")
    assert "top can only be used on running containers" in read.fails("top", "a")
    await container.start()
    await container.pause()
    assert "top can only be used on running containers" in read.fails("top", "a")
    assert read.fails("top", "a", "pid,nothing") == "'nothing': unknown descriptor"
    assert read.fails("top", "nothing") == "no such container: nothing"
    assert read.fails("pod", "top", "nothing") == "no such pod: nothing"
    assert "name or id of a running container" in read.fails("top")
    assert "name or id of a running pod" in read.fails("pod", "top", "--latest")


async def test_reading_without_cgroups_shows_what_can_be_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, "", cgroup_manager="disabled") as place:
        read = Reader(place, capsys)
        read.places += ["--cgroup-manager", "disabled"]
        pid = await start_family(place)
        pids = [int(row[0]) for row in read.rows("top", "web", "hpid")]
        assert pids == [pid, *children_of(pid)]
        assert read.data("stats", "--no-stream", "web")[0]["mem_usage"] == "0B / 0B"


# --- stats ----------------------------------------------------------------------------------------


def figure(pid: int, controller: str, first: str, second: str) -> int:
    """A number from a process's cgroup: the v1 file `first`, or the v2 file `second`."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if controller in controllers.split(","):
            return int((CGROUPS / controller / path[1:] / first).read_text())
    path = next(path for _, controllers, path in lines if not controllers)
    return int((CGROUPS / path[1:] / second).read_text())


async def test_stats_are_what_the_cgroup_files_say(place: Place, read: Reader) -> None:
    pid = await start_family(place)
    (found,) = read.data("stats", "--no-stream", "web")
    assert (found["id"], found["name"]) == (place.runtime.container("web").id[:12], "web")
    assert int(found["pids"]) == 3 == figure(pid, "pids", "pids.current", "pids.current")
    used = figure(pid, "memory", "memory.usage_in_bytes", "memory.current")
    text = read("stats", "--no-stream", "web", "--format", "json")
    assert used > 0 and " / " in found["mem_usage"] and "%" in found["cpu_percent"]
    assert set(json.loads(text)[0]) == {
        "id", "name", "cpu_time", "cpu_percent", "avg_cpu", "mem_usage", "mem_percent", "net_io",
        "block_io", "pids",
    }  # fmt: skip
    heading = read("stats", "--no-stream").splitlines()[0]
    assert heading.startswith("ID") and heading.endswith("AVG CPU %")


async def test_stats_show_the_limit_and_the_memory_in_use(place: Place, read: Reader) -> None:
    pod = await place.empty_pod()
    container = await place.runtime.create_container(
        ContainerConfig(
            name="a",
            pod=pod.id,
            image="base",
            # Filling a shared memory file is counted against the container that writes it.
            command=("/bin/sh", "-c", "head -c 20000000 /dev/zero >/dev/shm/x; exec sleep 1000"),
            resources=Resources(memory_bytes=64 << 20),
            stop_timeout_s=0,
        )
    )
    assert container.name == "a"
    await pod.start()
    pid = place.pid("a")
    await until(lambda: name_of(pid).strip() == "sleep")
    used = figure(pid, "memory", "memory.usage_in_bytes", "memory.current")
    member, total = read.data("pod", "stats", "--no-stream", "shop")[1:]
    assert used > 19_000_000
    shown, limit = member["MemUsage"].split(" / ")
    assert limit == "67.11MB" and shown.endswith("MB")
    assert abs(float(shown.removesuffix("MB")) * 1e6 - used) < 2_000_000
    assert member["MemUsageBytes"].endswith("64MiB")
    assert abs(float(member["Mem"].removesuffix("%")) - 100 * used / (64 << 20)) < 5
    assert (total["CID"], total["Name"], total["Pod"]) == ("total", "shop", pod.id[:12])
    assert int(total["PIDS"]) == 1


async def test_stats_of_a_pod_have_a_row_for_each_member_and_one_for_all(
    place: Place, read: Reader
) -> None:
    pod = await place.pod("a", "b", "c")
    await place.runtime.container("c").stop()
    found = read.data("pod", "stats", "--no-stream", "--no-trunc", "shop")
    ids = [container.id for container in pod.containers()]
    assert [row["CID"] for row in found] == [*ids, "total"]
    assert [row["PIDS"] for row in found] == ["--", "1", "1", "--", "2"]
    assert found[3]["MemUsage"] == "-- / --" and found[3]["CPU"] == "--"
    await pod.stop()
    assert read.data("pod", "stats", "--no-stream") == []
    assert [row["PIDS"] for row in read.data("pod", "stats", "--no-stream", "-a")] == ["--"] * 5
    names = [row["name"] for row in read.data("stats", "--no-stream", "--all")]
    assert names[1:] == ["a", "b", "c"]
    assert read.data("stats", "--no-stream", "a")[0]["mem_usage"] == "0B / 0B"


async def test_stats_count_the_cpu_since_the_former_look(place: Place, read: Reader) -> None:
    container = await place.add(None, "busy", "/bin/sh", "-c", "while :; do :; done")
    await container.start()
    words = [*read.places, "stats", "--interval", "1", "--format", "json", "busy"]
    shares: list[float] = []
    text = ""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "podrt", *words], stdout=subprocess.PIPE, env=command_environment()
    )
    assert process.stdout is not None
    with trio.fail_after(60):
        try:
            while len(shares) < 2:
                text += (await process.stdout.receive_some()).decode()
                shares = [float(share) for share in re.findall(r'"cpu_percent": "([\d.]+)%"', text)]
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await process.stdout.aclose()
    # It wants a whole CPU; how much of one it gets is up to what else runs here.
    assert 5 < shares[1] < 110
    await container.kill(signal.SIGKILL)


async def test_stats_of_what_is_not_there_are_refused(place: Place, read: Reader) -> None:
    assert read.fails("stats", "--no-stream", "nothing") == "no such container: nothing"
    assert read.fails("pod", "stats", "--no-stream", "nothing") == "no such pod: nothing"
    assert "cannot be used together" in read.fails("stats", "--all", "a")
    assert "at least 1" in read.fails("pod", "stats", "--interval", "0")
    assert "template" in read.fails("stats", "--format", "{{.ID")
    assert read("stats", "--no-stream").count("\n") == 1


# --- graph ----------------------------------------------------------------------------------------


async def test_graph_shows_states_and_what_waits_for_what(place: Place, read: Reader) -> None:
    pod = await place.empty_pod()
    await place.add(pod, "web", "/bin/false")
    await place.add(pod, "seed", "/bin/true", init=InitKind.ALWAYS)
    await place.add(pod, "db")
    await place.add(pod, "till", needs=("db",))
    await pod.start()
    await place.runtime.container("web").wait()
    infra = f"{pod.id[:12]}-infra"
    found = read.data("pod", "graph", "shop")
    names = {one["Id"]: one["Name"] for one in found["Containers"]}
    assert (found["Name"], found["State"]) == ("shop", "Degraded")
    assert list(names.values()) == [infra, "web", "seed", "db", "till"]
    assert [one["State"] for one in found["Containers"]] == [
        "running", "stopped", "stopped", "running", "running",
    ]  # fmt: skip
    edges = {(names[one["From"]], names[one["To"]]) for one in found["Edges"]}
    assert edges == {(name, infra) for name in ("web", "seed", "db", "till")} | {("till", "db")}
    lines = read("pod", "graph", "shop").splitlines()
    assert lines[0] == "pod shop: Degraded"
    assert lines[3].split() == ["web", "stopped", "(1)", infra]
    assert lines[-1].split() == ["till", "running", f"{infra},", "db"]
    dot = read("pod", "graph", "--format", "dot", "shop")
    assert '"till" -> "db";' in dot and dot.startswith('digraph "shop" {') and dot.count("->") == 5
    mermaid = read("pod", "graph", "--format", "mermaid", "--latest")
    assert 'n3["db<br/>running"]' in mermaid and "n4 --> n3" in mermaid
    assert read.fails("pod", "graph") == "you must provide the name or id of one pod"
    assert read.fails("pod", "graph", "nothing") == "no such pod: nothing"
    assert "none of text" in read.fails("pod", "graph", "--format", "svg", "shop")


# --- how they read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["top", "a"],
        ["pod", "top", "shop"],
        ["stats", "--no-stream"],
        ["pod", "stats", "--no-stream"],
        ["pod", "graph", "shop"],
    ],
    ids=" ".join,
)
async def test_reading_loads_no_trio_and_waits_for_no_verb(
    place: Place, read: Reader, words: list[str]
) -> None:
    pod = await place.pod("a")
    program = (
        f"import sys\nfrom podrt.cli.main import main\ncode = main({[*read.places, *words]!r})\n"
        "assert not {'trio', 'asyncio'} & set(sys.modules), 'loaded'\nraise SystemExit(code)"
    )
    async with claim(place.ctx, pod.id, Verb.RESTART), place.ctx.locks.hold(lock_of(pod.record())):
        with trio.fail_after(60):
            done = await trio.run_process(
                [sys.executable, "-c", program],
                env={**os.environ, **command_environment()},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") >= 2
