"""The peers: podman as its users run it, and crun at its best."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .scene import default_filter

CGROUPS = Path("/sys/fs/cgroup")
SETTLE_LIMIT_S = 120.0
SLEEP = ["/bin/sleep", "100000"]

# Linux 6.18 here grants no CAP_SYS_RESOURCE: podman's own default limits could not be set.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
"""

CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID"
        " SYS_CHROOT"
    ).split()
]
MASKED = [
    *(f"/proc/{name}" for name in "acpi interrupts kcore keys latency_stats".split()),
    *(f"/proc/{name}" for name in "sched_debug scsi timer_list timer_stats".split()),
    *(f"/sys/{name}" for name in "dev/block devices/virtual/powercap firmware fs/selinux".split()),
]
READ_ONLY = [f"/proc/{name}" for name in "asound bus fs irq sys sysrq-trigger".split()]


def timed_ms(command: list[str], env: dict[str, str] | None = None) -> float:
    """Run a command that must succeed; milliseconds from spawn to end."""
    before = time.perf_counter()
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=False
    )
    spent_ms = (time.perf_counter() - before) * 1e3
    if result.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ...: {result.stderr.strip()[-500:]}")
    return spent_ms


def processes_naming(word: str) -> Iterator[int]:
    """Processes whose command line has the word: what a peer left running."""
    others = (name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())
    for entry in others:
        try:
            if word.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                yield int(entry)
        except (FileNotFoundError, ProcessLookupError):
            continue


def wait_gone(word: str) -> None:
    """Wait until nothing that names the word runs any more."""
    deadline = time.monotonic() + SETTLE_LIMIT_S
    while list(processes_naming(word)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes of {word} do not end")
        time.sleep(0.05)


def remove_cgroups(parent: str) -> None:
    """Remove a parent cgroup in every hierarchy, empty groups first."""
    for top in [*CGROUPS.glob(f"*{parent}"), Path(f"{CGROUPS}{parent}")]:
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:  # the kernel is not done with it; the next end tries again
                continue


class Podman:
    """podman with a store, a run directory, a configuration and a cgroup parent of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parent = f"/podrt_test_podman_{folder.parent.name}"
        folder.mkdir()
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        self.env = os.environ | {"CONTAINERS_CONF": str(folder / "containers.conf")}
        store = ["--root", str(folder / "root"), "--runroot", str(folder / "runroot")]
        self.program = ["podman", *store, "--storage-driver", "overlay"]

    def run(self, *words: str) -> float:
        """Run one command; milliseconds."""
        return timed_ms([*self.program, *words], self.env)

    def import_image(self, archive: Path) -> None:
        self.run("import", str(archive), "bench")

    def create_pod(self, name: str, containers: int, program: Sequence[str] = SLEEP) -> None:
        """A pod whose containers share net, ipc and uts, and do not depend on each other."""
        share = ["--network", "none", "--share", "ipc,uts,net"]
        self.run("pod", "create", "--name", name, "--cgroup-parent", self.parent, *share)
        for index in range(containers):
            self.run("create", "--pod", name, "--name", f"{name}-{index}", "bench", *program)

    def start(self, name: str) -> float:
        return self.run("pod", "start", name)

    def remove(self, name: str) -> float:
        """Remove a pod; on cgroup v1 its last step may fail over podman's own directories."""
        before = time.perf_counter()
        words = [*self.program, "pod", "rm", name]
        subprocess.run(words, env=self.env, capture_output=True, check=False)
        return (time.perf_counter() - before) * 1e3

    def settle(self, name: str) -> None:
        """End the pod's containers and wait for the clean-up process of each."""
        self.run("pod", "kill", name)
        wait_gone(str(self.folder))

    def close(self) -> None:
        subprocess.run(
            [*self.program, "pod", "rm", "--all", "--force", "--time", "0"],
            env=self.env,
            capture_output=True,
            check=False,
        )
        wait_gone(str(self.folder))
        remove_cgroups(self.parent)
        subprocess.run(
            [*self.program, "system", "reset", "--force"],
            env=self.env,
            capture_output=True,
            check=False,
        )
        shutil.rmtree(self.folder, ignore_errors=True)


class Crun:
    """`crun create` and `crun start` in a loop, with nothing that could be done beforehand.

    Its best case: root file systems are mounted already, the seccomp filter comes compiled (an
    annotation), the pod's namespaces are made, and the loop is a shell's.
    """

    def __init__(self, folder: Path, rootfs: Path, count: int) -> None:
        self.folder, self.rootfs, self.count = folder, rootfs, count
        self.parent = f"/podrt_test_crun_{folder.parent.name}"
        folder.mkdir()
        for name in ("hosts", "hostname", "resolv.conf"):
            (folder / name).write_text("")
        self.pod = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "sleep", "100000"])
        self.rounds = 0

    def bundle(self, index: int) -> Path:
        return self.folder / f"bundle{index}"

    def prepare(self) -> None:
        """Bundles with mounted overlays, as a create would have left them."""
        lower = self.folder / "points"
        for name in ("etc/hosts", "etc/hostname", "etc/resolv.conf"):
            (lower / name).parent.mkdir(parents=True, exist_ok=True)
            (lower / name).touch()
        for index in range(self.count):
            bundle = self.bundle(index)
            for name in ("upper", "work", "rootfs"):
                (bundle / name).mkdir(parents=True)
            (bundle / "config.json").write_text(json.dumps(self.config(index)))
            layers = f"lowerdir={lower}:{self.rootfs},upperdir={bundle}/upper,workdir={bundle}/work"
            subprocess.run(
                ["mount", "-t", "overlay", "overlay", "-o", layers, bundle / "rootfs"], check=True
            )

    def mounts(self) -> list[dict[str, Any]]:
        safe = ["nosuid", "noexec", "nodev"]
        shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=64000k"]
        pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        dev = ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]
        table = [
            ("/proc", "proc", safe),
            ("/dev", "tmpfs", dev),
            ("/sys", "sysfs", [*safe, "ro"]),
            ("/dev/pts", "devpts", pts),
            ("/dev/mqueue", "mqueue", safe),
            ("/dev/shm", "tmpfs", shm),
            ("/sys/fs/cgroup", "cgroup", [*safe, "relatime", "ro"]),
        ]
        binds = [
            ("/etc/hosts", "hosts"),
            ("/etc/hostname", "hostname"),
            ("/etc/resolv.conf", "resolv.conf"),
        ]
        return [
            *(
                {"destination": to, "type": kind, "source": kind, "options": options}
                for to, kind, options in table
            ),
            *(
                {
                    "destination": to,
                    "type": "bind",
                    "source": str(self.folder / name),
                    "options": ["bind", "rprivate"],
                }
                for to, name in binds
            ),
        ]

    def config(self, index: int) -> dict[str, Any]:
        """An OCI configuration with podrt's default isolation."""
        namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "mount", "cgroup")]
        for kind, link in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
            namespaces.append({"type": kind, "path": f"/proc/{self.pod.pid}/ns/{link}"})
        sets = ("bounding", "effective", "permitted")
        devices = [{"allow": False, "access": "rwm"}]
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0, "umask": 0o22},
                "args": SLEEP,
                "env": ["PATH=/bin", "HOME=/root"],
                "cwd": "/",
                "capabilities": dict.fromkeys(sets, CAPABILITIES),
            },
            "root": {"path": "rootfs"},
            "mounts": self.mounts(),
            "annotations": {
                "run.oci.seccomp_bpf_data": base64.b64encode(default_filter().read_bytes()).decode()
            },
            "linux": {
                "resources": {"devices": devices, "pids": {"limit": 2048}},
                "cgroupsPath": f"{self.parent}/{index}",
                "namespaces": namespaces,
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        }

    def names(self) -> str:
        return " ".join(str(index) for index in range(self.count))

    def measure(self) -> float:
        self.prepare()
        crun = f"crun --root {self.folder}/state --cgroup-manager cgroupfs"
        loop = (
            f"for i in {self.names()}; do {crun} create --bundle {self.folder}/bundle$i bench$i"
            f" </dev/null >/dev/null 2>&1 && {crun} start bench$i || exit 1; done"
        )
        return timed_ms(["sh", "-c", loop])

    def settle(self) -> None:
        crun = ["crun", "--root", f"{self.folder}/state", "--cgroup-manager", "cgroupfs"]
        for index in range(self.count):
            subprocess.run(
                [*crun, "delete", "-f", f"bench{index}"], capture_output=True, check=False
            )
            rootfs = self.bundle(index) / "rootfs"
            subprocess.run(["umount", "-l", rootfs], capture_output=True, check=False)
            shutil.rmtree(self.bundle(index), ignore_errors=True)

    def close(self) -> None:
        self.settle()
        self.pod.kill()
        self.pod.wait()
        remove_cgroups(self.parent)
        shutil.rmtree(self.folder, ignore_errors=True)
