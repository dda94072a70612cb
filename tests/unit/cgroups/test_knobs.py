from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podrt.cgroups import knobs, v1, v2
from podrt.cgroups.hierarchies import Hierarchies, Hierarchy
from podrt.errors import InvalidConfig, Unsupported
from podrt.model.resources import Resources

FIRST = Hierarchies(
    tuple(
        Hierarchy(f"/sys/fs/cgroup/{name}", 1, frozenset({name}))
        for name in ("cpu", "cpuacct", "cpuset", "memory", "blkio", "pids")
    )
)
SECOND = Hierarchies(
    (Hierarchy("/sys/fs/cgroup", 2, frozenset({"cpu", "cpuset", "io", "memory", "pids"})),)
)
EVERYTHING = Resources(
    cpu_quota_us=50_000,
    cpu_period_us=200_000,
    cpu_shares=512,
    cpuset_cpus="0-1",
    cpuset_mems="0",
    memory_bytes=1 << 26,
    memory_reservation_bytes=1 << 25,
    memory_swap_bytes=3 << 26,
    pids_limit=-1,
    blkio_weight=500,
)


def writes(resources: Resources, hierarchies: Hierarchies) -> dict[str, str]:
    return {one.knob.file: one.knob.value for one in knobs.place(resources, hierarchies)}


def test_place_on_v1_writes_every_limit() -> None:
    assert writes(EVERYTHING, FIRST) == {
        "cpu.shares": "512",
        "cpu.cfs_period_us": "200000",
        "cpu.cfs_quota_us": "50000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "memory.limit_in_bytes": str(1 << 26),
        "memory.soft_limit_in_bytes": str(1 << 25),
        "memory.memsw.limit_in_bytes": str(3 << 26),
        "pids.max": "max",
        "blkio.bfq.weight": "500",
        "blkio.weight": "500",
    }


def test_place_on_v2_writes_every_limit() -> None:
    assert writes(EVERYTHING, SECOND) == {
        "cpu.weight": "20",
        "cpu.max": "50000 200000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "memory.max": str(1 << 26),
        "memory.low": str(1 << 25),
        "memory.swap.max": str(1 << 27),
        "pids.max": "max",
        "io.bfq.weight": "500",
        "io.weight": str(1 + 490 * 9999 // 990),
    }


@pytest.mark.parametrize("hierarchies", [FIRST, SECOND], ids=["v1", "v2"])
def test_place_without_limits_writes_nothing(hierarchies: Hierarchies) -> None:
    assert knobs.place(Resources(), hierarchies) == ()


def test_place_without_the_controller_names_the_flag() -> None:
    only_cpu = Hierarchies((Hierarchy("/c", 2, frozenset({"cpu"})),))
    with pytest.raises(Unsupported, match="--memory is not supported"):
        knobs.place(Resources(memory_bytes=1 << 20), only_cpu)
    with pytest.raises(Unsupported, match="--pids-limit"):
        knobs.place(Resources(pids_limit=5), only_cpu)


@pytest.mark.parametrize(
    ("resources", "flag"),
    [
        (Resources(memory_bytes=0), "--memory"),
        (Resources(memory_bytes=1 << 63), "--memory"),
        (Resources(memory_bytes=-2), "--memory"),
        (Resources(pids_limit=-2), "--pids-limit"),
        (Resources(cpu_quota_us=999), "--cpu-quota"),
        (Resources(cpu_period_us=1_000_001), "--cpu-period"),
        (Resources(cpu_shares=1), "--cpu-shares"),
        (Resources(blkio_weight=9), "--blkio-weight"),
        (Resources(cpuset_cpus=""), "--cpuset-cpus"),
        (Resources(cpuset_cpus="0,,1"), "--cpuset-cpus"),
        (Resources(cpuset_cpus="0\n"), "--cpuset-cpus"),
        (Resources(cpuset_mems="a"), "--cpuset-mems"),
        (Resources(memory_swap_bytes=1 << 20), "--memory-swap"),
        (Resources(memory_bytes=2 << 20, memory_swap_bytes=1 << 20), "--memory-swap"),
    ],
)
def test_check_of_a_value_no_kernel_takes_names_the_flag(resources: Resources, flag: str) -> None:
    with pytest.raises(InvalidConfig, match=f"^{flag}: "):
        knobs.check(resources)


@given(st.integers(2, 262_144))
def test_shares_survive_the_way_through_a_weight(shares: int) -> None:
    weight = v2.weight_of(shares)
    assert 1 <= weight <= 10_000
    assert v2.weight_of(v2.shares_of(weight)) == weight


@given(st.integers(10, 1_000))
def test_io_weight_stays_in_its_range(weight: int) -> None:
    assert 1 <= v2.io_weight_of(weight) <= 10_000


def test_v1_limits_of_an_unlimited_cgroup_are_none() -> None:
    files: dict[str, bytes | int | None] = {
        "cpu.cfs_quota_us": b"-1\n",
        "cpu.cfs_period_us": b"100000\n",
        "cpu.shares": b"1024\n",
        "cpuset.cpus": b"\n",
        "memory.limit_in_bytes": b"9223372036854771712\n",
        "memory.memsw.limit_in_bytes": -2,
        "pids.max": b"max\n",
    }
    assert v1.limits(files) == {}


def test_v2_limits_of_an_unlimited_cgroup_are_none() -> None:
    files: dict[str, bytes | int | None] = {
        "cpu.max": b"max 100000\n",
        "cpu.weight": b"100\n",
        "cpuset.cpus": b"\n",
        "memory.max": b"max\n",
        "memory.low": b"0\n",
        "memory.swap.max": -2,
        "pids.max": b"max\n",
        "io.weight": b"default 100\n",
    }
    assert v2.limits(files) == {}


def test_v2_limits_read_back_what_was_written() -> None:
    files: dict[str, bytes | int | None] = {
        file: value.encode() + b"\n" for file, value in writes(EVERYTHING, SECOND).items()
    }
    files["io.bfq.weight"] = b"default 500\n8:0 300\n"
    found = v2.limits(files)
    shares = found.pop("cpu_shares")
    assert v2.weight_of(int(shares)) == v2.weight_of(512)
    assert found == {
        "cpu_quota_us": 50_000,
        "cpu_period_us": 200_000,
        "cpuset_cpus": "0-1",
        "cpuset_mems": "0",
        "memory_bytes": 1 << 26,
        "memory_reservation_bytes": 1 << 25,
        "memory_swap_bytes": 3 << 26,
        "blkio_weight": 500,
    }


def test_stats_of_both_versions_come_in_the_same_units() -> None:
    first = v1.stats(
        {
            "cpuacct.usage": b"5000\n",
            "memory.usage_in_bytes": b"10\n",
            "memory.limit_in_bytes": b"20\n",
            "pids.current": b"3\n",
            "pids.max": b"max\n",
        }
    )
    second = v2.stats(
        {
            "cpu.stat": b"usage_usec 5\nuser_usec 4\nsystem_usec 1\n",
            "memory.current": b"10\n",
            "memory.max": b"20\n",
            "pids.current": b"3\n",
            "pids.max": b"max\n",
        }
    )
    assert first["cpu_ns"] == second["cpu_ns"] == 5_000
    same = ("memory_bytes", "memory_limit_bytes", "pids")
    assert [first[name] for name in same] == [second[name] for name in same] == [10, 20, 3]
    assert "pids_limit" not in first
    assert "pids_limit" not in second


def test_oom_kills_are_read_from_both_versions() -> None:
    assert v1.oom_kills(b"oom_kill_disable 0\nunder_oom 0\noom_kill 4\n") == 4
    assert v2.oom_kills(b"low 0\nhigh 0\nmax 9\noom 2\noom_kill 5\n") == 5
    assert v1.oom_kills(-2) == 0
