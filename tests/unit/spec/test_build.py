"""Specifications: podman's default container, and what each option changes in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.linux.caps import NAMES
from podrt.model import runtimespec as oci
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
from podrt.model.image import ImageDefaults
from podrt.model.resources import Resources
from podrt.spec import devices
from podrt.spec.build import Host, Place, build_spec
from podrt.spec.mounts import SharedFiles
from podrt.spec.process import DEFAULT_PATH, UNLIMITED
from podrt.spec.security import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS
from podrt.spec.userns import Maps

HOST = Host("x86_64", len(NAMES) - 1)
NS_DIR = "/run/podrt/pods/p/ns"
ALONE = Place(container_id="ab" * 32, rootfs="/ctr/merged", cgroup="/parent/ctr", ns_dir=NS_DIR)
IN_POD = Place(
    container_id="ab" * 32,
    rootfs="/ctr/merged",
    cgroup="/parent/pod/ctr",
    ns_dir=NS_DIR,
    shm="/run/podrt/pods/p/shm",
    files=SharedFiles(hosts="/p/hosts", hostname="/p/hostname", resolv_conf="/p/resolv.conf"),
    shared=frozenset({"net", "ipc", "uts"}),
    pod_hostname="shop",
)


class Built:
    """A specification with its optional parts known to be there."""

    def __init__(self, spec: oci.Spec) -> None:
        assert spec.process is not None and spec.linux is not None
        assert spec.linux.resources is not None and spec.process.capabilities is not None
        self.spec = spec
        self.process = spec.process
        self.linux = spec.linux
        self.resources = spec.linux.resources
        self.caps = spec.process.capabilities
        self.mounts = {mount.destination: mount for mount in spec.mounts}
        self.env = dict(entry.split("=", 1) for entry in spec.process.env)


def build(
    config: ContainerConfig | None = None, place: Place = ALONE, image: ImageDefaults | None = None
) -> Built:
    wanted = ContainerConfig(command=("true",)) if config is None else config
    return Built(build_spec(wanted, place, image=image, host=HOST))


def with_security(**fields: object) -> Built:
    return build(ContainerConfig(command=("true",), security=Security(**fields)))  # type: ignore[arg-type]


def with_mount(
    destination: str, source: str = "/", options: tuple[str, ...] = (), kind: str = "bind"
) -> Built:
    mount = Mount(kind=MountKind(kind), destination=destination, source=source, options=options)
    return build(ContainerConfig(command=("true",), mounts=(mount,)), IN_POD)


def test_build_default_container_has_the_default_profile() -> None:
    built = build()
    assert set(built.caps.bounding) == DEFAULT_CAPABILITIES
    assert built.caps.effective == built.caps.permitted == built.caps.bounding
    assert built.caps.inheritable == built.caps.ambient == ()
    assert built.linux.masked_paths == MASKED_PATHS
    assert built.linux.readonly_paths == READONLY_PATHS
    assert built.linux.seccomp is not None
    assert built.process.user.umask == 0o022
    assert not built.process.no_new_privileges
    assert built.linux.sysctl == {"net.ipv4.ping_group_range": "0 0"}
    assert built.resources.pids == oci.Pids(limit=2048)
    assert built.resources.devices[0] == oci.DeviceRule(allow=False, access="rwm")
    assert built.linux.cgroups_path == "/parent/ctr"


def test_build_default_container_has_podmans_mounts() -> None:
    built = build(place=IN_POD)
    assert list(built.mounts) == [
        "/proc", "/dev", "/sys", "/dev/pts", "/dev/mqueue", "/dev/shm", "/etc/hosts",
        "/etc/hostname", "/etc/resolv.conf", "/sys/fs/cgroup",
    ]  # fmt: skip
    assert built.mounts["/dev"].options == (
        "nosuid", "noexec", "strictatime", "mode=755", "size=65536k",
    )  # fmt: skip
    assert built.mounts["/dev/shm"].source == IN_POD.shm
    assert "ro" in built.mounts["/sys"].options
    assert "ro" in built.mounts["/sys/fs/cgroup"].options
    assert built.mounts["/etc/hosts"].source == "/p/hosts"


def test_build_in_pod_joins_what_the_pod_shares() -> None:
    found = {item.type: item.path for item in build(place=IN_POD).linux.namespaces}
    assert found == {
        "mount": "",
        "pid": "",
        "cgroup": "",
        "network": f"{NS_DIR}/net",
        "ipc": f"{NS_DIR}/ipc",
        "uts": f"{NS_DIR}/uts",
    }


def test_build_outside_a_pod_has_every_namespace_of_its_own() -> None:
    built = build()
    assert {item.type for item in built.linux.namespaces} == {
        "mount", "pid", "cgroup", "network", "ipc", "uts",
    }  # fmt: skip
    assert all(not item.path for item in built.linux.namespaces)
    assert built.mounts["/dev/shm"].options[-1] == f"size={64_000 << 10}"
    assert built.spec.hostname == "ab" * 6


def test_build_host_namespaces_are_left_out() -> None:
    host = NamespaceMode.HOST
    built = build(
        ContainerConfig(
            command=("true",), namespaces=Namespaces(net=host, ipc=host, uts=host, pid=host)
        )
    )
    assert {item.type for item in built.linux.namespaces} == {"mount", "cgroup"}
    assert built.linux.sysctl == {}
    assert built.spec.hostname == ""
    assert built.env["HOSTNAME"] == os.uname().nodename
    assert built.mounts["/dev/shm"].source == "/dev/shm"


def test_build_joins_a_shared_pid_namespace_unless_it_wants_its_own() -> None:
    place = Place(container_id="a" * 64, rootfs="/r", ns_dir="/n", shared=frozenset({"pid"}))
    for mode, path in ((NamespaceMode.POD, "/n/pid"), (NamespaceMode.PRIVATE, "")):
        config = ContainerConfig(command=("true",), namespaces=Namespaces(pid=mode))
        found = {item.type: item.path for item in build(config, place).linux.namespaces}
        assert (found["pid"], found["cgroup"]) == (path, "")


def test_build_environment_later_words_win() -> None:
    image = ImageDefaults(env=("PATH=/image", "A=1", "B=2", "EMPTY"), command=("true",))
    built = build(ContainerConfig(env={"B": "3", "HOME": "/x"}), IN_POD, image)
    assert built.env == {
        "PATH": "/image", "container": "podrt", "A": "1", "B": "3", "EMPTY": "",
        "HOME": "/x", "HOSTNAME": "shop",
    }  # fmt: skip
    assert build().env["PATH"] == DEFAULT_PATH
    assert "TERM" not in build().env
    assert build(ContainerConfig(command=("true",), terminal=True)).env["TERM"] == "xterm"


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        (None, None, ("image-entry", "image-command")),
        (None, ("mine",), ("image-entry", "mine")),
        (("entry",), None, ("entry",)),
        (("entry",), ("mine",), ("entry", "mine")),
        ((), ("mine",), ("mine",)),
    ],
)
def test_build_arguments_join_entry_point_and_command(
    entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    image = ImageDefaults(entrypoint=("image-entry",), command=("image-command",))
    config = ContainerConfig(entrypoint=entrypoint, command=command)
    assert build(config, image=image).process.args == expected


def test_build_image_defaults_are_taken() -> None:
    image = ImageDefaults(command=("true",), workdir="/srv", user="7:8")
    built = build(ContainerConfig(), image=image)
    assert built.process.cwd == "/srv"
    assert (built.process.user.uid, built.process.user.gid) == (7, 8)
    built = build(ContainerConfig(workdir="/x", user="9"), image=image)
    assert (built.process.cwd, built.process.user.uid) == ("/x", 9)


def test_build_other_user_keeps_only_capabilities_asked_for_by_name() -> None:
    built = build(ContainerConfig(command=("true",), user="1000"))
    assert built.caps.effective == built.caps.ambient == ()
    assert set(built.caps.bounding) == DEFAULT_CAPABILITIES
    config = ContainerConfig(
        command=("true",), user="1000", security=Security(cap_add=("net_admin",))
    )
    assert build(config).caps.ambient == ("CAP_NET_ADMIN",)


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (("NET_ADMIN",), ("CAP_CHOWN",), DEFAULT_CAPABILITIES - {"CAP_CHOWN"} | {"CAP_NET_ADMIN"}),
        ((), ("all",), frozenset()),
        (("kill",), ("ALL",), frozenset({"CAP_KILL"})),
        (("all",), (), frozenset(NAMES)),
        (("ALL",), ("sys_admin",), frozenset(NAMES) - {"CAP_SYS_ADMIN"}),
    ],
)
def test_build_capabilities_are_added_and_dropped(
    add: tuple[str, ...], drop: tuple[str, ...], expected: frozenset[str]
) -> None:
    assert set(with_security(cap_add=add, cap_drop=drop).caps.bounding) == expected


def test_build_capabilities_beyond_the_kernels_are_left_out() -> None:
    config = ContainerConfig(command=("true",), security=Security(cap_add=("all",)))
    spec = build_spec(config, ALONE, host=Host("x86_64", 37))
    assert spec.process is not None and spec.process.capabilities is not None
    assert "CAP_BPF" not in spec.process.capabilities.bounding


def test_build_more_capabilities_open_the_filter() -> None:
    def allowed(built: Built) -> set[str]:
        assert built.linux.seccomp is not None
        return {
            name
            for rule in built.linux.seccomp.syscalls
            if rule.action == "SCMP_ACT_ALLOW"
            for name in rule.names
        }

    assert "settimeofday" not in allowed(build())
    assert "settimeofday" in allowed(with_security(cap_add=("SYS_TIME",)))


def test_build_privileged_has_everything() -> None:
    built = with_security(privileged=True)
    assert set(built.caps.bounding) == set(NAMES)
    assert built.linux.seccomp is None
    assert built.linux.masked_paths == built.linux.readonly_paths == ()
    assert built.resources.devices == devices.ALL_RULES
    assert "rw" in built.mounts["/sys"].options
    assert "/dev/null" in {device.path for device in built.linux.devices}


def test_build_masks_are_changed() -> None:
    built = with_security(mask=("/proc/mine",), unmask=("/proc/kcore", "/proc/sys"))
    assert "/proc/mine" in built.linux.masked_paths
    assert "/proc/kcore" not in built.linux.masked_paths
    assert "/proc/sys" not in built.linux.readonly_paths
    built = with_security(unmask=("ALL",))
    assert built.linux.masked_paths == built.linux.readonly_paths == ()


def test_build_seccomp_choices(tmp_path: Path) -> None:
    assert with_security(seccomp="unconfined").linux.seccomp is None
    profile = tmp_path / "p.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    found = with_security(seccomp=str(profile)).linux.seccomp
    assert found is not None and found.default_action == "SCMP_ACT_LOG"
    with pytest.raises(NotFound):
        with_security(seccomp=str(tmp_path / "gone.json"))


def test_build_read_only_root_has_writable_places() -> None:
    built = build(ContainerConfig(command=("true",), read_only=True), IN_POD)
    assert "ro" in built.mounts["/etc/hosts"].options
    assert built.spec.root is not None and built.spec.root.readonly
    assert {path for path, mount in built.mounts.items() if mount.type == "tmpfs"} == {
        "/dev", "/run", "/tmp", "/var/tmp",
    }  # fmt: skip


def test_build_bind_mount_has_podmans_defaults() -> None:
    mount = with_mount("/data/../srv", "/usr").mounts["/srv"]
    assert (mount.type, mount.source) == ("bind", "/usr")
    assert mount.options == ("rbind", "rprivate", "rw")
    mount = with_mount("/srv", "/usr", ("ro", "z", "bind", "private")).mounts["/srv"]
    assert mount.options == ("ro", "bind", "private")


def test_build_mount_takes_a_defaults_place_and_its_parent_comes_first() -> None:
    built = with_mount("/etc", "/usr")
    order = list(built.mounts)
    assert order.index("/etc") < order.index("/etc/hosts")
    assert with_mount("/etc/hosts", "/usr").mounts["/etc/hosts"].source == "/usr"
    assert with_mount("/dev/shm", kind="tmpfs").mounts["/dev/shm"].type == "tmpfs"


def test_build_volume_is_looked_up_by_name() -> None:
    config = ContainerConfig(
        command=("true",),
        mounts=(Mount(kind=MountKind.VOLUME, source="data", destination="/d"),),
    )
    spec = build_spec(config, ALONE, host=HOST, volumes={"data": "/volumes/data"})
    mount = next(mount for mount in spec.mounts if mount.destination == "/d")
    assert mount.source == "/volumes/data" and "nosuid" in mount.options
    with pytest.raises(NotFound, match="data"):
        build(config)


def test_build_device_of_the_host_is_made_and_allowed() -> None:
    device = Device(source="/dev/null", destination="/dev/nothing", access="r")
    built = build(ContainerConfig(command=("true",), devices=(device,)))
    node = built.linux.devices[0]
    assert (node.path, node.type, node.major, node.minor) == ("/dev/nothing", "c", 1, 3)
    rule = oci.DeviceRule(allow=True, type="c", major=1, minor=3, access="r")
    assert built.resources.devices[-1] == rule


def test_build_limits_follow_podmans_rules() -> None:
    wanted = Resources(memory_bytes=1 << 20, cpu_quota_us=50_000, pids_limit=0, cpu_shares=512)
    found = build(ContainerConfig(command=("true",), resources=wanted)).resources
    assert found.memory == oci.Memory(limit=1 << 20, swap=2 << 20)
    assert found.cpu == oci.Cpu(quota=50_000, period=100_000, shares=512)
    assert found.pids == oci.Pids(limit=-1)


def test_build_ulimits_have_full_names() -> None:
    config = ContainerConfig(command=("true",), ulimits=(Ulimit(name="nofile", soft=64, hard=-1),))
    assert build(config).process.rlimits == (
        oci.Rlimit(type="RLIMIT_NOFILE", soft=64, hard=UNLIMITED),
    )


BAD: list[tuple[dict[str, object], str]] = [
    ({"command": ()}, "no command"),
    ({"command": ("",)}, "no command"),
    ({"command": ("a\0b",)}, "NUL"),
    ({"env": {"": "x"}}, "variable"),
    ({"env": {"A=B": "x"}}, "variable"),
    ({"env": {"A": "\0"}}, "NUL"),
    ({"workdir": "relative"}, "absolute"),
    ({"user": "nobody-here"}, "unable to find user"),
    ({"groups": ("nothing",)}, "unable to find group"),
    ({"hostname": "x" * 65}, "64"),
    ({"umask": 0o1777}, "umask"),
    ({"oom_score_adj": 1001}, "1001"),
    ({"ulimits": (Ulimit(name="nofiles", soft=1, hard=1),)}, "nofiles"),
    ({"ulimits": (Ulimit(name="nofile", soft=2, hard=1),)}, "nofile"),
    ({"sysctls": {"kernel.panic": "1"}}, "separate"),
    ({"sysctls": {"kernel.hostname": "x"}}, "--hostname"),
    (
        {"sysctls": {"net.core.x": "1"}, "namespaces": Namespaces(net=NamespaceMode.HOST)},
        "network",
    ),
    ({"hostname": "x", "namespaces": Namespaces(uts=NamespaceMode.HOST)}, "host"),
    ({"security": Security(cap_add=("NOT_A_CAP",))}, "NOT_A_CAP"),
    ({"security": Security(cap_add=("KILL",), cap_drop=("cap_kill",))}, "CAP_KILL"),
    ({"security": Security(cap_add=("all",), cap_drop=("all",))}, "all"),
    ({"resources": Resources(memory_swap_bytes=5)}, "--memory"),
    ({"resources": Resources(memory_swap_bytes=5, memory_bytes=6)}, "--memory"),
    ({"resources": Resources(blkio_weight=5)}, "1000"),
    ({"devices": (Device(source="/dev/not-there", destination=""),)}, "/dev/not-there"),
    ({"devices": (Device(source="/etc/passwd", destination=""),)}, "not a device"),
    ({"devices": (Device(source="/dev/null", destination="", access="x"),)}, "access"),
]


@pytest.mark.parametrize(("fields", "word"), BAD)
def test_build_wrong_value_is_refused_by_name(fields: dict[str, object], word: str) -> None:
    with pytest.raises(InvalidConfig, match=word):
        build(ContainerConfig(**{"command": ("true",), **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("destination", "source", "options"),
    [
        ("relative", "/usr", ()),
        ("/", "/usr", ()),
        ("/..", "/usr", ()),
        ("/a\0b", "/usr", ()),
        ("/a", "relative", ()),
        ("/a", "/not/there", ()),
        ("/a", "/usr", ("",)),
        ("/a", "/usr", ("ro,rw",)),
        ("/a", "/usr", ("U",)),
        ("/a", "/usr", ("O",)),
    ],
)
def test_build_wrong_mount_is_refused(
    destination: str, source: str, options: tuple[str, ...]
) -> None:
    with pytest.raises(PodrtError):
        with_mount(destination, source, options)


def test_build_one_destination_twice_is_refused() -> None:
    mount = Mount(kind=MountKind.TMPFS, destination="/a")
    with pytest.raises(InvalidConfig, match="duplicate"):
        build(ContainerConfig(command=("true",), mounts=(mount, mount)))


def test_encode_then_decode_gives_the_same_specification() -> None:
    spec = build(place=IN_POD).spec
    assert oci.decode(oci.encode(spec)) == spec


def test_build_tmpfs_starts_with_what_the_image_has_there() -> None:
    def options(*given: str) -> tuple[str, ...]:
        return with_mount("/x", kind="tmpfs", options=given).mounts["/x"].options

    assert options("size=4k") == ("nosuid", "nodev", "rw", "rprivate", "tmpcopyup", "size=4k")
    assert "tmpcopyup" not in options("notmpcopyup")
    assert options("ro").index("ro") > options("ro").index("rw")
    assert "idmap" in with_mount("/x", options=("idmap",)).mounts["/x"].options


MAPS = Maps(
    uid_map=(oci.IdMapping(container_id=0, host_id=7, size=9),),
    gid_map=(oci.IdMapping(container_id=0, host_id=8, size=9),),
)


def test_build_user_namespace_is_made_with_its_maps() -> None:
    spec = build_spec(ContainerConfig(command=("true",)), ALONE, host=HOST, userns=MAPS)
    built = Built(spec)
    assert built.linux.namespaces[0] == oci.Namespace(type="user")
    assert (built.linux.uid_mappings, built.linux.gid_mappings) == (MAPS.uid_map, MAPS.gid_map)
    assert "user" not in {one.type for one in build().linux.namespaces}


def test_build_user_namespace_is_joined_by_its_path() -> None:
    maps = Maps(path="/proc/7/ns/user")
    spec = build_spec(ContainerConfig(command=("true",)), ALONE, host=HOST, userns=maps)
    assert Built(spec).linux.namespaces[0] == oci.Namespace(type="user", path=maps.path)
    assert not Built(spec).linux.uid_mappings


@pytest.mark.parametrize(("given", "image", "expected"), [("", "5", 3), ("4", "5", 4), ("", "", 3)])
def test_build_kept_id_is_the_user_unless_another_is_asked_for(
    given: str, image: str, expected: int
) -> None:
    spec = build_spec(
        ContainerConfig(command=("true",), user=given),
        ALONE,
        image=ImageDefaults(user=image),
        host=HOST,
        userns=Maps(uid_map=MAPS.uid_map, gid_map=MAPS.gid_map, user=(3, 2)),
    )
    assert Built(spec).process.user.uid == expected
