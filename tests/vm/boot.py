"""What it takes to boot a guest: QEMU, virtme-ng, Debian's kernel; and the command that does."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent


def kernel_cache() -> Path:
    """Where tests/vm/prepare unpacks the kernel: $PODRT_VM_CACHE or below the project."""
    return Path(os.environ.get("PODRT_VM_CACHE", PROJECT / ".work" / "vm"))


def kernel_image() -> Path | None:
    """The kernel to boot: $PODRT_VM_KERNEL, or the one that tests/vm/prepare unpacked."""
    named = os.environ.get("PODRT_VM_KERNEL")
    if named:
        return Path(named)
    cache = kernel_cache()
    images = sorted(cache.glob("root/boot/vmlinuz-*"))
    return images[-1] if images and (cache / "ready").exists() else None


def vng_program() -> str | None:
    """virtme-ng's program, from this interpreter's environment first."""
    beside = Path(sys.executable).parent / "vng"
    return str(beside) if beside.exists() else shutil.which("vng")


@functools.cache
def missing() -> str | None:
    """Why no guest can be booted here, or None. Only continuous integration fetches a kernel."""
    if os.geteuid() != 0:
        return "needs root (the guest's root is this file system)"
    if not shutil.which("qemu-system-x86_64"):
        return "needs QEMU (Debian: qemu-system-x86)"
    if not vng_program():
        return "needs virtme-ng (pip install virtme-ng)"
    if not shutil.which("modprobe"):
        return "needs modprobe (Debian: kmod)"
    if kernel_image() is None and os.environ.get("CI"):
        subprocess.run([HERE / "prepare"], stdin=subprocess.DEVNULL, check=False)
    return None if kernel_image() else "needs a kernel to boot: run tests/vm/prepare"


def hidden_places() -> list[Path]:
    """What the guest needs of the host but would not see: it has a tmpfs of its own on these."""
    needed = {PROJECT, Path(sys.prefix), Path(sys.base_prefix), kernel_cache()}
    tops = ("/tmp", "/var/tmp", "/run")
    hidden = [path for path in needed if any(path.is_relative_to(top) for top in tops)]
    return sorted(
        path
        for path in hidden
        if not any(path != other and path.is_relative_to(other) for other in hidden)
    )


def boot_command(shared: Path, script: Path, *more: str) -> Sequence[str]:
    """The command that boots a guest which runs `script`; both it and the host write `shared`."""
    kernel, vng = kernel_image(), vng_program()
    assert kernel is not None and vng is not None
    machine = [vng, "--disable-kvm", "--force-9p", "--run", str(kernel.resolve())]
    size = ["--cpus", "2", "--memory", "2G", f"--rwdir={shared}"]
    size += [f"--rodir={place}" for place in hidden_places()]
    return [*machine, *size, *more, "--", f"sh {shlex.quote(str(script))}"]


def boot_environment() -> dict[str, str]:
    """The environment in which virtme-ng finds its own programs."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
