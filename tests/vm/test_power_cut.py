"""A real reboot: the state on a disk, the power cut while pods run, and the next boot."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vm.boot import PROJECT, boot_command, boot_environment, missing

# Software emulation: a boot and a few commands.
BOOT_S = 1500
DISK_BYTES = 256 << 20

PRELUDE = """
exec 2>>{shared}/said
set -x
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={sources} TMPDIR=/run
modprobe virtio_scsi; modprobe virtio_blk; modprobe sd_mod; modprobe ext4
udevadm settle 2>/dev/null
mkdir -p /run/disk
for disk in /dev/vda /dev/sda; do [ ! -b $disk ] || mount $disk /run/disk; done
podrt() {{ {python} -m podrt --root /run/disk/root --runroot /run/podrt "$@"; }}
cd {project}
"""
CUT = "echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger\n"
# One process: under emulation an interpreter takes seconds to start.
MAKER = """
import sys
import trio
from podrt.config import Settings
from podrt.model.container import ContainerConfig
from podrt.model.pod import DEFAULT_SHARE, PodConfig
from podrt.runtime.runtime import open_runtime

SLEEP = ("sleep", "1000")


async def main():
    settings = Settings(root="/run/disk/root", runroot="/run/podrt")
    async with open_runtime(settings) as runtime:
        await runtime.import_image(sys.argv[1], "base")

        async def create(name, pod="", rm=False):
            return await runtime.create_container(
                ContainerConfig(name=name, image="base", command=SLEEP, pod=pod, auto_remove=rm)
            )

        shop = await runtime.create_pod(PodConfig(name="shop"))
        lead = await runtime.create_pod(PodConfig(name="lead", share=DEFAULT_SHARE | {"pid"}))
        await create("db", shop.id)
        web = await create("web", shop.id)
        await create("member", lead.id)
        await runtime.start_pods([shop, lead])
        await web.pause()
        for name in ("lone", "gone"):
            await (await create(name, rm=name == "gone")).start()


trio.run(main)
"""
FIRST = """
{python} {shared}/maker {shared}/rootfs.tar
podrt ps -a --format json >{shared}/before
cat /proc/sys/kernel/random/boot_id >>{shared}/boots
sync {shared}/before {shared}/boots
"""
SECOND = """
cat /proc/sys/kernel/random/boot_id >>{shared}/boots
podrt ps -a --format json >{shared}/looked
podrt pod start shop lead
podrt ps -a --format json >{shared}/after
podrt system check >{shared}/check && echo clean >>{shared}/check
sync {shared}/*
"""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """What both boots and we write into, with the disk beside it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    with open(tmp_path / "disk", "wb") as disk:
        disk.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", tmp_path / "disk"], check=True)
    maker = PROJECT / "examples" / "make_rootfs.py"
    subprocess.run([sys.executable, maker, folder / "rootfs.tar"], check=True)
    (folder / "maker").write_text(MAKER)
    yield folder
    shutil.rmtree(tmp_path)


def boot(shared: Path, script: str) -> None:
    """Run `script` in a guest whose power is cut at its end."""
    words = {
        "shared": shlex.quote(str(shared)),
        "project": shlex.quote(str(PROJECT)),
        "python": shlex.quote(sys.executable),
        "sources": shlex.quote(os.environ.get("PYTHONPATH", "")),
    }
    (shared / "start").write_text((PRELUDE + script).format(**words) + CUT)
    disk = f"--disk={shared.parent / 'disk'}"
    guest = subprocess.Popen(
        boot_command(shared, shared / "start", disk),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=boot_environment(),
    )
    try:
        guest.wait(BOOT_S)
    finally:
        if guest.poll() is None:
            os.killpg(guest.pid, signal.SIGKILL)
            guest.wait()


def states(file: Path) -> dict[str, str]:
    """Name -> state in what a guest listed; infra containers are left out."""
    said = (file.parent / "said").read_text()[-4000:]
    assert file.exists() and file.read_text(), said
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return {row["Names"][0]: row["State"] for row in rows if not row["IsInfra"]}


@pytest.mark.timeout(2 * BOOT_S + 100)
@pytest.mark.skipif(missing() is not None or not shutil.which("mkfs.ext4"), reason=str(missing()))
def test_power_cut_under_running_pods_leaves_a_state_that_starts_again(shared: Path) -> None:
    boot(shared, FIRST)
    assert states(shared / "before") == {
        "db": "running", "web": "paused", "member": "running", "lone": "running", "gone": "running",
    }  # fmt: skip
    boot(shared, SECOND)
    said = (shared / "said").read_text()[-4000:]
    assert len(set((shared / "boots").read_text().split())) == 2, said
    assert states(shared / "looked") == dict.fromkeys(
        ("db", "web", "member", "lone", "gone"), "exited"
    )
    # The first command that writes removes what was to go with its end.
    assert states(shared / "after") == {
        "db": "running", "web": "running", "member": "running", "lone": "exited",
    }  # fmt: skip
    assert (shared / "check").read_text() == "clean\n", said
