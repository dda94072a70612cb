"""User namespaces on the command line: /proc has what was asked for, and podman makes the same."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from doubles.archives import directory, entry, tar_of
from doubles.commands import BUSYBOX, Podrt, busybox_archive, monitors_of
from podrt.linux.features import kernel_version
from podrt.runtime.userns import MAPPED_LAYERS

SLEEP = ("base", "/bin/sleep", "1000")
# The host's own files stay as they are: each command sees others in their place.
WITH_SUBIDS = (
    'for file in /etc/subuid /etc/subgid; do mount --bind "$0" "$file" || exit 99; done; exec "$@"'
)
SUBIDS = "other:900000:5\ncontainers:200000:5000\n"
SHOW = (
    "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; "
    "busybox stat -c '%u %g' / /bin/busybox /etc/hosts; "
    "busybox touch /made && busybox stat -c '%u %g' /made; "
    "for place in /proc /sys /dev/mqueue /dev/pts; do "
    'busybox mount | busybox grep " $place " | busybox cut -d " " -f 3,5; done'
)


class Mapped(Podrt):
    """The command on a host that gives subordinate IDs away."""

    def __init__(self, folder: Path, cgroup_parent: str) -> None:
        super().__init__(folder, cgroup_parent)
        self.subids = folder / "subids"
        self.subids.write_text(SUBIDS)
        self.parent = ("--cgroup-parent", cgroup_parent)

    def words(self, *arguments: str) -> list[str]:
        """The whole command line, in a mount namespace of its own."""
        shell = ["unshare", "-m", "sh", "-c", WITH_SUBIDS, str(self.subids)]
        return [*shell, *super().words(*arguments)]

    def shown(self, *flags: str) -> list[str]:
        """What a container with `flags` shows of itself, without blanks that only align."""
        return lines_of(self("run", "--rm", *self.parent, *flags, "base", "sh", "-c", SHOW))

    def pid(self, name: str) -> int:
        """The process of a running container."""
        return next(int(row["Pid"]) for row in self.listed("ps") if row["Names"] == [name])

    def start(self, name: str, *flags: str) -> int:
        """A container that sleeps; its process."""
        self("run", "-d", "--name", name, "--stop-timeout", "0", *flags, *SLEEP)
        return self.pid(name)


@pytest.fixture
def podrt(tmp_path: Path, cgroup_parent: str) -> Iterator[Mapped]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    if kernel_version() < MAPPED_LAYERS:
        pytest.skip("needs a kernel with idmapped overlay layers")
    command = Mapped(tmp_path, cgroup_parent)
    command.import_busybox(tmp_path)
    yield command
    command.remove_all()
    assert command.is_clean()


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def maps_of(pid: int) -> list[list[int]]:
    """First inside, first outside and count of every line, of users and then of groups."""
    texts = (Path(f"/proc/{pid}/{kind}id_map").read_text() for kind in "ug")
    return [[int(word) for word in line.split()] for text in texts for line in text.splitlines()]


def owner_of(pid: int) -> list[int]:
    """The effective user and group of a process, as the host numbers them."""
    text = Path(f"/proc/{pid}/status").read_text()
    return [int(re.findall(rf"^{kind}:\s+\d+\s+(\d+)", text, re.M)[0]) for kind in ("Uid", "Gid")]


def namespace_of(pid: int | str, kind: str = "user") -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_uidmap_and_gidmap_make_the_root_inside_somebody_outside(podrt: Mapped) -> None:
    flags = (*podrt.parent, "--uidmap", "0:7000:100", "--gidmap", "0:8000:90,90:9000")
    pid = podrt.start("a", *flags)
    assert maps_of(pid) == [[0, 7000, 100], [0, 8000, 90], [90, 9000, 1]]
    assert owner_of(pid) == [7000, 8000]
    assert namespace_of(pid) != namespace_of("self")
    cgroups = Path(f"/proc/{pid}/cgroup").read_text()
    assert podrt.cgroup_parent in cgroups
    shape = msgspec.json.decode(podrt("inspect", "a"))[0]["HostConfig"]
    assert shape["UsernsMode"] == "private"
    assert shape["IDMappings"] == {
        "UidMap": ["0:7000:100"],
        "GidMap": ["0:8000:90", "90:9000:1"],
    }
    podrt("restart", "-t", "0", "a")
    assert maps_of(podrt.pid("a")) == [[0, 7000, 100], [0, 8000, 90], [90, 9000, 1]]


def test_container_in_a_user_namespace_owns_its_files_and_mounts_its_own(podrt: Mapped) -> None:
    shown = podrt.shown("--userns", "auto")
    assert shown[:4] == ["0 200000 1024", "0 200000 1024", "0", "0"]
    assert shown[4:8] == ["0 0"] * 4
    kinds = [f"{place} {kind}" for place, kind in (
        ("/proc", "proc"), ("/sys", "sysfs"), ("/dev/mqueue", "mqueue"), ("/dev/pts", "devpts")
    )]  # fmt: skip
    assert shown[8:] == kinds


def test_container_without_userns_is_in_the_hosts(podrt: Mapped) -> None:
    for name, flags in (("a", ()), ("b", ("--userns", "host"))):
        pid = podrt.start(name, *podrt.parent, *flags)
        assert namespace_of(pid) == namespace_of("self")
    shape = msgspec.json.decode(podrt("inspect", "a"))[0]["HostConfig"]
    assert (shape["UsernsMode"], shape["IDMappings"]) == ("", None)


def test_container_in_the_hosts_other_namespaces_sees_them_read_only(podrt: Mapped) -> None:
    show = "ls -d /sys/class/net /proc/1; busybox touch /sys/fs/x 2>&1; cat /proc/self/uid_map"
    hosts = ("--network", "host", "--pid", "host", "--ipc", "host", "--uts", "host")
    done = podrt(
        "run", "--rm", *podrt.parent, "--uidmap", "0:7000:100", *hosts, "base", "sh", "-c", show
    )
    assert lines_of(done) == [
        "/proc/1",
        "/sys/class/net",
        "touch: /sys/fs/x: Read-only file system",
        "0 7000 100",
    ]


def test_auto_gives_ranges_that_never_overlap_and_takes_them_back(podrt: Mapped) -> None:
    flags = (*podrt.parent, "--userns")
    first = podrt.start("a", *flags, "auto:size=2000")
    second = podrt.start("b", *flags, "auto:size=2000")
    assert maps_of(first)[0] == [0, 200_000, 2000]
    assert maps_of(second)[0] == [0, 202_000, 2000]
    said = podrt.fails(125, "create", *flags, "auto:size=2000", "base")
    assert "--userns auto" in said and "no 2000 IDs in a row are free in /etc/subuid" in said
    podrt("rm", "-f", "-t", "0", "a")
    assert maps_of(podrt.start("c", *flags, "auto:size=2000"))[0] == [0, 200_000, 2000]
    assert maps_of(podrt.pid("b"))[0] == [0, 202_000, 2000]


def test_auto_of_creations_at_once_gives_each_its_own(podrt: Mapped) -> None:
    words = podrt.words("create", *podrt.parent, "--userns", "auto:size=1000", "base", "sleep", "9")
    makers = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    ends = [(maker.communicate(timeout=100), maker.returncode) for maker in makers]
    # 5,000 IDs are enough for five.
    assert sorted(code for _, code in ends) == [0] * 5 + [125]
    assert all("in a row are free" in text[1] for text, code in ends if code)
    found = [text[0].strip() for text, code in ends if not code]
    shapes = msgspec.json.decode(podrt("inspect", *found))
    maps = [shape["HostConfig"]["IDMappings"]["UidMap"] for shape in shapes]
    assert sorted(maps) == [[f"0:{first}:1000"] for first in range(200_000, 205_000, 1000)]


def test_auto_range_of_a_killed_creation_is_free_again(podrt: Mapped) -> None:
    words = ["create", *podrt.parent, "--userns", "auto:size=5000", "base", "sleep", "9"]
    for delay_s in (0.15, 0.25, 0.35, 0.45):
        maker = subprocess.Popen(podrt.words(*words), stdout=subprocess.DEVNULL)
        time.sleep(delay_s)
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    podrt("rm", "--all", "--force")
    podrt("system", "check", "--repair")
    assert maps_of(podrt.start("last", *podrt.parent, "--userns", "auto:size=5000"))[0][2] == 5000


def test_auto_is_as_large_as_the_image_and_the_user_need(podrt: Mapped, tmp_path: Path) -> None:
    rows = b"root:x:0:0::/:/bin/sh\nbig:x:1800:1:::\nnobody:x:65534:65534:::\n"
    archive = tmp_path / "big.tar"
    program = entry("bin/sleep", Path(BUSYBOX).read_bytes(), mode=0o755)
    passwd = entry("etc/passwd", rows, mode=0o644)
    archive.write_bytes(tar_of([directory("tmp", 0o1777), program, passwd]))
    podrt("image", "import", str(archive), "big")
    made = podrt("create", *podrt.parent, "--userns", "auto", "big", "/bin/sleep", "9").strip()
    shape = msgspec.json.decode(podrt("inspect", made))[0]["HostConfig"]
    assert shape["IDMappings"]["UidMap"] == ["0:200000:1801"]
    pid = podrt.start("u", *podrt.parent, "--userns", "auto", "--user", "1500:1700")
    assert maps_of(pid)[0] == [0, 201_801, 1701]
    assert owner_of(pid) == [201_801 + 1500, 201_801 + 1700]


def test_pod_user_namespace_is_that_of_all_members(podrt: Mapped) -> None:
    podrt.pod("shop", "--userns", "auto:size=1500")
    first, second = podrt.start("a", "--pod", "shop"), podrt.start("b", "--pod", "shop")
    assert maps_of(first) == maps_of(second) == [[0, 200_000, 1500]] * 2
    for kind in ("user", "net", "ipc", "uts"):
        assert namespace_of(first, kind) == namespace_of(second, kind) != namespace_of("self", kind)
    for kind in ("mnt", "pid"):
        assert namespace_of(first, kind) != namespace_of(second, kind)
    assert owner_of(first) == owner_of(second) == [200_000, 200_000]
    shown = lines_of(podrt("run", "--rm", "--pod", "shop", "base", "sh", "-c", SHOW))
    assert shown[4:8] == ["0 0"] * 4
    assert "/sys sysfs" in shown
    shapes = msgspec.json.decode(podrt("inspect", "a", podrt.listed("pod", "ps")[0]["InfraId"]))
    infra = shapes[1]["Id"]
    assert shapes[0]["HostConfig"]["UsernsMode"] == f"container:{infra}"
    assert shapes[1]["HostConfig"]["IDMappings"]["UidMap"] == ["0:200000:1500"]
    podrt("pod", "rm", "-f", "-t", "0", "shop")
    assert podrt.shown("--userns", "auto")[0] == "0 200000 1024"


def test_pod_user_namespace_outlives_a_restart_and_its_monitor(podrt: Mapped) -> None:
    podrt.pod("shop", "--uidmap", "0:7000:100", "--share", "uts")
    first = podrt.start("a", "--pod", "shop")
    (monitor,) = monitors_of(str(podrt.runroot))
    os.kill(monitor, signal.SIGKILL)
    second = podrt.start("b", "--pod", "shop")
    assert namespace_of(first) == namespace_of(second)
    assert maps_of(second) == [[0, 7000, 100]] * 2
    podrt("pod", "stop", "-t", "0", "shop")
    podrt("pod", "start", "shop")
    assert maps_of(podrt.pid("a")) == [[0, 7000, 100]] * 2
    assert namespace_of(podrt.pid("a")) == namespace_of(podrt.pid("b"))


def test_new_pod_of_a_container_takes_its_user_namespace(podrt: Mapped) -> None:
    flags = ("--pod", "new:shop", "--userns", "auto", "base", "cat", "/proc/self/uid_map")
    try:
        assert lines_of(podrt("run", *flags)) == ["0 200000 1024"]
        assert lines_of(podrt("run", "--pod", "shop", *flags[4:])) == ["0 200000 1024"]
    finally:
        podrt("pod", "rm", "-f", "-t", "0", "shop")


def test_ns_path_is_joined_with_its_maps(podrt: Mapped) -> None:
    pid = podrt.start("a", *podrt.parent, "--uidmap", "0:7000:100", "--gidmap", "0:8000:100")
    joined = f"ns:/proc/{pid}/ns/user"
    other = podrt.start("b", *podrt.parent, "--userns", joined)
    assert namespace_of(other) == namespace_of(pid)
    assert namespace_of(other, "net") != namespace_of(pid, "net")
    assert podrt.shown("--userns", joined)[4:8] == ["0 0"] * 4
    shape = msgspec.json.decode(podrt("inspect", "b"))[0]["HostConfig"]
    assert shape["UsernsMode"] == joined


def test_keep_id_of_root_maps_every_id_to_itself(podrt: Mapped) -> None:
    pid = podrt.start("a", *podrt.parent, "--userns", "keep-id")
    assert maps_of(pid) == maps_of(os.getpid())
    assert namespace_of(pid) != namespace_of("self")


def test_subuidname_maps_what_is_given_to_the_name(podrt: Mapped) -> None:
    assert podrt.shown("--subuidname", "containers")[:2] == ["0 200000 5000"] * 2


def test_idmapped_volume_belongs_to_the_root_inside(podrt: Mapped, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    show = "busybox stat -c '%u %g' /v; echo x > /v/made"
    flags = (*podrt.parent, "--uidmap", "0:7000:100", "-v", f"{shared}:/v:idmap")
    assert podrt("run", "--rm", *flags, "base", "sh", "-c", show).strip() == "0 0"
    assert (shared / "made").stat().st_uid == 0


BAD = [
    (("--userns", "bogus"), "--userns: 'bogus' is not auto, host, keep-id, nomap or ns:PATH"),
    (("--userns", "nomap"), "--userns nomap: is not for root"),
    (("--userns", "auto:size=5001"), "--userns auto has reached its limit: no 5001 IDs"),
    (("--userns", "auto", "--uidmap", "0:1:2"), "--userns: cannot be given together"),
    (("--userns", "auto", "--subuidname", "containers"), "--subuidname and --subgidname can"),
    (("--userns", "ns:/none/such"), "--userns: cannot find specified user namespace path"),
    (("--userns", "ns:/proc/self/ns/net"), "--userns: /proc/self/ns/net is no user namespace"),
    (("--userns", "ns:/proc/self/ns/user"), "is the host's user namespace: say host"),
    (("--uidmap", "0:1:10,5:100:10"), "--uidmap: ID 5 in the container is mapped twice"),
    (("--uidmap", "1:1:3"), "--uidmap: the container's user 0 is not mapped"),
    (("--uidmap", "0:4294967295:1"), "--uidmap: IDs on the host end before"),
    (("--subuidname", "nobody-has-it"), '--subuidname: no ranges found for user "nobody-has'),
    (("--uidmap", "0:1:5", "--user", "7"), "--user: 7 is in no range of --userns"),
]


def test_bad_user_namespaces_are_refused_and_leave_nothing(podrt: Mapped) -> None:
    for flags, says in BAD:
        said = podrt.fails(125, "create", *podrt.parent, *flags, "base", "true")
        assert says in said, flags
    assert podrt.listed("ps", "-a") == []
    assert podrt.is_clean()


def test_auto_without_subordinate_ids_names_who_needs_them(podrt: Mapped) -> None:
    podrt.subids.write_text("somebody:100000:65536\n")
    for verb in (("create", *podrt.parent, "--userns", "auto", "base"),
                 ("pod", "create", "--userns", "auto")):  # fmt: skip
        said = podrt.fails(125, *verb)
        assert said.startswith("--userns: /etc/subuid has no line for containers")
    assert podrt.is_clean()


def test_pod_and_userns_that_do_not_go_together_are_refused(podrt: Mapped) -> None:
    podrt.pod("shop", "--userns", "auto")
    podrt.pod("plain")
    together = "cannot be set together"
    for pod in ("shop", "plain"):
        said = podrt.fails(125, "create", "--pod", pod, "--userns", "auto", "base")
        assert said == f"--userns and --pod {together}"
        said = podrt.fails(125, "create", "--pod", pod, "--uidmap", "0:1:2", "base")
        assert said.startswith("--uidmap and") and said.endswith(together)
    assert "3000 is in no range" in podrt.fails(
        125, "create", "--pod", "shop", "--user", "3000", "base"
    )
    said = podrt.fails(125, "pod", "create", "--infra=false", "--userns", "auto")
    assert said == "--userns: a pod needs an infra container for it"
    said = podrt.fails(125, "pod", "create", "--userns", "ns:/proc/self/ns/user")
    assert said.startswith("--userns ns is not supported")


# --- beside podman -----------------------------------------------------------------------------

PODMAN_CONFIG = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# crun refuses a hybrid of cgroup versions; podman leaves a mount of its store behind.
# crun refuses hybrid cgroups, and gives the /dev/null that is its standard input to the
# container's user: in a mount namespace it sees v1 alone, and a device of its own.
AS_PODMAN_NEEDS = (
    "umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs -o mode=700,nosuid none /mnt && "
    "mknod -m 666 /mnt/null c 1 3 && mount --bind /mnt/null /dev/null && "
    "exec </dev/null || exit 98; "
)


@pytest.fixture
def podman(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What a container with some flags shows of itself under podman."""
    if shutil.which("podman") is None or shutil.which("conmon") is None:
        pytest.skip("needs podman and conmon")
    (tmp_path / "containers.conf").write_text(PODMAN_CONFIG)
    (tmp_path / "podman-subids").write_text(SUBIDS)
    # Podman takes no run directory of more than 50 characters.
    store = tmp_path_factory.mktemp("p")
    command = [
        "unshare", "-m", "sh", "-c", AS_PODMAN_NEEDS + WITH_SUBIDS, str(tmp_path / "podman-subids"),
        "podman", "--root", f"{store}/graph", "--runroot", f"{store}/run", "--tmpdir",
        f"{store}/tmp", "--storage-driver", "vfs",
    ]  # fmt: skip
    environment = {**os.environ, "CONTAINERS_CONF": str(tmp_path / "containers.conf")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words],
            env=environment, capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    run("import", str(busybox_archive(tmp_path / "podman.tar")), "base")

    def shown(*flags: str) -> list[str]:
        made = ("run", "--rm", "--cgroups", "disabled", "--network", "none")
        return lines_of(run(*made, *flags, "base", "/bin/sh", "-c", SHOW))

    return shown


def test_user_namespaces_are_those_of_podman(
    podrt: Mapped, podman: Callable[..., list[str]], rounds: Callable[[int, int], int]
) -> None:
    table = (
        ("--userns", "auto"),
        ("--uidmap", "0:1000:20", "--gidmap", "0:3000:30"),
        ("--userns", "auto", "--user", "1500:1700"),
        (),
        ("--userns", "host"),
        ("--userns", "auto:size=2000"),
        ("--uidmap", "0:1000:2000"),
        ("--uidmap", "0:1000:20", "--uidmap", "20:5000:100"),
        ("--subuidname", "containers"),
        ("--uidmap", "0:1000:2000", "--user", "ann"),
    )
    for flags in table[: rounds(3, len(table))]:
        assert podrt.shown(*flags) == podman(*flags), flags
