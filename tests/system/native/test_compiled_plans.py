"""Configuration to process: what the compiled plan of a container makes of it in the kernel."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box
from podrt.engines.plan import Held, OverlayRoot, cgroup_view, compile_plan
from podrt.engines.plan_namespaces import to_host
from podrt.images.layers import make_skeleton, skeleton_path
from podrt.linux import caps
from podrt.linux.features import cgroup_mode, kernel_version
from podrt.linux.mounts import read_mounts
from podrt.model.container import (
    ContainerConfig,
    Device,
    Mount,
    MountKind,
    NamespaceMode,
    Namespaces,
    Security,
    Ulimit,
)
from podrt.runtime.userns import MAPPED_LAYERS
from podrt.spec import accounts, seccomp
from podrt.spec.build import Place, build_spec
from podrt.spec.mounts import SharedFiles
from podrt.spec.security import DEFAULT_CAPABILITIES, MASKED_PATHS
from podrt.spec.userns import Caller, Maps, Range, parse_userns, resolve

LISTING = (
    "cat /proc/self/mounts; echo ==; cat /proc/self/status; echo ==; env; echo ==; id; echo ==; "
    "umask; hostname; pwd; echo ==; cat /proc/self/limits; echo ==; ls /dev; echo ==; "
    "ls /sys/firmware; wc -c < /proc/keys 2>&1; echo ==; cat /etc/hosts; "
    "echo ==; cat /proc/sys/net/ipv4/ping_group_range"
)


@pytest.fixture
def cgroup() -> Iterator[list[str]]:
    """A v1 memory cgroup of the test's own, when there is such a hierarchy."""
    if cgroup_mode() == "v2":
        path = Path(f"/sys/fs/cgroup/podrt_test_{secrets.token_hex(6)}")
    else:
        path = Path(f"/sys/fs/cgroup/memory/podrt_test_{secrets.token_hex(6)}")
    path.mkdir()
    yield [str(path)]
    path.rmdir()


class Compiled:
    """A container made from a configuration as a create does it, and its output."""

    def __init__(
        self,
        box: Box,
        config: ContainerConfig,
        *,
        shared: frozenset[str],
        userns: Maps | None = None,
    ) -> None:
        folder = box.group.root
        images = folder / "images"
        (images / "tmp").mkdir(parents=True, exist_ok=True)
        make_skeleton(str(images))
        for name in ("hosts", "hostname", "resolv.conf"):
            (folder / name).write_text(f"the {name}\n")
        lower = (str(folder / "busybox"), skeleton_path(str(images)))
        place = Place(
            container_id=box.id.hex(),
            rootfs=str(box.folder / "merged"),
            ns_dir=str(box.group.run_dir / "ns"),
            shm=str(box.group.run_dir / "shm"),
            files=SharedFiles(
                hosts=str(folder / "hosts"),
                hostname=str(folder / "hostname"),
                resolv_conf=str(folder / "resolv.conf"),
            ),
            shared=shared,
            pod_hostname="shop" if "uts" in shared else "",
        )
        known = accounts.parse_accounts((folder / "busybox/etc/passwd").read_text(), "")
        self.spec = build_spec(config, place, known=known, userns=userns)
        self.plan = compile_plan(
            self.spec,
            root=OverlayRoot(
                lower=lower, upper=str(box.folder / "upper"), work=str(box.folder / "work")
            ),
            log_path=str(box.log),
            held=Held(ns_dir=place.ns_dir, shm=place.shm),
            cgroups=cgroup_view(read_mounts()),
            filter_path=self._filter(folder / "filter.bpf"),
        )
        self.box = box
        linux = self.spec.linux
        if linux is not None and linux.uid_mappings:
            root = (to_host(linux.uid_mappings, 0), to_host(linux.gid_mappings, 0))
            os.chown(box.folder / "upper", *root)

    def _filter(self, path: Path) -> str:
        if self.spec.linux is None or self.spec.linux.seccomp is None:
            return ""
        path.write_bytes(seccomp.filter_of(self.spec.linux.seccomp, os.uname().machine))
        return str(path)

    def run(self, join: list[str] | None = None) -> list[str]:
        """The parts of its output, between lines of "==" (once it has ended)."""
        unified = m.UNIFIED if join and cgroup_mode() == "v2" else 0
        reply = self.box.start(self.plan, flags=unified, join=join or ())
        assert reply.kind == m.STARTED, (reply.arg, reply.a, reply.body)
        end = self.box.wait()
        assert end.kind == m.EXITED and end.arg == 0, (end, self.box.log.read_text())
        return self.box.output().split("==\n")


Maker = Callable[..., Compiled]


@pytest.fixture
def compiled(box: Box, busybox_root: Path) -> Maker:
    (box.group.root / "busybox").symlink_to(busybox_root)

    def make(
        shared: frozenset[str] = frozenset(), userns: Maps | None = None, **fields: object
    ) -> Compiled:
        config = ContainerConfig(**{"command": ("sh", "-c", LISTING), **fields})  # type: ignore[arg-type]
        return Compiled(box, config, shared=shared, userns=userns)

    return make


def status_of(part: str) -> dict[str, str]:
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in part.splitlines())
    }


def mounts_of(part: str) -> dict[str, tuple[str, list[str]]]:
    rows = (line.split() for line in part.splitlines())
    return {row[1]: (row[2], row[3].split(",")) for row in rows}


def test_run_default_configuration_has_the_default_profile(
    compiled: Maker, cgroup: list[str], box: Box
) -> None:
    parts = compiled().run(cgroup)
    mounts, status = mounts_of(parts[0]), status_of(parts[1])
    expected = f"{caps.mask(DEFAULT_CAPABILITIES):016x}"
    assert [status[f"Cap{name}"] for name in ("Bnd", "Eff", "Prm")] == [expected] * 3
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "0")
    assert mounts["/"][0] == "overlay"
    for path, kind in (
        ("/proc", "proc"), ("/dev", "tmpfs"), ("/sys", "sysfs"), ("/dev/pts", "devpts"),
        ("/dev/mqueue", "mqueue"), ("/dev/shm", "tmpfs"),
    ):  # fmt: skip
        assert mounts[path][0] == kind, path
    for path in filter(os.path.exists, MASKED_PATHS):
        assert path in mounts, path
    for path in ("/sys", "/proc/sys", "/sys/firmware", "/sys/fs/cgroup"):
        assert "ro" in mounts[path][1], path
    for path, words in (("/proc", "nosuid nodev noexec"), ("/dev/shm", "nosuid nodev noexec")):
        assert set(words.split()) <= set(mounts[path][1])
    assert "container=podrt" in parts[2] and "HOME=/root" in parts[2]
    assert parts[3].strip() == "uid=0(root) gid=0 groups=0"
    assert parts[4].split() == ["0022", box.id.hex()[:12], "/"]
    assert set(parts[6].split()) == {
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    }  # fmt: skip
    assert parts[7].splitlines()[0] == "0"
    assert parts[8] == "the hosts\n"
    assert parts[9].split() == ["0", "0"]


@pytest.mark.skipif(cgroup_mode() == "v2", reason="needs cgroup v1 hierarchies")
def test_run_on_v1_sees_its_own_cgroup_read_only(compiled: Maker, cgroup: list[str]) -> None:
    name = os.path.basename(cgroup[0])
    show = (
        "cat /proc/self/cgroup; echo ==; ls /sys/fs/cgroup; echo ==; "
        "cat /sys/fs/cgroup/memory/cgroup.procs; echo ==; "
        "mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x 2>&1; true"
    )
    parts = compiled(command=("sh", "-c", show)).run(cgroup)
    assert name not in parts[0]
    assert "memory" in parts[1].split()
    assert "1" in parts[2].split()
    assert parts[3].count("Read-only file system") == 2


def test_run_with_options_applies_each(compiled: Maker) -> None:
    parts = compiled(
        user="1000:1001",
        groups=("7",),
        umask=0o077,
        workdir="/made/here",
        hostname="own-name",
        env={"A": "two words"},
        ulimits=(Ulimit(name="nofile", soft=100, hard=200),),
        read_only=True,
        mounts=(
            Mount(kind=MountKind.BIND, source="/usr", destination="/host/usr", options=("ro",)),
            Mount(kind=MountKind.TMPFS, destination="/scratch", options=("size=64k",)),
        ),
        devices=(Device(source="/dev/null", destination="/dev/nothing"),),
        security=Security(
            cap_add=("net_admin",), no_new_privileges=True, mask=("/etc/resolv.conf",)
        ),
        sysctls={"net.ipv4.ip_forward": "1"},
    ).run()
    mounts, status = mounts_of(parts[0]), status_of(parts[1])
    assert status["CapEff"] == status["CapAmb"] == f"{caps.mask(['CAP_NET_ADMIN']):016x}"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "A=two words" in parts[2]
    assert parts[3].strip() == "uid=1000 gid=1001 groups=7,1001"
    assert parts[4].split() == ["0077", "own-name", "/made/here"]
    (limits,) = [line for line in parts[5].splitlines() if line.startswith("Max open files")]
    assert limits.split()[3:5] == ["100", "200"]
    assert "nothing" in parts[6].split()
    assert "ro" in mounts["/"][1] and "ro" in mounts["/host/usr"][1]
    assert mounts["/scratch"][0] == "tmpfs" and "size=64k" in mounts["/scratch"][1]


def test_run_privileged_has_no_filter_and_no_masks(compiled: Maker) -> None:
    parts = compiled(
        security=Security(privileged=True),
    ).run()
    mounts, status = mounts_of(parts[0]), status_of(parts[1])
    assert status["Seccomp"] == "0"
    assert int(status["CapBnd"], 16) == caps.current("Bnd")
    assert "rw" in mounts["/sys"][1]
    assert not set(mounts) & set(MASKED_PATHS)


def test_run_in_a_pod_shares_what_the_monitor_holds(compiled: Maker, box: Box) -> None:
    flags = m.NEWNET | m.NEWIPC | m.NEWUTS
    reply = box.client.ask(m.Message(m.SETUP, arg=flags, a=1 << 20, id=box.group.id, body=b"shop"))
    assert reply.kind == m.OK
    show = "readlink /proc/self/ns/net; hostname; stat -f -c %b /dev/shm; stat -c %a /dev/shm"
    found = compiled(
        shared=frozenset({"net", "ipc", "uts"}), command=("sh", "-c", show)
    ).run()[0].split()  # fmt: skip
    inode = int.from_bytes(reply.body[:8], "little")
    assert found == [f"net:[{inode}]", "shop", "256", "1777"]


def test_run_in_the_hosts_namespaces_shares_them(compiled: Maker) -> None:
    host = NamespaceMode.HOST
    show = "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done"
    found = compiled(
        command=("sh", "-c", show), namespaces=Namespaces(net=host, ipc=host, uts=host, pid=host)
    ).run()[0].split()  # fmt: skip
    assert found == [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "uts", "pid")]


MAPPED = Caller(subuids=(Range(200_000, 4096),), subgids=(Range(300_000, 4096),))


def test_run_in_a_user_namespace_root_is_nobody_outside(compiled: Maker, box: Box) -> None:
    if kernel_version() < MAPPED_LAYERS:
        pytest.skip("needs a kernel with idmapped overlay layers")
    show = (
        "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c '%u %g' /bin/busybox /etc; "
        "touch /made && stat -c '%u %g' /made; cat /dev/null && echo null; hostname inner; hostname"
    )
    maps = resolve(parse_userns("auto:size=2000"), MAPPED)
    found = compiled(
        userns=maps,
        command=("sh", "-c", show),
        security=Security(cap_add=("sys_admin",)),
    ).run()[0].splitlines()  # fmt: skip
    assert [line.split() for line in found[:2]] == [
        ["0", "200000", "2000"],
        ["0", "300000", "2000"],
    ]
    assert found[2:] == ["0", "0 0", "0 0", "0 0", "null", "inner"]
    made = os.stat(box.folder / "upper/made")
    # The image's layers are mapped by their mount; what is new belongs to the mapped IDs.
    assert (made.st_uid, made.st_gid) == (200_000, 300_000)


def test_run_tmpfs_starts_with_what_the_image_has_there(compiled: Maker) -> None:
    tmpfs = Mount(kind=MountKind.TMPFS, destination="/etc")
    empty = Mount(kind=MountKind.TMPFS, destination="/bin/x", options=("notmpcopyup",))
    show = "cat /etc/passwd; echo ==; touch /etc/new && ls /etc/new; ls -A /bin/x"
    parts = compiled(mounts=(tmpfs, empty), command=("sh", "-c", show)).run()
    assert "root" in parts[0]
    assert parts[1].strip() == "/etc/new"
