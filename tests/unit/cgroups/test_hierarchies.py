from __future__ import annotations

import pytest

from podrt.cgroups.hierarchies import Hierarchies, choose
from podrt.errors import Unsupported
from podrt.linux.mounts import parse_mounts

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs ro,mode=755 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
"""
HYBRID_SELF = "4:name=systemd:/x\n3:cpu,cpuacct:/\n2:memory:/a:b\n1:pids:/\n0::/\n"
PURE = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0\n"


def chosen(table: str, mine: str, v2: frozenset[str] = frozenset()) -> Hierarchies:
    return choose(parse_mounts(table), mine, lambda mount: v2)


def test_choose_on_hybrid_leaves_a_useless_v2_alone() -> None:
    found = chosen(HYBRID, HYBRID_SELF, frozenset({"hugetlb"}))
    assert [one.mount.rpartition("/")[2] for one in found.all] == [
        "systemd",
        "cpu,cpuacct",
        "memory",
        "pids",
    ]
    assert found.unified is None
    assert not found.is_unified
    cpu = found.of("cpuacct")
    assert cpu is not None
    assert cpu.controllers == {"cpu", "cpuacct"}
    assert found.of("freezer") is None


def test_choose_on_hybrid_takes_a_v2_with_a_needed_controller() -> None:
    table = "\n".join(line for line in HYBRID.splitlines() if "memory" not in line)
    found = chosen(table, "4:name=systemd:/\n3:cpu,cpuacct:/\n1:pids:/", frozenset({"memory"}))
    memory = found.of("memory")
    assert memory is not None
    assert memory.version == 2
    assert memory == found.unified
    assert not found.is_unified


def test_choose_on_pure_v2_takes_the_one() -> None:
    found = chosen(PURE, "0::/init.scope\n", frozenset({"cpu", "memory", "pids"}))
    assert found.is_unified
    assert [one.mount for one in found.all] == ["/sys/fs/cgroup"]


def test_choose_on_v2_without_controllers_still_takes_it() -> None:
    assert chosen(PURE, "0::/\n").is_unified


def test_choose_prefers_the_usual_place_over_a_second_mount() -> None:
    table = "cgroup /srv/chroot/pids cgroup rw,pids 0 0\n" + HYBRID
    found = chosen(table, HYBRID_SELF)
    pids = found.of("pids")
    assert pids is not None
    assert pids.mount == "/sys/fs/cgroup/pids"
    assert len(found.all) == 4


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("proc /proc proc rw 0 0\n", "no cgroup hierarchy"),
        (PURE.replace("rw", "ro"), "/sys/fs/cgroup is mounted read-only"),
        (HYBRID.replace("rw,memory", "ro,memory"), "memory is mounted read-only"),
    ],
)
def test_choose_without_writable_cgroups_says_why(table: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        chosen(table, HYBRID_SELF)
