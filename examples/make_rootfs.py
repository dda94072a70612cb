"""Makes the root file system of a small image: one static busybox and a link for each applet.

usage: make_rootfs.py [FILE] [--busybox PATH]      without FILE the tar goes to standard output
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO

# Applets that a container has no use for, or that would hide the real reason of a failure.
LEFT_OUT = {"busybox", "dpkg", "dpkg-deb", "init", "linuxrc", "rpm", "svc", "svok"}
FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "var": 0o755,
    "var/tmp": 0o1777,
}
FILES = {
    "etc/group": "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n",
    "etc/hostname": "",
    "etc/hosts": "",
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/:/bin/false\n"
        "nobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
    "etc/resolv.conf": "",
}


def find_busybox() -> Path:
    """Debian's busybox-static puts it into /bin."""
    found = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    if found is None:
        raise SystemExit("make_rootfs: no busybox here (Debian: apt-get install busybox-static)")
    return Path(found)


def applets(busybox: Path) -> list[str]:
    """The names busybox answers to."""
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    return sorted(set(listed.stdout.split()) - LEFT_OUT)


def entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    """An entry that is the same on every machine: no times, owned by root."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = mode
    return info


def write_rootfs(out: BinaryIO, busybox: Path) -> None:
    """Write the whole file system as a tar."""
    with tarfile.open(fileobj=out, mode="w|") as tar:
        for name, mode in FOLDERS.items():
            tar.addfile(entry(name, tarfile.DIRTYPE, mode))
        for name, text in FILES.items():
            add_file(tar, name, text.encode(), mode=0o644)
        add_file(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for name in applets(busybox):
            link = entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            tar.addfile(link)


def add_file(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int) -> None:
    """Add a regular file with the given bytes."""
    info = entry(name, tarfile.REGTYPE, mode)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def main() -> None:
    parser = argparse.ArgumentParser(description="make a busybox root file system as a tar")
    parser.add_argument("file", nargs="?", help="where to write it (default: standard output)")
    parser.add_argument("--busybox", type=Path, help="a static busybox")
    options = parser.parse_args()
    busybox = options.busybox or find_busybox()
    if options.file is None:
        write_rootfs(sys.stdout.buffer, busybox)
        return
    with open(options.file, "wb") as out:
        write_rootfs(out, busybox)


if __name__ == "__main__":
    main()
