"""One contract for every cgroup manager, on whatever cgroups this host has (v1, hybrid, v2)."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from podrt.cgroups import v2
from podrt.cgroups.base import CgroupManager, NewCgroup
from podrt.cgroups.cgroupfs import Cgroupfs
from podrt.cgroups.disabled import Disabled
from podrt.cgroups.hierarchies import Hierarchies, Hierarchy
from podrt.errors import EngineFailed, InvalidConfig, InvalidState, Unsupported
from podrt.linux.features import cgroup_mode
from podrt.linux.mounts import read_mounts
from podrt.model.resources import Resources
from podrt.model.runtimespec import DeviceRule

MIB = 1 << 20
DENY_ALL = DeviceRule(allow=False, type="a", access="rwm")
LIMITS = Resources(
    memory_bytes=64 * MIB, pids_limit=40, cpu_quota_us=50_000, cpu_period_us=200_000, cpu_shares=512
)

# Waits for a line, so that it does nothing before it was moved into its cgroup.
GATED = "import sys; sys.stdin.readline()\n"

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(program)`: a Python process that runs `program` once it gets a line."""
    running: list[subprocess.Popen[str]] = []

    def run(program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", "-c", GATED + program]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def unified_part() -> Hierarchies | None:
    """The v2 side of a hybrid host, taken for itself: all of v2 but its controllers."""
    if cgroup_mode() != "hybrid":
        return None
    mount = next(mount for mount in read_mounts() if mount.fstype == "cgroup2")
    return Hierarchies((Hierarchy(mount.target, 2, frozenset()),))


@contextlib.contextmanager
def opened(parent: str, hierarchies: Hierarchies | None) -> Iterator[Cgroupfs]:
    manager = Cgroupfs(hierarchies)
    try:
        yield manager
        manager.kill(parent)
        manager.remove(parent)
    finally:
        manager.close()


# `start` comes first and so ends last: a frozen process cannot be reaped.
@pytest.fixture
def cgroupfs(cgroup_parent: str, start: Start) -> Iterator[Cgroupfs]:
    with opened(cgroup_parent, None) as manager:
        yield manager


@pytest.fixture(params=["whole host", "v2 of hybrid"] if unified_part() else ["whole host"])
def anywhere(
    request: pytest.FixtureRequest, cgroup_parent: str, start: Start
) -> Iterator[Cgroupfs]:
    """Managers for what needs no controller."""
    with opened(cgroup_parent, None if request.param == "whole host" else unified_part()) as found:
        yield found


@pytest.fixture(params=["cgroupfs", "disabled"])
def manager(request: pytest.FixtureRequest) -> CgroupManager:
    if request.param == "disabled":
        return Disabled()
    found: Cgroupfs = request.getfixturevalue("cgroupfs")
    return found


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def members(directory: str) -> list[int]:
    return [int(word) for word in Path(directory, "cgroup.procs").read_text().split()]


# --- every manager -----------------------------------------------------------------------------


def test_paths_fit_together(manager: CgroupManager, cgroup_parent: str) -> None:
    parent = manager.check_parent(cgroup_parent)
    pod = manager.pod_path(parent, "p")
    inside = manager.container_path(parent, "c", pod)
    outside = manager.container_path(parent, "c")
    monitor = manager.monitor_path(parent, "p")
    if manager.name == "disabled":
        assert [parent, pod, inside, outside, monitor] == [""] * 5
    else:
        assert parent == cgroup_parent
        assert [pod, inside, outside, monitor] == [
            f"{parent}/p",
            f"{parent}/p/c",
            f"{parent}/c",
            f"{parent}/monitors/p",
        ]


def test_life_of_a_cgroup_without_limits_works(
    manager: CgroupManager, cgroup_parent: str, start: Start
) -> None:
    path = manager.container_path(manager.check_parent(cgroup_parent), "c")
    manager.create(path)
    manager.create(path)
    assert manager.exists(path) == (manager.name != "disabled")
    process = start("")
    manager.join(path, process.pid)
    for directory in manager.join_dirs(path):
        assert process.pid in members(directory)
    assert not manager.unified or len(manager.join_dirs(path)) == 1
    assert not manager.is_frozen(path)
    manager.kill(path)
    if manager.name == "disabled":
        process.kill()
    assert process.wait() == -9
    assert manager.procs(path) == ()
    manager.remove(path)
    manager.remove(path)
    assert not manager.exists(path)
    assert manager.remove_if_empty(manager.check_parent(cgroup_parent) or "/x")


def test_limits_asked_of_no_cgroups_are_unsupported() -> None:
    manager = Disabled()
    for call in (
        lambda: manager.create("", LIMITS),
        lambda: manager.update("", LIMITS),
        lambda: manager.freeze(""),
        lambda: manager.stats(""),
    ):
        with pytest.raises(Unsupported, match="cgroups are disabled"):
            call()


# --- making ------------------------------------------------------------------------------------


def test_create_sets_the_limits_the_kernel_reads_back(
    cgroupfs: Cgroupfs, cgroup_parent: str
) -> None:
    path = f"{cgroup_parent}/pod/ctr"
    cgroupfs.create(path, LIMITS)
    found = cgroupfs.limits(path)
    assert found.memory_bytes == 64 * MIB
    assert found.pids_limit == 40
    assert (found.cpu_quota_us, found.cpu_period_us) == (50_000, 200_000)
    assert found.cpu_shares is not None
    assert v2.weight_of(found.cpu_shares) == v2.weight_of(512)
    assert cgroupfs.limits(f"{cgroup_parent}/pod").is_unset


def test_create_with_a_cpuset_binds_to_it(
    cgroupfs: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    cgroupfs.create(f"{cgroup_parent}/c", Resources(cpuset_cpus="0", cpuset_mems="0"))
    process = start("import os; print(os.sched_getaffinity(0), flush=True)")
    cgroupfs.join(f"{cgroup_parent}/c", process.pid)
    go(process)
    assert answer(process) == "{0}"


def test_create_with_a_cpu_the_pod_has_not_names_the_flag(
    cgroupfs: Cgroupfs, cgroup_parent: str
) -> None:
    """v2 takes it and gives what there is; v1 refuses."""
    cgroupfs.create(f"{cgroup_parent}/pod", Resources(cpuset_cpus="0"))
    inner = NewCgroup(f"{cgroup_parent}/pod/c", Resources(cpuset_cpus="0-1"))
    if cgroupfs.unified or os.cpu_count() == 1:
        cgroupfs.create_many([inner])
        return
    with pytest.raises(InvalidConfig, match="--cpuset-cpus: the kernel refuses 0-1"):
        cgroupfs.create_many([inner])
    assert not cgroupfs.exists(inner.path)


def test_create_below_a_bare_foreign_cgroup_can_be_joined(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    """v1 leaves the cpuset of a cgroup somebody made with mkdir empty."""
    for directory in anywhere.join_dirs(cgroup_parent):
        os.mkdir(directory)
    anywhere.create(f"{cgroup_parent}/pod/ctr")
    anywhere.create(f"{cgroup_parent}/beside")
    for name in ("pod/ctr", "beside"):
        process = start("")
        anywhere.join(f"{cgroup_parent}/{name}", process.pid)
        assert anywhere.procs(f"{cgroup_parent}/{name}") == (process.pid,)


def test_create_many_refused_in_the_middle_leaves_nothing(
    cgroupfs: Cgroupfs, cgroup_parent: str
) -> None:
    items = [NewCgroup(f"{cgroup_parent}/pod/{number}", LIMITS) for number in range(10)]
    items.insert(5, NewCgroup(f"{cgroup_parent}/pod/bad", Resources(cpuset_cpus="999")))
    with pytest.raises(InvalidConfig, match="--cpuset-cpus: the kernel refuses 999"):
        cgroupfs.create_many(items)
    assert not cgroupfs.exists(cgroup_parent)


def test_create_many_gives_each_its_own_limits(cgroupfs: Cgroupfs, cgroup_parent: str) -> None:
    pod = f"{cgroup_parent}/pod"
    items = [NewCgroup(pod, Resources(memory_bytes=256 * MIB))]
    items += [NewCgroup(f"{pod}/{n}", Resources(pids_limit=10 + n)) for n in range(50)]
    cgroupfs.create_many(items)
    assert cgroupfs.limits(pod).memory_bytes == 256 * MIB
    assert [cgroupfs.limits(f"{pod}/{n}").pids_limit for n in range(50)] == list(range(10, 60))


@pytest.mark.parametrize("path", ["/", "/a/../../b", "/a\0b", "", "/a\nb"])
def test_every_verb_refuses_a_bad_path(anywhere: Cgroupfs, path: str) -> None:
    verbs: list[Callable[[str], object]] = [
        anywhere.create,
        anywhere.remove,
        anywhere.kill,
        anywhere.freeze,
        anywhere.stats,
        anywhere.join_dirs,
        anywhere.procs,
    ]
    for verb in verbs:
        with pytest.raises(InvalidConfig, match="--cgroup-parent"):
            verb(path)


def test_create_while_others_remove_the_parent_always_succeeds(
    cgroupfs: Cgroupfs, cgroup_parent: str
) -> None:
    """Many commands at once: the last to leave takes the shared parent away."""
    failures: list[BaseException] = []

    def come_and_go(name: str) -> None:
        manager = Cgroupfs()
        try:
            for number in range(15):
                path = f"{cgroup_parent}/{name}{number}"
                manager.create(path, Resources(pids_limit=5))
                assert manager.limits(path).pids_limit == 5
                manager.remove(path)
                manager.remove_if_empty(cgroup_parent)
        except BaseException as exc:
            failures.append(exc)
        finally:
            manager.close()

    threads = [threading.Thread(target=come_and_go, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert cgroupfs.remove_if_empty(cgroup_parent)


# --- limits ------------------------------------------------------------------------------------


def test_update_changes_only_what_is_given(cgroupfs: Cgroupfs, cgroup_parent: str) -> None:
    path = f"{cgroup_parent}/c"
    cgroupfs.create(path, LIMITS)
    cgroupfs.update(path, Resources(pids_limit=-1, memory_bytes=128 * MIB))
    found = cgroupfs.limits(path)
    assert found.pids_limit is None
    assert found.memory_bytes == 128 * MIB
    assert found.cpu_quota_us == 50_000


def test_update_of_memory_and_swap_goes_both_ways(cgroupfs: Cgroupfs, cgroup_parent: str) -> None:
    path = f"{cgroup_parent}/c"
    cgroupfs.create(path)
    for size in (64 * MIB, 256 * MIB, 32 * MIB):
        cgroupfs.update(path, Resources(memory_bytes=size, memory_swap_bytes=size))
        assert cgroupfs.limits(path).memory_bytes == size


def test_update_of_a_cgroup_that_is_gone_fails(cgroupfs: Cgroupfs, cgroup_parent: str) -> None:
    with pytest.raises(EngineFailed, match="No such file"):
        cgroupfs.update(f"{cgroup_parent}/none", Resources(pids_limit=5))
    with pytest.raises(EngineFailed, match="No such file"):
        cgroupfs.limits(f"{cgroup_parent}/none")
    with pytest.raises(EngineFailed, match="No such file"):
        cgroupfs.stats(f"{cgroup_parent}/none")


def test_pids_limit_holds_against_forks(
    cgroupfs: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    path = f"{cgroup_parent}/c"
    cgroupfs.create(path, Resources(pids_limit=8))
    forker = start(
        "import os, time\n"
        "made = 0\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(60)\n"
        "    except BlockingIOError:\n"
        "        break\n"
        "    made += 1\n"
        "print(made, flush=True)\n"
        "time.sleep(60)\n"
    )
    cgroupfs.join(path, forker.pid)
    go(forker)
    assert answer(forker) == "7"
    assert len(cgroupfs.procs(path)) == cgroupfs.stats(path).pids == 8
    cgroupfs.kill(path)
    assert cgroupfs.procs(path) == ()


def test_memory_limit_kills_a_hog_and_counts_it(
    cgroupfs: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    path = f"{cgroup_parent}/c"
    cgroupfs.create(path, Resources(memory_bytes=24 * MIB, memory_swap_bytes=24 * MIB))
    hog = start("bytearray(200 << 20)")
    cgroupfs.join(path, hog.pid)
    assert cgroupfs.oom_kills(path) == 0
    go(hog)
    assert hog.wait() == -9
    assert cgroupfs.oom_kills(path) == 1


def test_stats_count_cpu_time_memory_and_tasks(
    cgroupfs: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    path = f"{cgroup_parent}/c"
    cgroupfs.create(path, LIMITS)
    worker = start(
        "block = bytearray(8 << 20)\n"
        "import time\n"
        "while time.process_time() < 0.1: pass\n"
        "print('done', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    cgroupfs.join(path, worker.pid)
    go(worker)
    assert answer(worker) == "done"
    found = cgroupfs.stats(path)
    assert found.cpu_ns > 50_000_000
    assert found.cpu_user_ns > 0
    assert found.memory_bytes is not None
    assert 8 * MIB <= found.memory_bytes <= 64 * MIB
    assert (found.memory_limit_bytes, found.pids, found.pids_limit) == (64 * MIB, 1, 40)
    assert cgroupfs.stats_many([path, f"{cgroup_parent}/none"])[1] is None


def test_device_rules_hold(anywhere: Cgroupfs, cgroup_parent: str, start: Start) -> None:
    path = f"{cgroup_parent}/c"
    rules = (
        DENY_ALL,
        DeviceRule(allow=True, type="c", major=1, minor=3, access="rw"),
        DeviceRule(allow=True, type="c", major=1, minor=5, access="r"),
    )
    anywhere.create(path, devices=rules)
    anywhere.create(path, devices=rules)
    prober = start(
        "import os\n"
        "for path, flags in (('/dev/null', os.O_RDWR), ('/dev/zero', os.O_RDONLY),\n"
        "                    ('/dev/zero', os.O_WRONLY), ('/dev/full', os.O_RDONLY)):\n"
        "    try:\n"
        "        os.open(path, flags)\n"
        "        print('yes', end=' ')\n"
        "    except PermissionError:\n"
        "        print('no', end=' ')\n"
        "print(flush=True)\n"
    )
    anywhere.join(path, prober.pid)
    go(prober)
    assert answer(prober) == "yes yes no no"


# --- freezing and killing ----------------------------------------------------------------------


def test_freeze_stops_all_below_and_thaw_lets_them_go_on(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    pod = f"{cgroup_parent}/pod"
    anywhere.create(f"{pod}/c")
    echo = start("print('awake', flush=True)\nsys.stdin.readline()")
    anywhere.join(f"{pod}/c", echo.pid)
    anywhere.freeze(pod)
    assert anywhere.is_frozen(pod)
    assert anywhere.is_frozen(f"{pod}/c")
    go(echo)
    state = Path(f"/proc/{echo.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state in ("D", "S")
    anywhere.freeze(pod)
    anywhere.thaw(pod)
    assert not anywhere.is_frozen(f"{pod}/c")
    assert answer(echo) == "awake"
    anywhere.thaw(pod)


def test_thaw_of_a_cgroup_that_is_gone_is_silent(anywhere: Cgroupfs, cgroup_parent: str) -> None:
    anywhere.thaw(f"{cgroup_parent}/none")
    anywhere.kill(f"{cgroup_parent}/none")
    with pytest.raises(EngineFailed, match="No such file"):
        anywhere.freeze(f"{cgroup_parent}/none")


def test_kill_of_a_frozen_subtree_leaves_nobody(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    pod = f"{cgroup_parent}/pod"
    processes = []
    for name in ("a", "b", "b/deep"):
        anywhere.create(f"{pod}/{name}")
        process = start("")
        with contextlib.suppress(EngineFailed):
            # On v2 a cgroup with controllers below it takes no processes of its own.
            anywhere.join(f"{pod}/{name}", process.pid)
            processes.append(process)
    anywhere.freeze(f"{pod}/b")
    anywhere.freeze(pod)
    assert set(anywhere.procs(pod)) == {process.pid for process in processes}
    anywhere.kill(pod)
    assert [process.wait() for process in processes] == [-9] * len(processes)
    assert anywhere.procs(pod) == ()


def test_kill_of_a_forking_subtree_leaves_nobody(
    cgroupfs: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    path = f"{cgroup_parent}/c"
    cgroupfs.create(path, Resources(pids_limit=30))
    forker = start(
        "import os\n"
        "print('forking', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        os.fork()\n"
        "    except OSError:\n"
        "        os.sched_yield()\n"
    )
    cgroupfs.join(path, forker.pid)
    go(forker)
    assert answer(forker) == "forking"
    cgroupfs.kill(path)
    assert cgroupfs.procs(path) == ()
    assert forker.wait() == -9
    cgroupfs.remove(path)


def test_create_below_a_frozen_cgroup_is_refused(anywhere: Cgroupfs, cgroup_parent: str) -> None:
    anywhere.create(f"{cgroup_parent}/pod")
    anywhere.freeze(f"{cgroup_parent}/pod")
    with pytest.raises(InvalidState, match="it is frozen"):
        anywhere.create(f"{cgroup_parent}/pod/c")
    assert not anywhere.exists(f"{cgroup_parent}/pod/c")


def test_create_over_a_frozen_leftover_thaws_it(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    path = f"{cgroup_parent}/c"
    anywhere.create(path)
    anywhere.freeze(path)
    anywhere.create(path)
    assert not anywhere.is_frozen(path)
    process = start("")
    anywhere.join(path, process.pid)
    anywhere.freeze(path)
    with pytest.raises(InvalidState, match="it is frozen"):
        anywhere.create(path)
    assert anywhere.exists(path)


# --- removing ----------------------------------------------------------------------------------


def test_remove_while_a_process_lives_there_says_busy(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    for name in ("busy", "idle"):
        anywhere.create(f"{cgroup_parent}/pod/{name}")
    process = start("")
    anywhere.join(f"{cgroup_parent}/pod/busy", process.pid)
    with pytest.raises(OSError, match="busy") as caught:
        anywhere.remove(f"{cgroup_parent}/pod")
    assert caught.value.errno == errno.EBUSY
    assert anywhere.procs(f"{cgroup_parent}/pod") == (process.pid,)
    assert not anywhere.exists(f"{cgroup_parent}/pod/idle")
    assert not anywhere.remove_if_empty(cgroup_parent)
    process.kill()
    process.wait()
    anywhere.remove(f"{cgroup_parent}/pod")
    assert anywhere.remove_if_empty(cgroup_parent)


def test_remove_waits_for_a_process_that_is_going(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    anywhere.create(f"{cgroup_parent}/c")
    process = start("block = bytearray(30 << 20)\nprint('up', flush=True)\nsys.stdin.readline()")
    anywhere.join(f"{cgroup_parent}/c", process.pid)
    go(process)
    assert answer(process) == "up"
    process.kill()
    anywhere.remove(f"{cgroup_parent}/c")
    assert not anywhere.exists(f"{cgroup_parent}/c")


def test_remove_takes_what_others_made_below(anywhere: Cgroupfs, cgroup_parent: str) -> None:
    anywhere.create(f"{cgroup_parent}/c")
    for directory in anywhere.join_dirs(f"{cgroup_parent}/c"):
        os.makedirs(f"{directory}/x/y/z")
        os.mkdir(f"{directory}/w")
    anywhere.remove(f"{cgroup_parent}/c")
    assert not anywhere.exists(f"{cgroup_parent}/c")


def test_remove_of_a_half_made_cgroup_removes_the_rest(
    anywhere: Cgroupfs, cgroup_parent: str
) -> None:
    anywhere.create(f"{cgroup_parent}/c")
    os.rmdir(anywhere.join_dirs(f"{cgroup_parent}/c")[0])
    anywhere.remove(f"{cgroup_parent}/c")
    assert not anywhere.exists(f"{cgroup_parent}/c")


def test_remove_many_reports_only_what_stays(
    anywhere: Cgroupfs, cgroup_parent: str, start: Start
) -> None:
    paths = [f"{cgroup_parent}/{number}" for number in range(20)]
    anywhere.create_many([NewCgroup(path) for path in paths])
    process = start("")
    anywhere.join(paths[7], process.pid)
    errors = anywhere.remove_many(paths)
    assert list(errors) == [paths[7]]
    assert [path for path in paths if anywhere.exists(path)] == [paths[7]]


def test_close_twice_leaves_no_descriptor() -> None:
    manager = Cgroupfs()
    manager.close()
    manager.close()
