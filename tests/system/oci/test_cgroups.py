from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from doubles.oci_runtime import Bundle, OciRuntime
from podrt.cgroups.hierarchies import detect
from podrt.errors import InvalidConfig
from podrt.model import runtimespec
from podrt.oci import limits


def file_of(bundle: Bundle, controller: str, v1: str, v2: str) -> Path:
    hierarchy = detect().of(controller)
    if hierarchy is None:
        pytest.skip(f"this host has no {controller} controller")
    return Path(f"{hierarchy.mount}{bundle.cgroup}/{v1 if hierarchy.version == 1 else v2}")


def test_limits_of_the_bundle_are_in_the_cgroup_before_the_program_runs(
    oci: OciRuntime, bundle: Bundle
) -> None:
    bundle.linux["resources"] |= {
        "memory": {"limit": 64 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 512, "quota": 20000, "period": 100000},
        "pids": {"limit": 50},
    }
    oci.detached("create", "-b", bundle.args("sleep", "100").written(), "one")
    assert file_of(bundle, "pids", "pids.max", "pids.max").read_text() == "50\n"
    memory = file_of(bundle, "memory", "memory.limit_in_bytes", "memory.max")
    assert memory.read_text() == f"{64 << 20}\n"
    oci("update", "--memory", str(80 << 20), "--pids-limit", "60", "one")
    assert memory.read_text() == f"{80 << 20}\n"
    assert file_of(bundle, "pids", "pids.max", "pids.max").read_text() == "60\n"
    document = msgspec.json.encode({"pids": {"limit": 70}, "cpu": {"shares": 256}}).decode()
    oci("update", "--resources", "-", "one", text=document)
    assert file_of(bundle, "pids", "pids.max", "pids.max").read_text() == "70\n"


def test_devices_but_the_default_ones_are_denied_unless_a_rule_allows_them(
    oci: OciRuntime, bundle: Bundle
) -> None:
    # Whoever may write files may open this one for writing: only the cgroup stands before it.
    bundle.linux["devices"] = [{"type": "c", "path": "/dev/kmsg", "major": 1, "minor": 11}]
    path = bundle.sh("head -c 1 /dev/zero | wc -c; : > /dev/kmsg").written()
    done = oci.run("run", "-b", path, "one")
    assert done.stdout == "1\n"
    assert done.returncode != 0
    assert "not permitted" in done.stderr
    rule = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "w"}
    bundle.linux["resources"]["devices"].append(rule)
    assert oci("run", "-b", bundle.written(), "one") == "1\n"


def test_relative_cgroup_paths_start_at_the_top(oci: OciRuntime, bundle: Bundle) -> None:
    bundle.linux["cgroupsPath"] = bundle.cgroup.lstrip("/")
    bundle.linux["namespaces"] = [
        one for one in bundle.linux["namespaces"] if one["type"] != "cgroup"
    ]
    seen = oci("run", "-b", bundle.sh("cat /proc/self/cgroup").written(), "one")
    assert any(line.endswith(bundle.cgroup) for line in seen.splitlines())


def test_cgroup_in_which_others_live_is_refused_and_left_alone(
    oci: OciRuntime, bundle: Bundle
) -> None:
    path = bundle.args("sleep", "100").written()
    oci.detached("create", "-b", path, "one")
    assert "in use" in oci.fails("create", "-b", path, "two")
    assert oci.state("one")["status"] == "created"


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"memory": {"kernel": 1 << 20}}, "linux.resources.memory.kernel"),
        ({"cpu": {"realtimeRuntime": 1}}, "linux.resources.cpu.realtimeRuntime"),
        ({"cpu": {"quota": 1}}, "linux.resources.cpu.quota"),
        ({"pids": {"limit": 1 << 40}}, "linux.resources.pids.limit"),
        ({"memory": {"swap": 1 << 20}}, "linux.resources.memory.swap"),
        ({"unified": {"../x": "1"}}, "linux.resources.unified"),
        ({"unified": {"cgroup.procs": "1"}}, "linux.resources.unified"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, "linux.resources.hugepageLimits"),
    ],
)
def test_limit_that_cannot_be_kept_names_its_field_and_makes_nothing(
    oci: OciRuntime, bundle: Bundle, resources: dict[str, object], field: str
) -> None:
    bundle.linux["resources"] |= resources
    assert field in oci.fails("create", "-b", bundle.args("true").written(), "one")
    assert oci("list", "-q") == ""
    assert not list(Path("/sys/fs/cgroup").glob(f"*{bundle.cgroup}"))


def test_every_limit_of_the_specification_becomes_a_write_or_a_refusal() -> None:
    """What is neither would be dropped silently."""
    throttle = (runtimespec.ThrottleDevice(major=8, minor=0, rate=5),)
    wanted = runtimespec.Resources(
        memory=runtimespec.Memory(swappiness=10, disable_oom_killer=True),
        cpu=runtimespec.Cpu(burst=1000, idle=1),
        block_io=runtimespec.BlockIo(
            weight_device=(runtimespec.WeightDevice(major=8, minor=0, weight=20),),
            throttle_read_bps_device=throttle,
            throttle_write_bps_device=throttle,
            throttle_read_iops_device=throttle,
            throttle_write_iops_device=throttle,
        ),
        hugepage_limits=(runtimespec.HugepageLimit(page_size="2MB", limit=0),),
        network=runtimespec.NetworkLimits(
            class_id=1, priorities=(runtimespec.NetworkPriority(name="lo", priority=2),)
        ),
        rdma={"mlx5_0": runtimespec.Rdma(hca_handles=1, hca_objects=2)},
        unified={"memory.high": "1000"},
    )
    found = {one.field: (one.value, one.v1, one.v2) for one in limits.other_writes(wanted)}
    assert found == {
        "memory.swappiness": ("10", ("memory.swappiness",), ()),
        "memory.disableOOMKiller": ("1", ("memory.oom_control",), ()),
        "cpu.burst": ("1000", ("cpu.cfs_burst_us",), ("cpu.max.burst",)),
        "cpu.idle": ("1", ("cpu.idle",), ("cpu.idle",)),
        "blockIO.weightDevice": (
            "8:0 20", ("blkio.bfq.weight_device", "blkio.weight_device"), ("io.bfq.weight",),
        ),
        **{
            f"blockIO.throttle{name}Device": (
                "8:0 5", (f"blkio.throttle.{file}_device",), ("io.max",),
            )
            for name, file in (
                ("ReadBps", "read_bps"), ("WriteBps", "write_bps"),
                ("ReadIOPS", "read_iops"), ("WriteIOPS", "write_iops"),
            )
        },
        "hugepageLimits": ("0", ("hugetlb.2MB.limit_in_bytes",), ("hugetlb.2MB.max",)),
        "network.classID": ("1", ("net_cls.classid",), ()),
        "network.priorities": ("lo 2", ("net_prio.ifpriomap",), ()),
        "rdma": ("mlx5_0 hca_handle=1 hca_object=2", ("rdma.max",), ("rdma.max",)),
        "unified": ("1000", (), ("memory.high",)),
    }  # fmt: skip
    with pytest.raises(InvalidConfig):
        limits.other_writes(runtimespec.Resources(unified={"noname": "1"}))
