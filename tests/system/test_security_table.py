"""What broke other runtimes, attempted on the real kernel: one row, at least one test.

A test here is an attack that says whether it succeeded. Where the plan holds the protection, the
same test leaves it out and sees the attack succeed; where the launcher does, a monitor compiled
without it is attacked as well.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import podrt as package
from doubles import monitor_driver as m
from doubles.commands import Podrt, monitors_of
from doubles.monitor_driver import Box, Group, killed_at_end, make_busybox_root, plan_of
from doubles.oci_runtime import wait_for
from doubles.weakened import Change, build_without
from podrt.linux import mounts

TESTS = Path(__file__).parents[1]
HERE = "system/test_security_table.py"
ISOLATION = "system/native/test_launcher_isolation.py"
BUILT = Path(package.__file__).parent / "_native/bin/podrt-monitor"
AT_FDCWD, EXCHANGE = -100, 2
MONITOR = Path(os.environ.get("PODRT_MONITOR_BINARY") or BUILT)

# Every row of the list of attacks that podrt answers for, and the tests that stand for it.
ROWS: dict[str, tuple[tuple[str, str], ...]] = {
    "CVE-2019-5736": (
        (HERE, "test_binary_of_the_monitor_cannot_be_overwritten_by_whoever_holds_it"),
        (HERE, "test_container_that_sees_every_process_overwrites_no_binary"),
        ("system/oci/test_exec.py", "test_exec_leaves_no_program_of_podrt_within_reach"),
    ),
    "CVE-2019-16884, CVE-2023-28642": (
        (HERE, "test_attack_on_the_launcher_fails"),
        (ISOLATION, "test_mount_over_proc_that_is_a_symlink_is_refused"),
    ),
    "CVE-2021-30465": (
        (HERE, "test_attack_on_the_launcher_fails"),
        (ISOLATION, "test_destination_behind_a_symlink_never_leads_out"),
    ),
    "CVE-2022-29162": ((HERE, "test_inheritable_capabilities_are_none"),),
    "CVE-2023-27561, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881": (
        (HERE, "test_attack_on_the_launcher_fails"),
        (HERE, "test_masked_file_gives_no_hold_on_the_hosts_null_device"),
        (ISOLATION, "test_masks_and_read_only_paths_hold"),
    ),
    "CVE-2024-21626": (
        (HERE, "test_attack_on_the_launcher_fails"),
        (HERE, "test_descriptor_that_the_monitor_inherited_reaches_no_program"),
        (ISOLATION, "test_working_directory_through_a_magic_link_is_refused"),
    ),
    "CVE-2020-15257": ((HERE, "test_container_on_the_hosts_network_finds_no_socket_of_podrt"),),
    "CVE-2022-0492": ((HERE, "test_cgroups_can_be_written_by_privileged_containers_only"),),
    "layers that write elsewhere": (
        ("unit/images/test_archive.py", "test_unpack_hostile_archives_never_leaves_the_layer"),
        ("unit/images/test_archive.py", "test_unpack_through_a_symlink_parent_stays_inside"),
        ("unit/images/test_archive.py", "test_unpack_a_hard_link_to_outside_is_refused"),
        ("unit/images/test_archive.py", "test_unpack_a_name_with_dots_is_refused"),
        ("unit/images/test_archive.py", "test_archives_that_write_outside_do_so_unchecked"),
    ),
    "fork bomb, memory hog, fd hog, log flood, full disk": (
        (HERE, "test_hogs_meet_their_limits_and_the_others_go_on"),
        (ISOLATION, "test_memory_hog_is_marked_as_killed_for_memory"),
        ("system/test_commands.py", "test_full_disk_refuses_clearly_and_loses_nothing"),
        ("crash/test_store_refused.py", "test_a_disk_that_is_full_refuses_loses_nothing_and_lets"
         "_things_be_removed"),
    ),
    "hostile input": (
        ("unit/kube/test_documents.py", "test_parse_any_bytes_ends_in_values_or_an_error"),
        ("unit/kube/test_documents.py", "test_parse_a_bomb_ends_soon_in_little_memory"),
        ("unit/kube/test_documents.py", "test_bomb_without_our_limits_grows_past_all_bounds"),
        ("unit/spec/test_hostile_specs.py",
         "test_compile_mutated_documents_gives_a_plan_or_an_error_with_a_field"),
        ("unit/store/test_damage.py",
         "test_open_after_any_flipped_bit_keeps_a_correct_prefix_or_refuses"),
        ("system/native/test_fuzz_native.py", "test_decode_mutated_plans_is_refused_or_walked"),
        ("system/native/test_fuzz_native.py", "test_decoder_that_lacks_a_bound_is_caught"),
        ("system/native/test_fuzz_native.py",
         "test_read_mutated_messages_leaves_the_monitor_serving"),
    ),
}  # fmt: skip


def test_every_row_has_tests_that_are_there() -> None:
    assert len(ROWS) == 11
    for row, proofs in ROWS.items():
        assert proofs, row
        for file, name in proofs:
            tree = ast.parse((TESTS / file).read_text())
            assert name in {getattr(node, "name", "") for node in tree.body}, (row, file, name)


# --- attacks on the launcher -------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/bin/busybox").exists():
        pytest.skip("needs a static busybox (Debian: busybox-static)")
    return make_busybox_root(tmp_path_factory.mktemp("root"))


@contextlib.contextmanager
def a_group(folder: Path, binary: Path) -> Iterator[Group]:
    """A group under some monitor; at the end every process of it is gone."""
    folder.mkdir()
    group = Group(folder, binary)
    group.spawn()
    pids: list[int] = []
    try:
        with killed_at_end(pids):
            yield group
            pids += group.processes()
    finally:
        group.let_go()
        group.wait_end()
        shutil.rmtree(folder, ignore_errors=True)


def started(box: Box, *script: str, **ops: object) -> bool:
    """Whether the shell script ran to its end."""
    plan = plan_of(box.ops(["sh", "-c", "; ".join(script)], **ops))  # type: ignore[arg-type]
    return box.start(plan).kind == m.STARTED and box.wait().arg == 0


def proc_is_a_symlink(box: Box) -> bool:
    (box.folder / "upper/proc").symlink_to("/tmp")
    return started(box, "true", mounts=[m.mount("proc", "/proc")])


def destination_leads_out(box: Box) -> bool:
    victim = box.folder / "victim"
    victim.mkdir()
    (box.folder / "upper/evil").symlink_to(victim)
    started(box, "true", after=[m.device("/evil/null", 1, 3)])
    return (victim / "null").exists()


def exchanged(one: str, other: str, ended: threading.Event) -> None:
    """Let two names change places until it is enough."""
    libc = ctypes.CDLL(None, use_errno=True)
    while not ended.is_set():
        assert libc.renameat2(AT_FDCWD, one.encode(), AT_FDCWD, other.encode(), EXCHANGE) == 0


def destination_is_swapped(box: Box) -> bool:
    """Others who hold the volume exchange a directory in it for a link while it is walked."""
    shared, victim = box.folder / "shared", box.folder / "victim"
    for folder in (shared / "evil", victim):
        folder.mkdir(parents=True)
    (shared / "link").symlink_to(victim)
    ended = threading.Event()
    names = (f"{shared}/evil", f"{shared}/link", ended)
    swapping = threading.Thread(target=exchanged, args=names)
    swapping.start()
    try:
        for number in range(60):
            after = [m.bind(str(shared), "/vol"), m.device(f"/vol/evil/null{number}", 1, 3)]
            started(box, "true", after=after)
    finally:
        ended.set()
        swapping.join()
    return any(victim.iterdir())


def terminal_is_another_instances(box: Box) -> bool:
    """The place where terminals come from is a link to somebody else's."""
    mounts = (
        m.mount("proc", "/proc"),
        m.mount("tmpfs", "/dev", m.NOSUID),
        m.mount("devpts", "/other", m.NOSUID | m.NOEXEC, ("newinstance", "ptmxmode=0666")),
        m.op(m.SYMLINK, m.text("/other/ptmx"), m.text("/dev/pts/ptmx")),
    )
    terminal = m.op(m.TERMINAL, m.u32(0), m.u32(0), m.text(""))
    return started(box, "true", mounts=mounts, after=[terminal], late=[m.user(0, 0)])


def source_of_masks_is_a_file(box: Box) -> bool:
    """The monitor of `attack` sees a file of ours as /dev/null."""
    masks = (*m.STANDARD_MOUNTS, m.op(m.MASK, m.text("/proc/keys")))
    return started(box, "cat /proc/keys", mounts=masks) and "prepared" in box.output()


def sysctl_goes_to_a_prepared_proc(box: Box) -> bool:
    prepared = box.folder / "prepared/kernel"
    prepared.mkdir(parents=True)
    (prepared / "shm_rmid_forced").write_text("untouched")
    after = [
        m.bind(str(prepared.parent), "/proc/sys"),
        m.sysctl("kernel.shm_rmid_forced", "1"),
    ]
    started(box, "true", after=after)
    return (prepared / "shm_rmid_forced").read_text() != "untouched"


def directory_is_a_leaked_descriptor(box: Box) -> bool:
    """Whether any descriptor the launcher has leads to a directory outside the root."""
    for number in range(3, 24):
        reply = box.start(plan_of(box.ops(["sleep", "100"], cwd=f"/proc/self/fd/{number}")))
        if reply.kind == m.STARTED:
            box.ask(m.STOP, arg=signal.SIGKILL)
            return True
    return False


class Attack(NamedTuple):
    """An attack, and what keeps the launcher from giving in to it."""

    run: Callable[[Box], bool]
    changes: tuple[Change, ...]
    masked_null: bool = False


ATTACKS = {
    "proc is a symlink": Attack(
        proc_is_a_symlink,
        (("mounts.c", "RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS", "RESOLVE_IN_ROOT"),),
    ),
    "destination leads out": Attack(
        destination_leads_out,
        (
            (
                "paths.c",
                'k_openat2(child->root, *path ? path : ".", O_PATH | flags, IN_ROOT)',
                'k_openat2(child->root, path[strspn(path, "/")] ? path + strspn(path, "/") : ".",'
                " O_PATH | flags, 0)",
            ),
        ),
    ),
    "destination is swapped": Attack(
        destination_is_swapped,
        (
            (
                "paths.c",
                'k_openat2(child->root, *path ? path : ".", O_PATH | flags, IN_ROOT)',
                'k_openat2(child->root, path[strspn(path, "/")] ? path + strspn(path, "/") : ".",'
                " O_PATH | flags, 0)",
            ),
        ),
    ),
    "terminal is another instance's": Attack(
        terminal_is_another_instances,
        (("creds.c", "RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS", "RESOLVE_IN_ROOT"),),
    ),
    "source of masks is a file": Attack(
        source_of_masks_is_a_file,
        (("paths.c", "if ((st.st_mode & S_IFMT) != type || st.st_rdev != device)", "if (0)"),),
        masked_null=True,
    ),
    "sysctl goes to a prepared proc": Attack(
        sysctl_goes_to_a_prepared_proc,
        (
            (
                "creds.c",
                "k_openat2(proc, below, O_PATH | O_DIRECTORY, BELOW)",
                'openat(open_in_root(child, "/proc", O_DIRECTORY), below, O_PATH | O_DIRECTORY)',
            ),
        ),
    ),
    "directory is a leaked descriptor": Attack(
        directory_is_a_leaked_descriptor,
        (
            ("paths.c", ": open_in_root(child, path, O_DIRECTORY));\n\tTRY(checked(fchdir(fd)));",
             ": open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));\n\tTRY(checked(fchdir(fd)));"),
            ("paths.c", "return room[0] == '/' ? 0 : -ENOENT;", "return 0;"),
        ),
    ),
}  # fmt: skip


def run_attack(attack: Attack, folder: Path, root: Path, binary: Path) -> bool:
    if attack.masked_null:
        fake, script = folder.parent / "fake", folder.parent / f"{folder.name}-monitor"
        fake.write_text("prepared\n")
        inner = f'mount --bind {fake} /dev/null && exec {binary} "$@"'
        script.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{inner}' sh \"$@\"\n")
        script.chmod(0o755)
        binary = script
    with a_group(folder, binary) as group:
        return attack.run(Box(group, group.connect(), root))


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_on_the_launcher_fails(name: str, root: Path, tmp_path: Path) -> None:
    attack = ATTACKS[name]
    assert not run_attack(attack, tmp_path / "sound", root, MONITOR)
    weak = build_without(tmp_path, attack.changes)
    assert run_attack(attack, tmp_path / "weak", root, weak), "the attack shows nothing"


def test_inheritable_capabilities_are_none(root: Path, tmp_path: Path) -> None:
    with a_group(tmp_path / "group", MONITOR) as group:
        box = Box(group, group.connect(), root)
        given = [m.u64(m.DEFAULT_CAPS)] * 4
        sound, weak = m.caps(m.DEFAULT_CAPS), m.op(m.CAPS, *given, m.u64(0))
        for late in (sound, weak):
            assert started(box, "grep CapInh /proc/self/status", late=[late])
        empty, filled = (line.split()[1] for line in box.output().splitlines())
        assert int(empty, 16) == 0 and int(filled, 16) == m.DEFAULT_CAPS


def test_descriptor_that_the_monitor_inherited_reaches_no_program(
    root: Path, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, leaked)
        os.set_inheritable(leaked, True)
        group = stack.enter_context(a_group(tmp_path / "group", MONITOR))
        box = Box(group, group.connect(), root)
        begun = box.start(plan_of(box.ops(["sleep", "100"])))
        assert begun.kind == m.STARTED
        assert sorted(os.listdir(f"/proc/{begun.a}/fd")) == ["0", "1", "2"]
        # As a program that was started without care would have it.
        pid = os.posix_spawn("/bin/busybox", ["sleep", "100"], {})
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.kill, pid, signal.SIGKILL)
        assert str(leaked) in os.listdir(f"/proc/{pid}/fd")


# --- attacks on podrt as a whole ----------------------------------------------------------------


def overwrite_after_death(pid: int) -> int:
    """Take hold of a process's binary, end the process, write: the error, or 0."""
    held = os.open(f"/proc/{pid}/exe", os.O_PATH)
    errors: list[int] = []

    def is_decided() -> bool:
        try:
            with open(f"/proc/self/fd/{held}", "ab") as file:
                file.write(b"x")
        except OSError as exc:
            errors.append(exc.errno or -1)
            # A child of it may take a moment to follow.
            return exc.errno != errno.ETXTBSY
        errors.append(0)
        return True

    try:
        os.kill(pid, signal.SIGKILL)
        wait_for(is_decided, "the end of the monitor and its child")
    finally:
        os.close(held)
    return errors[-1]


def test_binary_of_the_monitor_cannot_be_overwritten_by_whoever_holds_it(
    podrt: Podrt, tmp_path: Path
) -> None:
    podrt("run", "-d", "--network", "none", "--stop-timeout", "0", "base", "/bin/sleep", "100")
    (pid,) = monitors_of(str(podrt.runroot))
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    # What such a mount is worth: a binary of our own, executed through one and without one.
    binary = tmp_path / "monitor"
    shutil.copy(MONITOR, binary)
    before = binary.read_bytes()
    fd = mounts.readonly_clone(str(binary))
    try:
        with a_group(tmp_path / "sound", Path(f"/proc/{os.getpid()}/fd/{fd}")) as group:
            group.connect()
            assert overwrite_after_death(group.pid) == errno.EROFS
    finally:
        os.close(fd)
    assert binary.read_bytes() == before
    with a_group(tmp_path / "weak", binary) as group:
        group.connect()
        assert overwrite_after_death(group.pid) == 0
    assert binary.read_bytes() == before + b"x"


def test_container_that_sees_every_process_overwrites_no_binary(podrt: Podrt) -> None:
    before = MONITOR.read_bytes()
    script = (
        "for p in /proc/[0-9]*; do read c < $p/comm; case $c in podrt-*) "
        'echo "found $c"; (echo bad >> $p/exe) && echo written;; esac; done 2>/dev/null; true'
    )
    flags = ("--network", "none", "--privileged", "--pid", "host")
    found = podrt("run", "--rm", *flags, "base", "/bin/sh", "-c", script)
    assert "found podrt-monitor" in found and "written" not in found
    assert MONITOR.read_bytes() == before


def test_masked_file_gives_no_hold_on_the_hosts_null_device(podrt: Podrt) -> None:
    # The mode that it has anyway: the host's device stays as it is, whatever comes out.
    script = "busybox chmod 666 /proc/keys 2>&1 && echo changed; true"
    command = ("base", "/bin/busybox", "sh", "-c", script)
    assert "changed" not in podrt("run", "--rm", "--network", "none", *command)


def abstract_sockets(table: str) -> set[str]:
    """The abstract addresses in /proc/net/unix."""
    words = (line.split() for line in table.splitlines()[1:])
    return {fields[7] for fields in words if len(fields) > 7 and fields[7].startswith("@")}


def test_container_on_the_hosts_network_finds_no_socket_of_podrt(
    podrt: Podrt, tmp_path: Path
) -> None:
    before = abstract_sockets(Path("/proc/net/unix").read_text())
    name = f"podrt-{tmp_path.name}-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.bind("\0" + name)
        control.listen()
        command = ("base", "/bin/cat", "/proc/net/unix")
        seen = abstract_sockets(podrt("run", "--rm", "--network", "host", *command)) - before
    # What would be found is found; nothing else of ours is.
    assert f"@{name}" in seen
    assert [one for one in seen if "podrt" in one or str(podrt.runroot) in one] == [f"@{name}"]


def test_cgroups_can_be_written_by_privileged_containers_only(podrt: Podrt) -> None:
    script = (
        "cd /sys/fs/cgroup; for d in . */; do [ -e $d/cgroup.procs ] || continue; echo seen; "
        "busybox mkdir $d/evil 2>/dev/null && busybox rmdir $d/evil && echo made; "
        "(echo /x > $d/release_agent) 2>/dev/null && echo agent; done; "
        "busybox mkdir /m; busybox mount -t cgroup -o memory x /m 2>/dev/null && echo mounted; "
        "busybox mount -t cgroup2 x /m 2>/dev/null && echo mounted; busybox cat /proc/self/cgroup"
    )
    command = ("--network", "none", "base", "/bin/busybox", "sh", "-c", script)
    sound = podrt("run", "--rm", *command)
    assert "seen" in sound
    for word in ("made", "agent", "mounted"):
        assert word not in sound
    joined = [line for line in sound.splitlines() if line.count(":") >= 2]
    assert podrt.cgroup_parent not in "".join(joined)
    assert "made" in podrt("run", "--rm", "--privileged", *command)


def test_hogs_meet_their_limits_and_the_others_go_on(podrt: Podrt) -> None:
    podrt.pod("shop")
    podrt("create", "--pod", "shop", "--name", "calm", "--stop-timeout", "0", "base",
          "/bin/sleep", "1000")  # fmt: skip
    bomb = "i=0; while [ $i -lt 40 ]; do busybox sleep 1 & i=$((i + 1)); done; echo grown"
    files = 'i=3; while [ $i -lt 30 ]; do eval "exec $i</dev/null"; i=$((i + 1)); done; echo grown'
    flood = "busybox yes 0123456789012345678901234567890123456789 | busybox head -c 4000000"
    hoard = "busybox dd if=/dev/zero of=/dev/null bs=64M count=1 && echo grown"
    hogs = {
        "bomb": (("--pids-limit", "12"), bomb),
        "hoard": (("--memory", "16m"), hoard),
        "files": (("--ulimit", "nofile=24:24"), files),
        "flood": (("--log-opt", "max-size=64k"), flood),
    }
    for name, (limit, script) in hogs.items():
        command = ("base", "/bin/busybox", "sh", "-c", script)
        common = ("create", "--pod", "shop", "--stop-timeout", "0", "--name")
        podrt(*common, name, *limit, *command)
        podrt(*common, f"{name}-free", *command)
    podrt("pod", "start", "shop")
    wait_for(lambda: running(podrt) == {"calm"}, "the hogs' ends")
    for name in ("bomb", "files", "hoard"):
        assert "grown" not in podrt.run("logs", name).stdout
        assert "grown" in podrt.run("logs", f"{name}-free").stdout
    sizes = {path.parent.name: path.stat().st_size
             for path in (podrt.root / "containers").glob("*/ctr.log*")}  # fmt: skip
    ids = {row["Names"][0]: row["Id"] for row in podrt.listed("ps", "-a", "--no-trunc")}
    assert sizes[ids["flood"]] <= 2 * (64 << 10) < 4_000_000 <= sizes[ids["flood-free"]]


def running(podrt: Podrt) -> set[str]:
    """The names of the containers that run."""
    return {row["Names"][0] for row in podrt.listed("ps") if "infra" not in row["Names"][0]}
