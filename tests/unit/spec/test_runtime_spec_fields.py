"""Every field of the official schema: it changes something, is refused by name, or has no effect
for a reason that is written down here."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from podrt.engines.cgroup_view import CgroupView
from podrt.engines.plan import Identity, compile_bundle, compile_exec, warnings
from podrt.errors import InvalidConfig, Unsupported
from podrt.model import runtimespec as oci
from podrt.oci import bundle, cgroup, limits
from podrt.spec import seccomp
from podrt.spec.unknown import OTHER_SYSTEMS, unknown_fields

LISTED = [
    line
    for line in (Path(__file__).parent / "runtime_spec_fields.txt").read_text().splitlines()
    if not line.startswith("#")
]
PATHS = [line for line in LISTED if "=" not in line]
VALUES = [line for line in LISTED if "=" in line]
ALL_MODULES = frozenset({"apparmor", "selinux"})

HOOK = {"path": "/h", "args": ["h", "1"], "env": ["A=1"], "timeout": 5}
MAP = [{"containerID": 0, "hostID": 1000, "size": 100}]
THROTTLE = [{"major": 8, "minor": 0, "rate": 1000}]
# Uses all that can be used together.
FULL: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "hostname": "web",
    "domainname": "example",
    "annotations": {"a": "1"},
    "root": {"path": "rootfs", "readonly": False},
    "hooks": {
        point: [HOOK]
        for point in (
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart",
            "poststop",
        )
    },
    "mounts": [
        {
            "destination": "/data", "type": "bind", "source": "/src",
            "options": ["rbind", "ro", "idmap"], "uidMappings": MAP, "gidMappings": MAP,
        },
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    ],
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5]},
        "args": ["sh"],
        "env": ["A=1"],
        "cwd": "/x",
        "capabilities": {
            kind: ["CAP_CHOWN"]
            for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        },
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 2}],
        "noNewPrivileges": False,
        "oomScoreAdj": 7,
        "apparmorProfile": "a",
        "selinuxLabel": "s",
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "execCPUAffinity": {"initial": "1", "final": "2"},
    },
    "linux": {
        "namespaces": [
            {"type": kind}
            for kind in ("network", "pid", "mount", "ipc", "uts", "cgroup", "time", "user")
        ],
        "uidMappings": MAP,
        "gidMappings": MAP,
        "timeOffsets": {
            "monotonic": {"secs": 1, "nanosecs": 2},
            "boottime": {"secs": 3, "nanosecs": 4},
        },
        "devices": [
            {
                "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432,
                "uid": 1, "gid": 2,
            }
        ],
        "cgroupsPath": "/mine",
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/agent",
            "listenerMetadata": "m",
            "syscalls": [
                {
                    "names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
                    "args": [
                        {"index": 0, "value": 8, "valueTwo": 8, "op": "SCMP_CMP_MASKED_EQ"}
                    ],
                },
                {"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"},
            ],
        },
        "sysctl": {"net.core.somaxconn": "256"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "l",
        "personality": {"domain": "LINUX"},
        "resources": {
            "devices": [
                {"allow": True, "type": "c", "major": 1, "minor": 2, "access": "r"}
            ],
            "memory": {
                "limit": 1 << 20, "reservation": 1 << 20, "swap": 1 << 21, "swappiness": 1,
                "disableOOMKiller": False,
            },
            "cpu": {
                "shares": 2, "quota": 5000, "period": 10000, "burst": 1, "cpus": "0", "mems": "0",
                "idle": 0,
            },
            "pids": {"limit": 5},
            "blockIO": {
                "weight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 20}],
                "throttleReadBpsDevice": THROTTLE,
                "throttleWriteBpsDevice": THROTTLE,
                "throttleReadIOPSDevice": THROTTLE,
                "throttleWriteIOPSDevice": THROTTLE,
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
            "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
            "rdma": {"mlx": {"hcaHandles": 1, "hcaObjects": 2}},
            "unified": {"memory.high": "1"},
        },
    },
}  # fmt: skip

# Another value where another text, number or truth would be none; and what it needs around it.
OTHERWISE: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "root.path": "other",
    "process.capabilities": "CAP_KILL",
    "process.execCPUAffinity": "3",
    "process.ioPriority.class": "IOPRIO_CLASS_IDLE",
    "process.rlimits[].type": "RLIMIT_CPU",
    "process.scheduler.policy": "SCHED_BATCH",
    "process.scheduler.flags[]": "SCHED_FLAG_KEEP_PARAMS",
    "process.cwd": "/y",
    "linux.rootfsPropagation": "shared",
    "linux.devices[].type": "b",
    "linux.namespaces[].path": "/proc/1/ns/net",
    "linux.seccomp.architectures[]": "SCMP_ARCH_X86",
    "linux.seccomp.flags[]": "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "linux.seccomp.defaultAction": "SCMP_ACT_LOG",
    "linux.seccomp.syscalls[].action": "SCMP_ACT_LOG",
    "linux.seccomp.syscalls[].names[]": "read",
    "linux.seccomp.syscalls[].args[].op": "SCMP_CMP_GT",
    "linux.seccomp.syscalls[].args[].valueTwo": 0,
    "linux.personality.domain": "LINUX32",
    "linux.personality.flags[]": "x",
    "linux.resources.devices[].type": "b",
    "linux.resources.devices[].access": "w",
    "linux.resources.cpu.cpus": "1",
    "linux.resources.cpu.mems": "1",
    "linux.resources.memory.useHierarchy": False,
    "linux.resources.hugepageLimits[].pageSize": "1GB",
    "linux.memoryPolicy.mode": "MPOL_LOCAL",
    "linux.memoryPolicy.flags[]": "MPOL_F_STATIC_NODES",
    "linux.sysctl.*": "512",
    "mounts[].options[]": "noexec",
    "mounts[].type": "none",
    "process.scheduler.priority": 5,
    "process.scheduler.deadline": 20,
    "process.scheduler.period": 30,
    "process.scheduler.runtime": 9,
}
TIMES = {"policy": "SCHED_DEADLINE", "runtime": 8, "deadline": 10, "period": 20}
AROUND: dict[str, dict[str, Any]] = {
    "process.scheduler.priority": {"process.scheduler": {"policy": "SCHED_RR", "priority": 1}},
    **{
        f"process.scheduler.{name}": {"process.scheduler": TIMES}
        for name in ("deadline", "period", "runtime")
    },
    # In the bundle's own namespaces a joined one needs no map.
    "linux.namespaces[].type": {"linux.namespaces": [{"type": "pid"}, {"type": "mount"}]},
    "mounts[].type": {
        "mounts": [{"destination": "/x", "type": "tmpfs", "source": "s", "options": []}]
    },
    "linux.seccomp.defaultAction": {"linux.seccomp.defaultErrnoRet": None},
    "linux.seccomp.syscalls[].action": {
        "linux.seccomp.syscalls": [{"names": ["personality"], "action": "SCMP_ACT_TRAP"}]
    },
}
OTHERWISE |= {"linux.namespaces[].type": "ipc"}
# Without hostname, sysctls and clocks, which need the namespaces taken away.
AROUND["linux.namespaces[].type"] |= {
    "hostname": None, "domainname": None, "linux.sysctl": None, "linux.timeOffsets": None,
    "linux.uidMappings": None, "linux.gidMappings": None,
}  # fmt: skip

REFUSED: Mapping[str, str] = {
    "vm": "vm",
    "process.commandLine": "process.commandLine",
    "process.user.username": "process.user.username",
    "linux.netDevices": "linux.netDevices",
    "linux.intelRdt": "linux.intelRdt",
    "linux.memoryPolicy": "linux.memoryPolicy",
    "linux.personality.flags": "linux.personality.flags",
    "linux.resources.memory.kernel": "linux.resources.memory.kernel",
    "linux.resources.memory.kernelTCP": "linux.resources.memory.kernelTCP",
    "linux.resources.memory.useHierarchy": "linux.resources.memory.useHierarchy",
    "linux.resources.cpu.realtimeRuntime": "linux.resources.cpu.realtimeRuntime",
    "linux.resources.cpu.realtimePeriod": "linux.resources.cpu.realtimePeriod",
    "linux.resources.blockIO.leafWeight": "linux.resources.blockIO.leafWeight",
    "linux.resources.blockIO.weightDevice[].leafWeight": (
        "linux.resources.blockIO.weightDevice[].leafWeight"
    ),
}
NO_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(OTHER_SYSTEMS, "a section for another system"),
    "linux.resources.memory.checkBeforeUpdate": "no limit is below what a new cgroup uses",
}
# Which part consumes a field; the others are the plan's.
CONSUMERS: tuple[tuple[str, str], ...] = (
    ("ociVersion", "bundle"),
    ("hooks.prestart", "runtime hooks"),
    ("hooks.createRuntime", "runtime hooks"),
    ("hooks.poststart", "runtime hooks"),
    ("hooks.poststop", "runtime hooks"),
    ("linux.resources", "limits"),
    ("linux.cgroupsPath", "cgroup"),
    ("linux.seccomp.syscalls", "filter"),
    ("linux.seccomp.default", "filter"),
    ("linux.seccomp.architectures", "filter"),
    ("process.execCPUAffinity", "exec"),
)


def fresh(document: Any) -> Any:
    """A copy that shares nothing, neither with the original nor within itself."""
    return json.loads(json.dumps(document))


def steps(path: str) -> list[str | int]:
    """The keys and indices to a field of FULL."""
    found: list[str | int] = []
    for part in path.split("."):
        name = part.removesuffix("[]")
        found.append(name)
        if part.endswith("[]"):
            found.append(0)
    return found


def put(document: Any, path: str, value: Any) -> None:
    """Set a field, making what is missing on the way; None takes it away."""
    where = steps(path)
    for index, step in enumerate(where[:-1]):
        empty: Any = [] if isinstance(where[index + 1], int) else {}
        if step == "*":
            step = next(iter(document), "key")
        if isinstance(step, int):
            if not document:
                document.append(empty)
            document = document[step]
        else:
            document = document.setdefault(step, empty)
    last = where[-1]
    if last == "*":
        last = next(iter(document), "key")
    if value is None:
        del document[last]
    elif isinstance(last, int):
        document[last : last + 1] = [value]
    else:
        document[last] = value


def get(document: Any, path: str) -> Any:
    for step in steps(path):
        if step == "*":
            step = next(iter(document), None)
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def consequences(document: Mapping[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What each part makes of a document."""
    data = json.dumps(document).encode()
    for name in ("rootfs", "other"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "config.json").write_bytes(data)
    version = bundle.read(str(tmp_path)).spec.oci_version if "root" in document else ""
    spec = oci.decode(data)
    assert not unknown_fields(data)
    assert spec.linux is not None and spec.process is not None
    resources = spec.linux.resources or oci.Resources()
    hooks = spec.hooks or oci.Hooks()
    profile = spec.linux.seccomp
    return {
        "bundle": version,
        "plan": compile_bundle(
            spec,
            who=Identity(id="c1", bundle="/bundle", annotations=spec.annotations),
            cgroups=CgroupView(),
            filter_path="/filter",
            modules=ALL_MODULES,
        ),
        "filter": seccomp.filter_of(profile, "x86_64") if profile is not None else b"",
        "exec": compile_exec(
            spec.process,
            namespaces={"mount": "/proc/9/ns/mnt"},
            modules=ALL_MODULES,
        ),
        "cgroup": cgroup.path_of(spec.linux, "c1"),
        "runtime hooks": (hooks.prestart, hooks.create_runtime, hooks.poststart, hooks.poststop),
        "limits": (
            limits.known_limits(resources),
            limits.device_rules(resources),
            limits.other_writes(resources),
        ),
        "warnings": warnings(spec),
    }


def is_leaf(path: str) -> bool:
    return not any(other != path and other.startswith((f"{path}.", f"{path}[]")) for other in PATHS)


def of_table(path: str, table: Mapping[str, Any]) -> Any:
    """The entry of the path or of the nearest field above it."""
    found = [name for name in table if path == name or path.startswith((f"{name}.", f"{name}["))]
    return table[max(found, key=len)] if found else None


def other_value(path: str, value: Any) -> Any:
    """A valid value that is not `value`."""
    given = of_table(path, OTHERWISE)
    if given is not None:
        return given
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return {"path": "/x"} if value is None and path in ("vm", *OTHER_SYSTEMS) else None


def variants(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two documents that differ in one field only."""
    first = fresh(FULL)
    for field, value in AROUND.get(path, {}).items():
        put(first, field, fresh(value))
    second = fresh(first)
    value = other_value(path, get(first, path))
    if value is None:
        # Not in FULL, since nothing can use it: any value of its kind will do.
        number = path.rpartition(".")[2] in NUMBERS
        value = 7 if number else True if path.endswith(TRUTHS) else "x"
    put(second, path, value)
    return first, second


NUMBERS = {"kernel", "kernelTCP", "realtimePeriod", "realtimeRuntime", "leafWeight"}
TRUTHS = ("enableMonitoring", "checkBeforeUpdate", "useHierarchy")
LEAVES = [path for path in PATHS if is_leaf(path)]


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_changes_its_part_or_is_refused_or_has_no_effect(
    path: str, tmp_path: Path
) -> None:
    first, second = variants(path)
    before = consequences(first, tmp_path)
    refused = of_table(path, REFUSED)
    if refused:
        with pytest.raises(Unsupported) as caught:
            consequences(second, tmp_path)
        assert caught.value.field == refused
        return
    after = consequences(second, tmp_path)
    changed = {part for part in before if before[part] != after[part]}
    if path in NO_EFFECT:
        assert not changed
        return
    consumer = next((part for name, part in CONSUMERS if path.startswith(name)), "plan")
    assert consumer in changed


def test_every_table_here_is_about_fields_that_there_are() -> None:
    for table in (REFUSED, NO_EFFECT, OTHERWISE, AROUND):
        assert not [name for name in table if name not in PATHS]
    for name, _ in CONSUMERS:
        assert any(path.startswith(name) for path in PATHS)
    assert len(LEAVES) > 170


def test_every_object_and_list_is_covered_by_what_it_holds() -> None:
    for path in PATHS:
        assert any(leaf.startswith(path) for leaf in LEAVES), path


def test_fields_that_are_refused_are_harmless_in_the_base(tmp_path: Path) -> None:
    assert consequences(FULL, tmp_path) == consequences(fresh(FULL), tmp_path)


@functools.cache
def around_value(path: str, value: str) -> tuple[tuple[str, str], ...]:
    """JSON of what a value of an enumeration needs around it."""
    needs: dict[str, Any] = {}
    if path == "process.scheduler.policy":
        needs["process.scheduler"] = {"policy": value}
        if value in ("SCHED_FIFO", "SCHED_RR"):
            needs["process.scheduler"]["priority"] = 1
        if value == "SCHED_DEADLINE":
            needs["process.scheduler"] |= {"runtime": 1, "deadline": 2, "period": 3}
    if path == "linux.seccomp.syscalls[].action":
        needs["linux.seccomp.syscalls"] = [{"names": ["mknod"], "action": value}]
    if path == "linux.seccomp.defaultAction":
        needs["linux.seccomp"] = {"defaultAction": value}
    if path == "linux.namespaces[].type":
        needs["linux.namespaces"] = [{"type": kind} for kind in {value, "mount", "user"}]
        needs["linux.timeOffsets"] = needs["linux.sysctl"] = None
        needs["hostname"] = needs["domainname"] = None
    return tuple((field, json.dumps(what)) for field, what in needs.items())


VALUES_REFUSED = {
    "linux.memoryPolicy": "linux.memoryPolicy",
    "process.scheduler.policy=SCHED_ISO": "process.scheduler.policy",
    "linux.seccomp.defaultAction=SCMP_ACT_NOTIFY": "linux.seccomp.defaultAction",
}


@pytest.mark.parametrize("line", VALUES)
def test_every_value_of_an_enumeration_is_taken_or_refused_by_name(
    line: str, tmp_path: Path
) -> None:
    path, _, value = line.partition("=")
    document = fresh(FULL)
    for field, text in around_value(path, value):
        put(document, field, json.loads(text))
    if path != "linux.namespaces[].type":
        put(document, path, value)
    refused = of_table(line, VALUES_REFUSED) or VALUES_REFUSED.get(line)
    if not refused:
        consequences(document, tmp_path)
        return
    with pytest.raises(Unsupported) as caught:
        consequences(document, tmp_path)
    assert caught.value.field == refused


def wrong_values() -> Iterator[tuple[str, Any]]:
    """A value of the wrong kind for each field, and one too large for each number."""
    for path in LEAVES:
        if path in OTHER_SYSTEMS or path == "vm" or get(FULL, path) is None:
            continue
        value = get(FULL, path)
        yield path, {"wrong": 1}
        if isinstance(value, int) and not isinstance(value, bool):
            yield path, 1 << 70
            yield path, -(1 << 70)


@pytest.mark.parametrize(("path", "value"), list(wrong_values()))
def test_decode_wrong_value_is_refused_by_field(path: str, value: Any, tmp_path: Path) -> None:
    document = fresh(FULL)
    put(document, path, value)
    try:
        consequences(document, tmp_path)
    except (InvalidConfig, Unsupported) as exc:
        named = re.sub(r"\[(\d+|\.\.\.)\]", "[]", exc.field)
        above = path.replace(".*", "[]")
        # A key of a map is not named, nor is a field whose number depends on others.
        assert above.startswith(named.split("[]")[0]) or named.startswith("linux.resources"), named
    else:
        # Limits of 64 bits: the kernel has the last word on those.
        assert path.startswith("linux.resources") and value == 1 << 70, path


def test_full_document_survives_writing_and_reading() -> None:
    spec = oci.decode(json.dumps(FULL).encode())
    assert oci.decode(oci.encode(spec)) == spec
    assert msgspec.json.decode(oci.encode(spec))["linux"]["uidMappings"] == MAP
