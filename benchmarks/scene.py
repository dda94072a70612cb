"""What the contenders stand on: a private mount namespace, one root file system, temp folders."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2

# A hybrid layout's cgroup2; podman 4 and crun refuse to run while they see it.
UNIFIED = Path("/sys/fs/cgroup/unified")
APPLETS = ("sh", "sleep", "cat", "true", "ls")
POINTS = ("proc", "sys", "dev", "etc", "run", "tmp")


def enter_private_mounts() -> None:
    """Move this process into a mount namespace of its own, without the hybrid's cgroup2.

    Everything that is mounted by a benchmark disappears with it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    root, none = b"/", b"none"
    if libc.unshare(CLONE_NEWNS) or libc.mount(none, root, None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "cannot make a private mount namespace")
    if UNIFIED.is_dir() and libc.umount2(str(UNIFIED).encode(), MNT_DETACH):
        raise OSError(ctypes.get_errno(), f"cannot unmount {UNIFIED}")


def make_rootfs(folder: Path) -> Path:
    """A busybox root file system that all contenders use."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("benchmarks: busybox is needed (Debian: busybox-static)")
    (folder / "bin").mkdir(parents=True)
    for point in POINTS:
        (folder / point).mkdir()
    shutil.copy(busybox, folder / "bin" / "busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "etc" / "group").write_text("root:x:0:\n")
    return folder


def pack_rootfs(rootfs: Path, archive: Path) -> Path:
    """The same as a tar archive, for those that import images."""
    subprocess.run(["tar", "-C", rootfs, "-cf", archive, "."], check=True)
    return archive


def default_filter() -> Path:
    """podrt's compiled default seccomp filter for this machine."""
    return PROJECT / f"src/podrt/spec/data/default-{os.uname().machine}.bpf"


def build_floor() -> Path:
    """Compile floor.c when it is newer than its program."""
    program = HERE / "bin" / "floor"
    sources = [HERE / "floor.c", HERE / "floor_groups.c"]
    headers = [HERE / "floor_groups.h"]
    newest = max(path.stat().st_mtime for path in sources + headers)
    if not program.exists() or program.stat().st_mtime < newest:
        program.parent.mkdir(exist_ok=True)
        flags = ["-std=gnu11", "-O2", "-static", "-Wall", "-Wextra", "-Wshadow", "-Wswitch-enum"]
        fresh = program.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", *flags, "-o", fresh, *sources], check=True)
        fresh.rename(program)
    return program
