"""Mounts that spread between host and container, and containers without mounts of their own.

Every test has a mount namespace of its own for a host, where a shell makes the mounts.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doubles.commands import BUSYBOX, Podrt, command_environment
from doubles.oci_runtime import Bundle, OciRuntime


def on_a_host(script: str, timeout: float = 60) -> list[str]:
    """The lines a shell script prints in a mount namespace of its own."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=command_environment(),
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout.splitlines()


def both_ways(shared: Path, make: str, find_pid: str, end: str) -> list[str]:
    """ "to container" and "to host", as far as mounts get there below what is bound to /data."""
    return on_a_host(
        f"""
        mount -t tmpfs host {shared}; mount --make-shared {shared}; mkdir {shared}/a {shared}/b
        trap "{end} >/dev/null" EXIT
        {make} >/dev/null 2>&1 </dev/null
        pid=$({find_pid})
        mount -t tmpfs from-host {shared}/a
        nsenter --mount --target $pid busybox mount -t tmpfs from-container /data/b
        if grep -q ' /data/a ' /proc/$pid/mountinfo; then echo to container; fi
        if grep -q ' {shared}/b ' /proc/self/mountinfo; then echo to host; fi
        """
    )


@pytest.mark.parametrize(
    ("root", "option", "expected"),
    [
        ("rshared", "rshared", ["to container", "to host"]),
        ("shared", "shared", ["to container", "to host"]),
        ("rslave", "rslave", ["to container"]),
        ("", "rshared", ["to container"]),
        ("rshared", "rprivate", []),
        ("", "rprivate", []),
        ("unbindable", "rslave", ["to container"]),
    ],
)
def test_bind_of_a_bundle_spreads_mounts_as_asked(
    oci: OciRuntime, bundle: Bundle, tmp_path: Path, root: str, option: str, expected: list[str]
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    bundle.linux["rootfsPropagation"] = root
    bundle.spec["mounts"].append(
        {
            "destination": "/data",
            "type": "bind",
            "source": str(shared),
            "options": ["rbind", option],
        }
    )
    path = bundle.args("sleep", "100").written()
    command = shlex.join(oci.command)
    oci.ids.append("one")
    found = both_ways(
        shared,
        f"{command} run --detach --bundle {path} one",
        f"""{command} state one | sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p'""",
        f"{command} delete --force one",
    )
    assert found == expected


@pytest.mark.skipif(not BUSYBOX, reason="needs a static busybox (Debian: busybox-static)")
@pytest.mark.parametrize(
    ("option", "expected"),
    [("rshared", ["to container", "to host"]), ("rslave", ["to container"]), ("rprivate", [])],
)
def test_volume_of_a_podrt_container_spreads_mounts_as_asked(
    tmp_path: Path, cgroups: str, option: str, expected: list[str]
) -> None:
    podrt = Podrt(tmp_path, cgroups)
    podrt.import_busybox(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    flags = ["--name", "one", "--cgroup-parent", cgroups, "--network", "none"]
    found = both_ways(
        shared,
        shlex.join(
            podrt.words(
                "run", "-d", *flags, "-v", f"{shared}:/data:{option}", "base", "sleep", "100"
            )
        ),
        shlex.join(podrt.words("inspect", "--format", "{{.State.Pid}}", "one")),
        shlex.join(podrt.words("rm", "--force", "--time", "0", "one")),
    )
    assert found == expected


def mounts_below(rootfs: str) -> str:
    return f"grep -c ' {rootfs}' /proc/self/mountinfo || true"


def without_mounts(bundle: Bundle, *kinds: str) -> None:
    bundle.linux["namespaces"] = [{"type": kind} for kind in kinds]
    for name in ("maskedPaths", "readonlyPaths"):
        bundle.linux[name] = []
    if "uts" not in kinds:
        del bundle.spec["hostname"]


@pytest.mark.parametrize("kinds", [(), ("pid", "ipc", "uts")])
def test_container_without_mount_namespace_is_in_the_callers_and_leaves_nothing_there(
    oci: OciRuntime, bundle: Bundle, kinds: Sequence[str]
) -> None:
    without_mounts(bundle, *kinds)
    rootfs = bundle.spec["root"]["path"]
    bundle.sh(
        "readlink /proc/self/ns/mnt; ls -d /data /host 2>/dev/null;"
        " grep -c ' /proc ' /proc/self/mounts"
    )
    oci.ids.append("one")
    run = shlex.join([*oci.command, "run", "--bundle", bundle.written(), "one"])
    ours, theirs, data, proc, left = on_a_host(
        f"readlink /proc/self/ns/mnt; {run} 2>/dev/null; {mounts_below(rootfs)}"
    )
    assert theirs == ours
    assert data == "/data"
    assert int(proc) >= 1
    assert left == "0"


def test_container_without_mount_namespace_keeps_what_lay_on_its_root(
    oci: OciRuntime, bundle: Bundle, tmp_path: Path
) -> None:
    """A root that is a mount of somebody else's is not taken away with the container's."""
    without_mounts(bundle)
    rootfs = bundle.spec["root"]["path"]
    bundle.spec["mounts"].append({"destination": "/x", "type": "nonsense", "source": "x"})
    oci.ids += ["one", "two"]
    bad = shlex.join([*oci.command, "run", "--bundle", bundle.args("true").written(), "one"])
    other = tmp_path / "good"
    good: dict[str, Any] = {**bundle.spec, "mounts": []}
    other.mkdir()
    (other / "config.json").write_bytes(msgspec.json.encode(good))
    fine = shlex.join([*oci.command, "run", "--bundle", str(other), "two"])
    counts = on_a_host(
        f"""
        mount --bind {rootfs} {rootfs}
        ! {bad} 2>/dev/null; {mounts_below(rootfs)}
        {fine} 2>/dev/null; {mounts_below(rootfs)}
        """
    )
    assert counts == ["1", "1"]


def test_exec_in_a_container_without_mount_namespace_is_refused(
    oci: OciRuntime, bundle: Bundle
) -> None:
    without_mounts(bundle, "pid")
    path = bundle.args("sleep", "100").written()
    command = shlex.join(oci.command)
    oci.ids.append("one")
    said = on_a_host(
        f"""
        {command} run --detach --bundle {path} one >/dev/null 2>&1 </dev/null
        {command} exec one ls / 2>&1 || true
        {command} delete --force one
        """
    )
    assert said == ["podrt-oci: linux.namespaces is not supported: no mount namespace"]


def test_user_namespace_without_mount_namespace_is_refused(oci: OciRuntime, bundle: Bundle) -> None:
    without_mounts(bundle, "user", "pid")
    for name in ("uidMappings", "gidMappings"):
        bundle.linux[name] = [{"containerID": 0, "hostID": 100000, "size": 10}]
    said = oci.fails("run", "-b", bundle.args("true").written(), "one")
    assert said == "linux.namespaces is not supported: no mount namespace"


def test_hooks_of_the_host_and_of_the_container_mount_into_its_root(
    oci: OciRuntime, bundle: Bundle
) -> None:
    rootfs = bundle.spec["root"]["path"]
    inside = """pid=$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/'); nsenter -m -t $pid """
    bundle.spec["hooks"] = {
        "createRuntime": [
            {
                "path": "/bin/sh",
                "args": ["sh", "-c", f"{inside} mount -t tmpfs by-runtime {rootfs}/data"],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            }
        ],
        "createContainer": [
            {
                "path": "/bin/sh",
                "args": ["sh", "-c", "mount -t tmpfs by-container ./tmp"],
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            }
        ],
    }
    out = oci("run", "-b", bundle.sh("grep ^by- /proc/self/mounts").written(), "one")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["by-runtime", "/data"],
        ["by-container", "/tmp"],
    ]


def test_create_without_process_stands_and_start_refuses(oci: OciRuntime, bundle: Bundle) -> None:
    del bundle.spec["process"]
    oci.detached("create", "-b", bundle.written(), "one")
    assert oci.state("one")["status"] == "created"
    assert oci.fails("start", "one") == "process: is missing: there is nothing to start"
    oci.wait_status("one", "stopped")
    oci("delete", "one")
