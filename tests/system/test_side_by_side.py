"""Containers of podman + crun and of podrt, made with the same flags, see the same.

Whatever differs is in one of two tables with its reason: what is meant to differ, and what podrt
does not do yet. Everything else fails the test.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from doubles.commands import BUSYBOX, Podrt
from doubles.oci_runtime import remove_cgroups
from doubles.side_by_side import (
    Podman,
    comparable,
    compile_probe,
    differences,
    image_archive,
    read_facts,
    start_podrt,
)

# What `make test` looks at, then the rest. VOLUME is a directory of the test's own.
FLAG_SETS = (
    "--env A=1 --env EMPTY=",
    "--privileged",
    "--user ann:staff --group-add extra",
    "--cap-drop ALL --cap-add CHOWN --cap-add SYS_PTRACE",
    "--read-only --tmpfs /data --volume VOLUME:/made:ro,nosuid,nodev,noexec",
    "--security-opt seccomp=unconfined --security-opt unmask=ALL --device /dev/fuse",
    "--security-opt no-new-privileges --user 7 --umask 0027 --workdir /data",
    "--memory 64m --cpus 0.5 --pids-limit 100 --sysctl kernel.shm_rmid_forced=1",
    "--cap-add NET_ADMIN",
    "--cap-add SYS_ADMIN",
    "--cap-add ALL",
    "--cap-drop ALL",
    "--cap-drop KILL,CHOWN",
    "--cap-add MKNOD,NET_RAW,AUDIT_WRITE",
    "--cap-add BPF,PERFMON,SYS_TIME,SYS_MODULE,SYS_BOOT",
    "--privileged --user 7:8",
    "--user 7",
    "--user 7:9",
    "--user ann",
    "--user 7:8 --cap-add NET_BIND_SERVICE",
    "--user 1234 --group-add 60",
    "--group-add extra --group-add 99",
    "--read-only",
    "--tmpfs /made",
    "--tmpfs /data:rw,size=1m,mode=700,noexec",
    "--volume VOLUME:/made",
    "--volume VOLUME:/made:ro",
    "--volume VOLUME:/made:rslave",
    "--volume VOLUME:/made/deep/er",
    "--volume named:/data",
    "--device /dev/fuse:/dev/made:r",
    "--sysctl net.ipv4.ip_forward=1",
    "--ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=50:60",
    "--hostname other",
    "--security-opt mask=/proc/bus --security-opt mask=/etc",
    "--security-opt mask=/proc/bus:/etc",
    "--security-opt unmask=/proc/acpi --security-opt unmask=/sys/firmware",
    "--security-opt unmask=/proc/acpi:/sys/firmware",
    "--security-opt unmask=/proc/*",
    "--security-opt unmask=/sys/*",
    "--security-opt seccomp=unconfined",
    "--security-opt no-new-privileges",
    "--pids-limit -1",
    "--memory 64m --memory-reservation 32m",
    "--cpu-shares 512 --cpuset-cpus 0",
    "--oom-score-adj 500",
    "--shm-size 1m",
    "--ipc host",
    "--uts host",
    "--pid host",
    "--network host",
    "--entrypoint /bin/probe",
    "--stop-signal USR1",
    "--env PATH=/bin --env HOME=/x --label a=b",
    "--ipc private --uts private --pid private",
)
SAMPLE = 8


class Row(NamedTuple):
    """Facts that may differ: their names, podrt's and podman's values, with which flags, why."""

    facts: str
    ours: str
    theirs: str
    reason: str
    flags: str = ""


NONE = "-"
MEANT = (
    Row("environment container", "podrt", "podman", "each names itself"),
    Row("environment TERM", NONE, "xterm", "4.3.1: set without a terminal too; not today's"),
    Row("namespace cgroup", "own", "host", "security.md: an own cgroup namespace on v1 as well"),
    Row("process pid|status NSpid", r"\d+", r"\d+", "a number of the host's", "--pid host"),
    Row("status SigIgn", "0+", "[0-9a-f]+", "podman passes on what its caller ignored"),
    Row("status Groups", r"0( \d+)*", r"[\d ]*", "4.3.1: the first group was not among them"),
    Row("call (443|449|45[1-6])", r"\d+", "38", "newer than the libseccomp that crun uses"),
    Row("call socket 40", "1", "0", "the newer profile forbids AF_VSOCK"),
    Row("call (298|321)", r"\d+", "1", "newer profile: with CAP_PERFMON, CAP_BPF", "PERFMON"),
    Row("mount /proc/interrupts", "devtmpfs .*", NONE, "security.md: today's masks as well"),
    Row(
        "mount /proc/(keys|timer_list)",
        r"devtmpfs \([^)]*\) relatime,ro",
        r"tmpfs \([^)]*\) relatime,ro",
        "each masks with the /dev/null that it was given; neither can be changed through it",
    ),
    Row("path /proc/interrupts", "20666 1:3 .*", "100444 .*", "security.md: today's masks"),
    Row(
        "mount /proc/(acpi|bus|fs|irq|sys)|mount /sys/(dev/block|firmware)|mount /etc",
        r"(proc|tmpfs) \([^)]*\) nodev,noexec,nosuid,relatime,ro( \| tmpfs .*)?",
        r"(proc|tmpfs) \([^)]*\) relatime,ro( \| tmpfs .*)?",
        "masks and read-only paths keep every flag of the mount they lie on",
    ),
    Row(
        "path (/proc/(acpi|bus)|/sys/(dev/block|firmware)|/etc)",
        "40755 .* open=empty write=(Read-only file system|Permission denied)",
        "41777 .* open=empty write=Read-only file system",
        "an empty read-only directory of another mode",
    ),
    Row("mount /sys/fs/cgroup", r"tmpfs .*,r[ow]", "tmpfs .*,rw", "security.md: read-only"),
    Row("path /sys/fs/cgroup", "40755 .*", "41777 .*", "security.md: read-only"),
    Row("path /", "40755 (.*)", "40555 (.*)", "podman's import makes / so"),
    Row("mount /etc/resolv.conf", "disk .*", NONE, "4.3.1 has none without a network"),
    Row("path /etc/resolv.conf", "100644 .*", "No such file.*", "as above"),
    Row("mount /run/.containerenv", NONE, "disk relatime,rw", "a file of the lowest layer"),
    Row("path /run/.containerenv", "100644 .*", "100644 .*|No such file.*", "as above"),
    Row("path /run", "40755 .*", "41777 .*", "crun 1.8 forgets the mode; runc keeps it", "read-o"),
    Row("path /(data|made)", "40755 .*", "41777 .*", "as above", "--tmpfs /(data|made)( |$)"),
    Row("path /made", "40755 .*", "41755 .*", "crun 1.8 makes it sticky", "/made/deep"),
    Row("environment HOSTNAME|sysctl .*/hostname", "ID", ".*", "an own uts namespace", "rk host"),
)
MISSING = (
    Row("path /etc/mtab", "No such file.*", "120777 .*", "the link is not made"),
    Row("path /data", ".*empty.*", ".*full.*", "a new volume takes no content over", "named"),
    Row("(device|mount) /dev/mqueue", NONE, ".*", "the host's is not bound", "--ipc host"),
)


@pytest.fixture
def peer(tmp_path_factory: pytest.TempPathFactory, cgroup_parent: str) -> Iterator[Podman]:
    """podman with crun; afterwards nothing of it is left."""
    for needed in ("podman", "crun", "conmon", "gcc"):
        if shutil.which(needed) is None:
            pytest.skip(f"needs {needed}")
    parent = f"{cgroup_parent}_p"
    made = Podman(tmp_path_factory.mktemp("p"), parent)
    yield made
    made.remove()
    remove_cgroups(parent)


@pytest.fixture
def both(tmp_path: Path, cgroup_parent: str, peer: Podman) -> Iterator[tuple[Podrt, Podman]]:
    """podrt and podman with the same image `base`."""
    if not BUSYBOX:
        pytest.skip("needs busybox")
    archive = str(image_archive(tmp_path / "image.tar", compile_probe(tmp_path)))
    command = Podrt(tmp_path, cgroup_parent)
    command("image", "import", archive, "base")
    imported = peer.run("import", archive, "base")
    assert imported.returncode == 0, imported.stderr
    yield command, peer
    command.remove_all()
    assert command.is_clean()


def explained(row: Row, flags: str, name: str, values: tuple[str, str]) -> bool:
    return bool(
        re.fullmatch(row.facts, name)
        and re.fullmatch(row.ours, values[0])
        and re.fullmatch(row.theirs, values[1])
        and re.search(row.flags, flags)
    )


def unexplained(flags: str, both: tuple[Podrt, Podman], used: set[Row]) -> list[str]:
    """What differs with these flags and stands in no table."""
    podrt, podman = both
    words = flags.replace("VOLUME", str(podrt.root.parent / "volume")).split()
    network = [] if "--network" in words else ["--network", "none"]
    command = ("base",) if "--entrypoint" in words else ("base", "probe")
    with ThreadPoolExecutor(2) as pool:
        ours = pool.submit(start_podrt, podrt, *network, *words, *command)
        theirs = pool.submit(podman.start, *network, *words, *command)
    for done in (ours.result(), theirs.result()):
        if done.returncode != 0:
            return [f"{flags}: {done.returncode} {done.stderr}"]
    left = []
    seen = [comparable(read_facts(run.result().stdout)) for run in (ours, theirs)]
    for name, values in differences(seen[0], seen[1]).items():
        rows = [row for row in (*MEANT, *MISSING) if explained(row, flags, name, values)]
        used.update(rows)
        if not rows:
            left.append(f"{flags}: {name}: podrt {values[0]!r}, podman {values[1]!r}")
    assert len(seen[0]) > 600
    return left


def test_container_of_podman_and_of_podrt_see_the_same(
    both: tuple[Podrt, Podman], rounds: Callable[[int, int], int], tmp_path: Path
) -> None:
    (tmp_path / "volume").mkdir()
    chosen = FLAG_SETS[: rounds(SAMPLE, len(FLAG_SETS))]
    used: set[Row] = set()
    found = [line for flags in chosen for line in unexplained(flags, both, used)]
    assert not found, "\n".join(found)
    if len(chosen) == len(FLAG_SETS) and os.path.exists("/sys/fs/cgroup/memory"):
        stale = [row.facts for row in MEANT if row not in used and "SigIgn" not in row.facts]
        assert not stale, f"rows that explain nothing any more: {stale}"
