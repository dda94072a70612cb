"""podman and podrt side by side: one image, the same flags, and what the probe inside says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from doubles.archives import directory, entry, symlink, tar_of
from doubles.commands import APPLETS, BUSYBOX, Podrt, command_environment

PROBE_SOURCE = Path(__file__).parent / "container_probe.c"
PATIENCE_S = 100
# podman starts no containers without these where hard limits cannot be raised.
LIMITS = ("nofile=1024:1024", "nproc=4096:4096")
# What today's podman grants where it is not told otherwise, and 4.3.1 did not yet.
CONFIG = f"""
[containers]
default_ulimits = ["{LIMITS[0]}", "{LIMITS[1]}"]
default_sysctls = ["net.ipv4.ping_group_range=0 0"]
default_capabilities = [
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT",
]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
# crun refuses the hybrid layout, so it sees v1 alone; and it gives the /dev/null that is its
# standard input to the container's user, so it sees one of its own. Both in a mount namespace.
SHIELDED = """
umount /sys/fs/cgroup/unified 2>/dev/null
mount -t tmpfs -o mode=700,nosuid none "$0" && mknod -m 666 "$0/null" c 1 3 &&
mount --bind "$0/null" /dev/null && exec "$@" </dev/null
"""

Facts = dict[str, dict[str, str]]


def compile_probe(folder: Path) -> Path:
    """The probe, static."""
    made = folder / "probe"
    words = ["gcc", "-std=gnu11", "-O1", "-static", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*words, str(PROBE_SOURCE), "-o", str(made)], check=True)
    return made


def image_archive(path: Path, probe: Path) -> Path:
    """A root file system with busybox and the probe, as an archive at `path`."""
    accounts = b"root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:/bin/sh\n"
    groups = b"root:x:0:\nann:x:8:\nstaff:x:50:ann\nextra:x:60:\n"
    members = [
        directory("tmp", 0o1777),
        directory("root", 0o700),
        directory("data"),
        entry("data/kept", b"kept\n"),
        entry("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755),
        entry("bin/probe", probe.read_bytes(), mode=0o755),
        entry("etc/passwd", accounts),
        entry("etc/group", groups),
    ]
    path.write_bytes(tar_of([*members, *(symlink(f"bin/{name}", "busybox") for name in APPLETS)]))
    return path


def read_facts(output: str) -> Facts:
    """What the probe printed: section -> name -> value."""
    found: Facts = {}
    for line in output.splitlines():
        section, _, rest = line.partition("\t")
        name, _, value = rest.partition("\t")
        section_facts = found.setdefault(section, {})
        # Several lines of one file, several mounts on one point: each counts.
        section_facts[name] = f"{section_facts[name]}; {value}" if name in section_facts else value
    return found


class Podman:
    """podman with crun, conmon and stores of its own."""

    def __init__(self, folder: Path, parent: str, runtime: str = "crun") -> None:
        self.folder = folder
        self.parent = parent
        (folder / "null").mkdir()
        config = folder / "containers.conf"
        config.write_text(CONFIG)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(config)}
        shielded = ["unshare", "-m", "sh", "-c", SHIELDED, f"{folder}/null"]
        self.command = [
            *shielded, "podman", "--root", f"{folder}/graph", "--runroot", f"{folder}/run",
            "--tmpdir", f"{folder}/tmp", "--storage-driver", "vfs", "--runtime", runtime,
        ]  # fmt: skip

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [*self.command, *words],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=self.environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`podman run` in the test's cgroup."""
        return self.run("run", "--rm", "--cgroup-parent", self.parent, *words)

    def remove(self) -> None:
        """Containers, images and files."""
        self.run("rm", "--all", "--force", "--time", "0")
        self.run("rmi", "--all", "--force")
        shutil.rmtree(self.folder, ignore_errors=True)


def start_podrt(podrt: Podrt, *words: str) -> subprocess.CompletedProcess[str]:
    """`podrt run` with the limits that podman's containers get here."""
    places = ["--root", str(podrt.root), "--runroot", str(podrt.runroot)]
    parent = ["--cgroup-parent", podrt.cgroup_parent]
    if "--ulimit" not in words:
        parent += [word for limit in LIMITS for word in ("--ulimit", limit)]
    return subprocess.run(
        [sys.executable, "-m", "podrt", *places, "run", "--rm", *parent, *words],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        env=command_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip


# --- what cannot be the same -------------------------------------------------------------------

ID = re.compile(r"\b[0-9a-f]{12}(?:[0-9a-f]{52})?\b")
NULL_OWNER = re.compile(r"1:3 uid=\d+ gid=\d+")
STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
          "Seccomp", "Umask", "SigBlk", "SigIgn", "SigCgt", "NSpid")  # fmt: skip
# Options that say where a file system lies, or what memory the machine has.
PLACES = (
    "lowerdir+",
    "lowerdir",
    "upperdir",
    "workdir",
    "source",
    "errors",
    "inode64",
    "nr_inodes",
)


def mount_facts(lines: dict[str, str]) -> dict[str, str]:
    """Mount point -> type and options, from lines of mountinfo cut at " - "."""
    found: dict[str, str] = {}
    for left, right in lines.items():
        fields = left.split(" ")
        point, options = fields[4], fields[5]
        shared = [word.split(":")[0] for word in fields[6:]]
        for one in right.split("; "):
            kind, *_source, last = one.removeprefix("- ").split(" ")
            above = last.split(",")
        extra = [word for word in above if word.split("=")[0] not in PLACES]
        disk = kind in ("ext4", "xfs", "btrfs", "overlay")
        told = "disk" if disk else f"{kind} ({','.join(sorted(extra))})"
        value = " ".join([told, ",".join(sorted(options.split(","))), *shared])
        found[point] = f"{found[point]} | {value}" if point in found else value
    return found


def namespace_facts(links: dict[str, str]) -> dict[str, str]:
    """Whether each namespace is the host's."""
    return {
        name: "host" if os.readlink(f"/proc/self/ns/{name}") == link else "own"
        for name, link in links.items()
    }


def comparable(facts: Facts) -> dict[str, str]:
    """Facts as "section name" -> value, without what differs between any two containers."""
    flat: dict[str, str] = {}
    for section, named in facts.items():
        if section == "mount":
            named = mount_facts(named)
        elif section == "namespace":
            named = namespace_facts(named)
        elif section == "status":
            named = {name: " ".join(named[name].split()) for name in STATUS}
        elif section == "cgroup":
            named = {}
        for name, value in named.items():
            if name.endswith("devices.list"):
                value = "; ".join(sorted(value.split("; ")))
            # The host's node, which any crun on this machine may have given away.
            value = NULL_OWNER.sub("1:3", value)
            flat[f"{section} {name}"] = ID.sub("ID", value)
    return flat


def differences(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Name -> the two values; "-" where there is none."""
    values = {name: (ours.get(name, "-"), theirs.get(name, "-")) for name in {**ours, **theirs}}
    return {name: pair for name, pair in sorted(values.items()) if pair[0] != pair[1]}
