"""What a container of the launcher can and cannot see, and the attacks that it withstands."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles import monitor_driver as m
from doubles.monitor_driver import Box, Client, Group, Message, plan_of, read_journal

CGROUP_ROOT = Path("/sys/fs/cgroup")
ALL_MOUNTS = (*m.STANDARD_MOUNTS, m.SYSFS)
RETURN = 0x06


def run(box: Box, script: str, *, flags: int = m.DEFAULT_FLAGS, **ops: object) -> str:
    """Run a shell script to its end; returns what it wrote to stdout."""
    reply = box.start(plan_of(box.ops(["sh", "-c", script], **ops), flags))  # type: ignore[arg-type]
    assert reply.kind == m.STARTED, reply
    end = box.wait()
    assert end.arg == 0, (end, box.log.read_text())
    return box.output()


def status_fields(output: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)


# --- what it inherits --------------------------------------------------------------------------


def test_program_inherits_three_descriptors_and_clean_signals(box: Box) -> None:
    assert set(run(box, "ls /proc/1/fd").split()) <= {"0", "1", "2", "3"}
    fields = status_fields(run(box, "exec cat /proc/self/status"))
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(fields[name], 16) == 0
    assert fields["Name"] == "cat"


def test_held_process_shows_that_only_exec_is_left(box: Box) -> None:
    held = box.start(plan_of(box.ops(["true"], late=[m.caps(m.DEFAULT_CAPS)])), flags=m.HOLD)
    fds = Path(f"/proc/{held.a}/fdinfo")
    for entry in fds.iterdir():
        flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
        assert int(entry.name) <= 2 or flags & os.O_CLOEXEC, entry.name
    status = status_fields(Path(f"/proc/{held.a}/status").read_text())
    assert int(status["SigBlk"], 16) == 0


def test_program_ignored_by_its_parents_keeps_no_ignored_signal(
    tmp_path: Path, monitor_binary: Path, busybox_root: Path
) -> None:
    group = Group(tmp_path, monitor_binary)
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        group.spawn()
    finally:
        signal.signal(signal.SIGUSR1, old)
    try:
        box = Box(group, group.connect(), busybox_root)
        assert int(status_fields(run(box, "exec cat /proc/self/status"))["SigIgn"], 16) == 0
    finally:
        group.let_go()
        group.wait_end()


def test_capabilities_user_and_groups_are_as_planned(box: Box) -> None:
    late = [m.user(0, 0, [5, 6]), m.caps(m.DEFAULT_CAPS)]
    fields = status_fields(run(box, "cat /proc/self/status", late=late))
    assert [int(fields[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [
        0,
        m.DEFAULT_CAPS,
        m.DEFAULT_CAPS,
        m.DEFAULT_CAPS,
        0,
    ]
    assert fields["Groups"].split() == ["5", "6"]


def test_user_without_root_has_no_capability_but_ambient_ones(box: Box) -> None:
    net_bind = 1 << 10
    granted = m.op(m.CAPS, *(m.u64(mask) for mask in (m.DEFAULT_CAPS, *[net_bind] * 4)))
    script, late = "cat /proc/self/status; echo x > /dev/stdout", [m.user(1000, 1001), granted]
    fields = status_fields(run(box, script, late=late, owner=1000))
    assert [int(fields[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")] == [
        net_bind
    ] * 4
    assert int(fields["CapBnd"], 16) == m.DEFAULT_CAPS
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1001"] * 4


def test_user_without_caps_operation_keeps_none(box: Box) -> None:
    fields = status_fields(run(box, "cat /proc/self/status", late=[m.user(1000, 1000)]))
    assert [int(fields[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Amb")] == [0] * 4


def test_limits_umask_names_and_oom_score_are_as_planned(box: Box) -> None:
    late = [
        m.op(m.RLIMIT, m.text("RLIMIT_NOFILE"), m.u32(7), m.u64(100), m.u64(200)),
        m.op(m.OOM_SCORE, m.text("77")),
        m.op(m.NO_NEW_PRIVS),
        m.op(m.KEYRING),
    ]
    after = [
        m.op(m.HOSTNAME, m.text("web")),
        m.op(m.DOMAINNAME, m.text("example")),
        m.sysctl("kernel.shm_rmid_forced", "1"),
    ]
    script = (
        "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; umask; hostname;"
        "cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced;"
        "grep NoNewPrivs /proc/self/status"
    )
    assert run(box, script, after=after, late=late, umask=0o027).split() == [
        *("100", "200", "77", "0027", "web", "example", "1", "NoNewPrivs:", "1"),
    ]


def test_seccomp_filter_holds(box: Box, tmp_path: Path) -> None:
    # chmod answers EPERM; its number is at the start of seccomp_data.
    chmod = {"x86_64": 90, "aarch64": 53}[os.uname().machine]
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)
    program += struct.pack("=HBBI", 0x15, 0, 1, chmod)
    program += struct.pack("=HBBI", RETURN, 0, 0, 0x00050001)
    program += struct.pack("=HBBI", RETURN, 0, 0, 0x7FFF0000)
    path = tmp_path / "filter"
    path.write_bytes(program)
    (tmp_path / "short").write_bytes(program[:-1])
    late = [m.op(m.SECCOMP, m.u32(0), m.text(str(path))), m.caps(m.DEFAULT_CAPS)]
    output = run(box, "grep ^Seccomp: /proc/self/status; chmod 700 /tmp || echo refused", late=late)
    assert output.split() == ["Seccomp:", "2", "refused"]
    for name, error in (("short", 22), ("missing", 2)):
        late = [m.op(m.SECCOMP, m.u32(0), m.text(str(tmp_path / name)))]
        assert box.start(plan_of(box.ops(["true"], late=late))).arg == error


# --- mounts ------------------------------------------------------------------------------------


def test_masks_and_read_only_paths_hold(box: Box) -> None:
    hidden = (*m.HIDDEN, m.op(m.MASK, m.text("/proc/no/such")))
    script = (
        "cat /proc/kcore /proc/keys | wc -c; ls /sys/firmware | wc -l;"
        "echo 1 > /proc/sys/kernel/shm_rmid_forced; touch /sys/firmware/x;"
        "stat -c %t:%T /proc/keys; grep ' /proc/sys ' /proc/mounts; id -u"
    )
    output = run(box, f"({script}) 2>/dev/null", mounts=(*ALL_MOUNTS, *hidden))
    empty, files, null, mounted, uid = output.splitlines()
    assert (empty, files, null, uid) == ("0", "0", "1:3", "0")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted.split()[3].split(","))


def test_mask_below_a_read_only_path_stays(box: Box) -> None:
    hidden = (m.op(m.MASK, m.text("/proc/sys/kernel")), m.op(m.READONLY, m.text("/proc/sys")))
    assert run(box, "ls /proc/sys/kernel | wc -l", mounts=(*ALL_MOUNTS, *hidden)) == "0"


def test_mount_over_proc_that_is_a_symlink_is_refused(box: Box, busybox_root: Path) -> None:
    for name in ("proc", "sys"):
        (box.folder / "upper" / name).symlink_to("/tmp")
    reply = box.start(plan_of(box.ops(["true"], mounts=ALL_MOUNTS)))
    assert (reply.kind, reply.arg, reply.a, reply.body) == (m.FAILED, 40, m.MOUNT, b"/proc")


@pytest.mark.parametrize("target", ["/", "../../../../..", "/proc/self/root", "/proc/1/cwd"])
def test_destination_behind_a_symlink_never_leads_out(
    box: Box, group: Group, tmp_path: Path, target: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    upper = box.folder / "upper"
    (upper / "evil").symlink_to(target)
    place = f"/evil{victim}"
    after = [
        m.mount("tmpfs", f"{place}/mounted"),
        m.bind("/etc/hostname", f"{place}/bound"),
        m.op(m.SYMLINK, m.text("x"), m.text(f"{place}/link")),
        m.device(f"{place}/null", 1, 3),
        m.op(m.MASK, m.text(f"/evil{box.log}")),
    ]
    box.start(plan_of(box.ops(["true"], after=after)))
    box.wait()
    assert list(victim.iterdir()) == []
    assert str(victim) not in Path(f"/proc/{group.pid}/mounts").read_text()


def test_dangling_symlink_in_a_destination_is_refused_not_followed(
    box: Box, tmp_path: Path
) -> None:
    (box.folder / "upper" / "data").symlink_to(tmp_path / "outside")
    reply = box.start(plan_of(box.ops(["true"], after=[m.mount("tmpfs", "/data/x")])))
    assert (reply.kind, reply.a) == (m.FAILED, m.MOUNT)
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("cwd", ["/proc/self/fd/3", "/proc/self/cwd", "/proc/1/root"])
def test_working_directory_through_a_magic_link_is_refused(box: Box, cwd: str) -> None:
    reply = box.start(plan_of(box.ops(["true"], cwd=cwd)))
    assert (reply.kind, reply.a) == (m.FAILED, m.CWD)


def test_missing_working_directory_is_made_on_request(box: Box) -> None:
    late = [m.op(m.CWD, m.text("/srv/deep/er"), flags=1)]
    assert run(box, "pwd", late=late) == "/srv/deep/er"


def test_host_is_out_of_sight(box: Box, group: Group) -> None:
    script = "cat /proc/mounts; ls /; ls -d /../../var 2>/dev/null; ps | wc -l"
    output = run(box, script, mounts=ALL_MOUNTS)
    assert str(group.root) not in output.replace(f"{box.folder}", "").replace(
        str(box.folder.parent), "" if "overlay" in output else str(box.folder.parent)
    )
    mounted = [line.split()[1] for line in output.splitlines() if line.count(" ") == 5]
    assert mounted == ["/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys"]
    assert "/../../var" not in output


def test_read_only_root_and_volumes(box: Box, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "file").write_text("content\n")
    script = "touch /x || echo ro; touch /data/y; cat /etc/made/file; touch /frozen/z || echo ro"
    ops = box.ops(
        ["sh", "-c", script],
        after=[
            m.bind(str(volume), "/data"),
            m.bind(str(tmp_path / "file"), "/etc/made/file"),
            m.bind(str(volume), "/frozen", attrs=m.RDONLY),
        ],
    )  # fmt: skip
    ops[ops.index(m.op(m.PIVOT))] = m.op(m.PIVOT, flags=1)
    assert box.start(plan_of(ops)).kind == m.STARTED
    assert box.wait().arg == 0
    assert box.output().split() == ["ro", "content", "ro"]
    assert [path.name for path in volume.iterdir()] == ["y"]


def test_devices_and_links_are_made(box: Box) -> None:
    script = "for d in null zero full tty; do stat -c '%F %t:%T %a' /dev/$d; done; readlink /dev/fd"
    assert run(box, script).splitlines() == [
        "character special file 1:3 666",
        "character special file 1:5 666",
        "character special file 1:7 666",
        "character special file 5:0 666",
        "/proc/self/fd",
    ]


def test_root_of_many_layers_with_long_paths(box: Box, busybox_root: Path, tmp_path: Path) -> None:
    layers = []
    for number in range(4):
        layer = tmp_path / ("layer" * 12 + str(number))
        layer.mkdir()
        (layer / f"file{number}").write_text(f"{number}\n")
        (layer / "which").write_text(f"{number}\n")
        layers.append(str(layer))
    box.root_op = m.overlay([*layers, str(busybox_root)], *box.own_layers, more=["volatile"])
    output = run(box, "cat /which /file0 /file1 /file2 /file3; grep -c volatile /proc/mounts")
    assert output.split() == ["0", "0", "1", "2", "3", "1"]


def test_bind_root_and_read_only_overlay(box: Box, busybox_root: Path) -> None:
    box.root_op = m.op(m.ROOT_BIND, m.text(str(busybox_root)))
    assert run(box, "echo ok") == "ok"
    box.root_op = m.overlay([str(busybox_root), str(box.folder / "upper")])
    assert run(box, "touch /x || echo ro").splitlines() == ["ok", "ro"]


def test_mounts_of_a_container_never_reach_the_host_or_the_monitor(box: Box, group: Group) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    monitor = Path(f"/proc/{group.pid}/mountinfo").read_text()
    box.start(plan_of(box.ops(["sleep", "100"], mounts=(*ALL_MOUNTS, *m.HIDDEN))))
    assert Path("/proc/self/mountinfo").read_text() == before
    assert Path(f"/proc/{group.pid}/mountinfo").read_text() == monitor


# --- the monitor's own ------------------------------------------------------------------------


def test_monitor_is_not_dumpable_and_lives_in_its_own_mount_namespace(
    group: Group, client: Client
) -> None:
    assert os.stat(f"/proc/{group.pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino
    assert Path(f"/proc/{group.pid}/comm").read_text() == "podrt-monitor\n"
    fields = status_fields(Path(f"/proc/{group.pid}/status").read_text())
    assert fields["NSsid"].split() == [str(group.pid)]


def test_dead_monitor_blocks_writers_and_kills_none(box: Box, group: Group, client: Client) -> None:
    begun = box.start(plan_of(box.ops(["sh", "-c", "yes 0123456789 | head -n 50000; echo end"])))
    os.kill(group.pid, signal.SIGKILL)
    group.close()
    group.wait_end()
    group.spawn()
    box.client = group.connect()
    if box.ask(m.ADOPT, a=begun.a, b=begun.b, body=bytes(box.log)).kind == m.STARTED:
        box.wait()
        assert box.lines()[-1][2] == "end"


# --- cgroups ----------------------------------------------------------------------------------


@pytest.fixture
def hierarchies(cgroup_parent: str) -> Iterator[list[Path]]:
    """A directory in every v1 hierarchy; removed afterwards."""
    made = []
    name = f"{cgroup_parent.lstrip('/')}_{secrets.token_hex(3)}"
    for mounted in sorted(CGROUP_ROOT.iterdir()):
        if not (mounted / "tasks").exists() or mounted.is_symlink():
            continue
        path = mounted / name
        path.mkdir()
        made.append(path)
        if mounted.name == "cpuset":
            for knob in ("cpuset.cpus", "cpuset.mems"):
                (path / knob).write_text((mounted / knob).read_text())
    if not made:
        pytest.skip("needs cgroup v1 hierarchies")
    yield made
    for path in made:
        path.rmdir()


def test_container_joins_every_hierarchy_and_sees_itself_as_root(
    box: Box, hierarchies: list[Path]
) -> None:
    join = [str(path) for path in hierarchies]
    begun = box.start(plan_of(box.ops(["sleep", "100"])), join=join)
    assert begun.kind == m.STARTED
    for path in hierarchies:
        assert (path / "cgroup.procs").read_text().split() == [str(begun.a)]
    box.ask(m.STOP, arg=9)
    box.start(plan_of(box.ops(["cat", "/proc/self/cgroup"])), join=join)
    box.wait()
    joined = [line.split(":", 2) for line in box.output().splitlines()]
    names = {path.parent.name for path in hierarchies}
    assert all(
        where == "/" for _number, names_of, where in joined
        if set(names_of.removeprefix("name=").split(",")) & names
    )  # fmt: skip


def test_cgroup_that_is_not_there_fails_the_start(box: Box) -> None:
    reply = box.start(plan_of(box.ops(["true"])), join=["/sys/fs/cgroup/no/such"])
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, 103)
    assert reply.body == b"/sys/fs/cgroup/no/such"
    reply = box.start(plan_of(box.ops(["true"])), flags=m.UNIFIED, join=["/sys/fs/cgroup/no/such"])
    assert (reply.kind, reply.arg, reply.a) == (m.FAILED, 2, 103)


def test_start_with_malformed_directories_is_refused(box: Box) -> None:
    for join in (["relative"], [""], ["/a", "b"]):
        assert box.start(plan_of(box.ops(["true"])), join=join).arg == 71
    assert box.start(plan_of(box.ops(["true"])), flags=m.UNIFIED, join=["/a", "/b"]).arg == 71
    assert box.start(plan_of(box.ops(["true"])), flags=1 << 20).arg == 71


def test_container_is_born_in_a_unified_cgroup(box: Box, cgroup_parent: str) -> None:
    mounted = next(
        (p for p in (CGROUP_ROOT / "unified", CGROUP_ROOT) if (p / "cgroup.controllers").exists()),
        None,
    )
    if mounted is None:
        pytest.skip("needs a cgroup v2 hierarchy")
    path = mounted / f"{cgroup_parent.lstrip('/')}_{secrets.token_hex(3)}"
    path.mkdir()
    try:
        begun = box.start(plan_of(box.ops(["sleep", "100"])), flags=m.UNIFIED, join=[str(path)])
        assert begun.kind == m.STARTED
        assert (path / "cgroup.procs").read_text().split() == [str(begun.a)]
        assert f"0::/{path.name}\n" in Path(f"/proc/{begun.a}/cgroup").read_text()
        box.ask(m.STOP, arg=9)
        box.start(
            plan_of(box.ops(["grep", "^0:", "/proc/self/cgroup"])),
            flags=m.UNIFIED,
            join=[str(path)],
        )
        box.wait()
        assert box.output() == "0::/"
    finally:
        path.rmdir()


def test_memory_hog_is_marked_as_killed_for_memory(
    box: Box, group: Group, hierarchies: list[Path]
) -> None:
    memory = next((path for path in hierarchies if path.parent.name == "memory"), None)
    if memory is None:
        pytest.skip("needs the v1 memory controller")
    (memory / "memory.limit_in_bytes").write_text(str(8 << 20))
    plan = plan_of(box.ops(["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"]))
    box.start(plan, join=[str(path) for path in hierarchies])
    box.wait()
    plan = plan_of(box.ops(["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]))
    box.start(plan, join=[str(path) for path in hierarchies])
    assert box.wait().arg == 137
    assert read_journal(group.journal)[-1].flags == 2


def test_no_abstract_socket_is_opened(group: Group, client: Client) -> None:
    inodes = set()
    for fd in Path(f"/proc/{group.pid}/fd").iterdir():
        target = os.readlink(fd)
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        assert fields[6] not in inodes or len(fields) < 8 or not fields[7].startswith("@")
    assert socket.AF_UNIX
    assert client.ask(Message(m.HELLO)).kind == m.OK
