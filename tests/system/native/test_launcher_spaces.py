"""User, time and joined namespaces, and what a container sees of the host through them."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Client, Group, Message, plan_of

BASE = 200_000
CGROUP_ROOT = Path("/sys/fs/cgroup")
MAP = f"0 {BASE} 65536\n"
USER_FLAGS = m.DEFAULT_FLAGS | m.NEWUSER
# A mount of sysfs needs a network namespace of its own, which no test here asks for.
IDMAP = m.idmap(MAP, MAP)


def run(box: Box, script: str, flags: int = m.DEFAULT_FLAGS, **ops: object) -> str:
    reply = box.start(plan_of(box.ops(["sh", "-c", script], **ops), flags))  # type: ignore[arg-type]
    assert reply.kind == m.STARTED, reply
    end = box.wait()
    assert end.arg == 0, (end, box.log.read_text())
    return box.output()


def mapped(box: Box) -> None:
    """The root's layers, seen through the container's maps."""
    os.chown(box.folder / "upper", BASE, BASE)
    box.root_op = m.overlay([box.lower], *box.own_layers, is_mapped=True)


def inode(kind: str, pid: int | str = "self") -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A process in namespaces of its own."""
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--ipc", "--uts", "--net", "--mount", "--time",
         "--cgroup", "--pid", "--fork", "--kill-child", "sh", "-c", "echo up; exec sleep 1000"],
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        yield int(children)
        process.kill()


# --- user namespaces ---------------------------------------------------------------------------


def test_container_in_a_user_namespace_is_root_of_mapped_files(box: Box) -> None:
    mapped(box)
    script = (
        "id -u; stat -c %u:%g /bin/busybox; touch /new; stat -c %u /new; cat /proc/self/uid_map"
    )
    lines = run(box, script, USER_FLAGS, early=[IDMAP]).splitlines()
    assert lines[:3] == ["0", "0:0", "0"]
    assert lines[3].split() == ["0", str(BASE), "65536"]
    # What the container writes is written as whoever it is outside.
    assert (box.folder / "upper/new").stat().st_uid == BASE


def test_plain_layers_in_a_user_namespace_belong_to_nobody_inside(box: Box) -> None:
    output = run(box, "stat -c %u /bin/busybox; id -u", USER_FLAGS, early=[IDMAP])
    assert output.split() == ["65534", "0"]


def test_user_namespace_owns_the_other_namespaces(box: Box) -> None:
    mapped(box)
    late = [m.caps(m.DEFAULT_CAPS | 1 << 21 | 1 << 12)]
    script = "hostname inner && hostname; mount -t tmpfs none /tmp && echo mounted; cat /dev/null"
    flags = USER_FLAGS | m.NEWNET
    output = run(box, script, flags, early=[IDMAP], mounts=(*m.STANDARD_MOUNTS, m.SYSFS), late=late)
    assert output.split() == ["inner", "mounted"]


def test_process_of_a_user_namespace_is_unprivileged_outside(box: Box) -> None:
    mapped(box)
    begun = box.start(plan_of(box.ops(["sleep", "1000"], early=[IDMAP]), USER_FLAGS))
    assert begun.kind == m.STARTED, begun
    status = Path(f"/proc/{begun.a}/status").read_text()
    assert f"Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}\n" in status
    assert f"Gid:\t{BASE}\t" in status
    assert inode("user", begun.a) != inode("user")
    assert Path(f"/proc/{begun.a}/uid_map").read_text().split() == ["0", str(BASE), "65536"]


def test_bind_and_masks_work_in_a_user_namespace(box: Box, tmp_path: Path) -> None:
    mapped(box)
    secret = tmp_path / "closed"
    (secret / "deep").mkdir(parents=True)
    (secret / "deep/file").write_text("content\n")
    secret.chmod(0o700)
    after = [
        m.bind(str(secret / "deep"), "/data", attrs=m.RDONLY),
        *m.HIDDEN,
    ]
    script = (
        "cat /data/file; touch /data/x || echo ro; stat -c %t:%T /proc/keys; wc -c < /proc/keys"
    )
    output = run(box, f"({script}) 2>/dev/null", USER_FLAGS, early=[IDMAP], after=after)
    assert output.split() == ["content", "ro", "1:3", "0"]


def test_user_and_output_follow_the_maps(box: Box) -> None:
    mapped(box)
    script = "echo direct > /proc/self/fd/1; id -u; id -g; id -G"
    late = [m.user(1000, 1001, [7]), m.caps(0)]
    output = run(box, script, USER_FLAGS, early=[IDMAP], late=late, owner=BASE + 1000)
    assert output.split("\n") == ["direct", "1000", "1001", "1001 7"]


def test_oom_score_is_set_in_a_user_namespace(box: Box) -> None:
    mapped(box)
    late = [m.op(m.OOM_SCORE, m.text("55"))]
    output = run(box, "cat /proc/self/oom_score_adj", USER_FLAGS, early=[IDMAP], late=late)
    assert output == "55"


@pytest.mark.parametrize("bad", ["", "0 0\n", "x", "0 0 1\n0 0 1\n"])
def test_user_namespace_with_bad_maps_fails_with_its_stage(box: Box, bad: str) -> None:
    plan = plan_of(box.ops(["true"], early=[m.idmap(bad, bad)]), USER_FLAGS)
    reply = box.start(plan)
    assert reply.kind == m.FAILED
    if bad:
        assert (reply.arg, reply.a) == (22, m.IDMAP)


def test_user_namespace_without_maps_is_refused(box: Box) -> None:
    reply = box.start(plan_of(box.ops(["true"]), USER_FLAGS))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 22, 100)


def test_pod_with_a_user_namespace_shares_it(box: Box, client: Client, group: Group) -> None:
    flags = m.NEWUSER | m.NEWNET | m.NEWIPC | m.NEWUTS
    body = b"podname\0" + MAP.encode() + b"\0" + MAP.encode()
    made = client.ask(Message(m.SETUP, arg=flags, a=1 << 20, id=group.id, body=body))
    assert made.kind == m.OK
    mapped(box)
    joins = [
        m.op(m.SETNS, m.u32(kind), m.text("")) for kind in (m.NEWNET, m.NEWIPC, m.NEWUTS, m.NEWUSER)
    ]
    plan_flags = m.NEWNS | m.NEWPID | m.NEWCGROUP
    ops = box.ops(["sleep", "1000"], early=[IDMAP, *joins], mounts=(*m.STANDARD_MOUNTS, m.SYSFS))
    begun = box.start(plan_of(ops, plan_flags))
    assert begun.kind == m.STARTED, begun
    for kind in ("net", "ipc", "uts", "user"):
        link = os.stat(group.run_dir / "ns" / kind)
        assert link.st_ino == inode(kind, begun.a) != inode(kind)
    box.ask(m.STOP, arg=9)
    script = "hostname; id -u; cat /sys/class/net/lo/flags"
    ops = box.ops(["sh", "-c", script], early=[IDMAP, *joins], mounts=(*m.STANDARD_MOUNTS, m.SYSFS))
    assert box.start(plan_of(ops, plan_flags)).kind == m.STARTED
    box.wait()
    assert box.output().split() == ["podname", "0", "0x9"]


@pytest.mark.parametrize("body", [b"name", b"name\0" + MAP.encode(), b"\0\0\0"])
def test_setup_of_a_user_namespace_without_maps_is_refused(
    client: Client, group: Group, body: bytes
) -> None:
    flags = m.NEWUSER | m.NEWUTS
    reply = client.ask(Message(m.SETUP, arg=flags, id=group.id, body=body))
    assert (reply.kind, reply.arg) == (m.FAILED, 71)


# --- other namespaces by path ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "flag"),
    [("net", m.NEWNET), ("ipc", m.NEWIPC), ("uts", m.NEWUTS), ("cgroup", m.NEWCGROUP),
     ("time_for_children", m.NEWTIME), ("pid", m.NEWPID)],
)  # fmt: skip
def test_namespace_is_joined_by_its_path(box: Box, neighbour: int, kind: str, flag: int) -> None:
    join = m.op(m.SETNS, m.u32(flag), m.text(f"/proc/{neighbour}/ns/{kind}"))
    flags = (m.DEFAULT_FLAGS | m.NEWNET) & ~flag
    # A procfs of the joined pid namespace would need rights over it that only its owner has.
    begun = box.start(plan_of(box.ops(["sleep", "1000"], early=[join]), flags))
    assert begun.kind == m.STARTED, begun
    name = kind.removesuffix("_for_children")
    assert inode(name, begun.a) == inode(name, neighbour) != inode(name)


def test_all_namespaces_of_another_process_are_joined(
    box: Box, client: Client, busybox_root: Path
) -> None:
    mapped(box)
    first = box.start(plan_of(box.ops(["sleep", "1000"], early=[IDMAP]), USER_FLAGS | m.NEWNET))
    assert first.kind == m.STARTED, first
    other = Box(box.group, client, busybox_root)
    joins = [
        m.op(m.SETNS, m.u32(flag), m.text(f"/proc/{first.a}/ns/{kind}"))
        for kind, flag in (
            ("net", m.NEWNET), ("ipc", m.NEWIPC), ("uts", m.NEWUTS), ("pid", m.NEWPID),
            ("cgroup", m.NEWCGROUP), ("mnt", m.NEWNS), ("user", m.NEWUSER),
        )
    ]  # fmt: skip
    ops = [
        m.log(str(other.log)),
        *joins,
        m.op(m.CWD, m.text("/root")),
        m.sealed(),
        m.user(0, 0),
        m.caps(m.DEFAULT_CAPS),
        m.HOLDING,
        m.execute(["sh", "-c", "pwd; id -u; ps | grep -c sleep; echo $$"]),
    ]
    reply = other.start(plan_of(ops, 0))
    assert reply.kind == m.STARTED, reply
    assert other.wait().arg == 0
    lines = other.output().splitlines()
    assert lines[:2] == ["/root", "0"]
    assert int(lines[2]) >= 1
    assert int(lines[3]) > 1


def test_namespace_that_is_not_there_fails_with_its_path(box: Box) -> None:
    for flag in (m.NEWPID, m.NEWNET, m.NEWUSER):
        join = m.op(m.SETNS, m.u32(flag), m.text("/proc/self/ns/none"))
        reply = box.start(plan_of(box.ops(["true"], early=[join]), m.NEWNS))
        assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, m.SETNS)
        assert reply.body == b"/proc/self/ns/none"


def test_clocks_are_moved_in_a_time_namespace(box: Box) -> None:
    early = [
        m.op(m.TIMENS, m.text("7 1000000 0\n")),
        m.op(m.TIMENS, m.text("1 2000000 5\n")),
    ]
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    flags = m.DEFAULT_FLAGS | m.NEWTIME
    output = run(box, "cat /proc/uptime /proc/self/timens_offsets", flags, early=early)
    up, *offsets = output.splitlines()
    assert 999_999 < float(up.split()[0]) - before < 1_000_060
    assert [line.split() for line in offsets] == [
        ["monotonic", "2000000", "5"],
        ["boottime", "1000000", "0"],
    ]


def test_bad_clock_is_refused_with_its_stage(box: Box) -> None:
    early = [m.op(m.TIMENS, m.text("3 1 0\n"))]
    reply = box.start(plan_of(box.ops(["true"], early=early), m.DEFAULT_FLAGS | m.NEWTIME))
    assert (reply.kind, reply.a) == (m.FAILED, m.TIMENS)
    # Offsets without a namespace to have them.
    assert box.start(plan_of(box.ops(["true"], early=early))).a == 100


def test_plan_without_a_mount_namespace_is_refused(box: Box) -> None:
    for flags in (0, m.NEWPID, m.NEWNS | 0x100):
        assert box.start(plan_of(box.ops(["true"]), flags)).a == 100


# --- mounts ------------------------------------------------------------------------------------


def test_idmapped_bind_shows_other_owners(box: Box, tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    folder.mkdir()
    (folder / "file").write_text("x")
    bind = m.bind(str(folder), "/data", maps=("0 5000 10\n", "0 6000 10\n"))
    script = "stat -c %u:%g /data/file; touch /data/new 2>/dev/null || echo refused"
    output = run(box, script, after=[bind])
    assert output.split()[0] == "5000:6000"
    bad = m.bind(str(folder), "/data", maps=("nonsense", "0 6000 10\n"))
    reply = box.start(plan_of(box.ops(["true"], after=[bad])))
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 22, m.BIND)


def test_attributes_and_propagation_of_binds(box: Box, tmp_path: Path) -> None:
    name = f"podrt_test_{secrets.token_hex(8)}"
    after = [
        # There are mounts below.
        m.bind("/dev", "/all", attrs=m.RDONLY, flags=7 | 8),
        m.bind("/dev", "/top", attrs=m.RDONLY, flags=7),
        m.bind(str(tmp_path), "/slave", flags=7 | m.MS_SLAVE | m.MS_REC),
        m.bind(str(tmp_path), "/shared", flags=6 | m.MS_SHARED),
        m.bind(str(tmp_path), "/later", flags=6),
        m.op(m.MOUNT_ATTR, m.text("/later"), m.u64(m.RDONLY | m.NODEV), m.u64(0),
             m.u32(m.MS_UNBINDABLE)),
    ]  # fmt: skip
    script = (
        f"touch /all/shm/{name} || echo all;"
        f"touch /top/shm/{name} && rm /top/shm/{name} && echo top;"
        "touch /top/x || echo ro; grep -E ' /(slave|shared|later) ' /proc/self/mountinfo"
    )
    output = run(box, f"({script}) 2>/dev/null", after=after).splitlines()
    assert output[:3] == ["all", "top", "ro"]
    fields = {line.split()[4]: line.split(" - ")[0].split() for line in output[3:]}
    assert fields["/shared"][6].startswith("shared:")
    assert "unbindable" in fields["/later"]
    assert {"ro", "nodev"} <= set(fields["/later"][5].split(","))
    assert not any(word.startswith("shared") for word in fields["/slave"])


def test_attributes_of_what_is_no_mount_are_refused(box: Box) -> None:
    for path, error in (("/bin", 22), ("/none", 2)):
        change = m.op(m.MOUNT_ATTR, m.text(path), m.u64(1), m.u64(0), m.u32(0))
        reply = box.start(plan_of(box.ops(["true"], after=[change])))
        assert (reply.kind, reply.arg, reply.a) == (m.FAILED, error, m.MOUNT_ATTR)


def test_tmpfs_starts_with_what_the_directory_held(box: Box) -> None:
    upper = box.folder / "upper/seed"
    (upper / "deep/er").mkdir(parents=True)
    (upper / "deep/er/file").write_text("content\n")
    (upper / "deep/er/file").chmod(0o640)
    os.chown(upper / "deep/er/file", 5, 6)
    (upper / "link").symlink_to("deep/er/file")
    upper.chmod(0o711)
    mount = m.with_flags(m.mount("tmpfs", "/seed"), 1)
    script = (
        "cat /seed/link; stat -c %a:%u:%g /seed/deep/er/file; stat -c %a /seed;"
        "readlink /seed/link;"
        "rm -r /seed/deep; grep -c ' /seed tmpfs' /proc/mounts"
    )
    output = run(box, script, after=[mount])
    assert output.split() == ["content", "640:5:6", "711", "deep/er/file", "1"]
    assert (upper / "deep/er/file").exists()


# --- cgroups -----------------------------------------------------------------------------------


@pytest.fixture
def groups(cgroup_parent: str) -> Iterator[dict[str, Path]]:
    """A directory in a v1 hierarchy and one of cgroup v2, as far as they are there."""
    name = f"{cgroup_parent.lstrip('/')}_{secrets.token_hex(3)}"
    found = {}
    for kind, places, mark in (
        ("v1", ("pids", "freezer"), "tasks"),
        ("v2", ("unified", "."), "cgroup.controllers"),
    ):
        mounted = [CGROUP_ROOT / place for place in places if (CGROUP_ROOT / place / mark).exists()]
        if mounted:
            found[kind] = mounted[0] / name
            found[kind].mkdir()
    yield found
    for path in found.values():
        path.rmdir()


@pytest.mark.parametrize("kind", ["v1", "v2"])
@pytest.mark.parametrize("joins_pid", [False, True])
def test_container_in_a_user_namespace_joins_its_cgroup(
    box: Box, groups: dict[str, Path], neighbour: int, kind: str, joins_pid: bool
) -> None:
    if kind not in groups:
        pytest.skip(f"needs cgroup {kind}")
    mapped(box)
    early, flags = [IDMAP], USER_FLAGS
    if joins_pid:
        # Made by a helper on the way.
        early, flags = [], m.DEFAULT_FLAGS & ~m.NEWPID
        early.append(m.op(m.SETNS, m.u32(m.NEWPID), m.text(f"/proc/{neighbour}/ns/pid")))
        box.root_op = m.overlay([box.lower], *box.own_layers)
    begun = box.start(
        plan_of(box.ops(["sleep", "1000"], early=early), flags),
        flags=m.UNIFIED if kind == "v2" else 0,
        join=[str(groups[kind])],
    )
    assert begun.kind == m.STARTED, begun
    assert (groups[kind] / "cgroup.procs").read_text().split() == [str(begun.a)]
    # The root of its cgroup namespace.
    assert inode("cgroup", begun.a) != inode("cgroup")
    box.ask(m.STOP, arg=9)
