"""What container managers and other runtimes' scripts expect of a runtime's command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from doubles.oci_runtime import Bundle, OciRuntime


def test_document_of_a_bundle_may_have_another_name(oci: OciRuntime, bundle: Bundle) -> None:
    path = bundle.args("echo", "elsewhere").written()
    os.rename(f"{path}/config.json", f"{path}/other.json")
    assert oci("run", "--bundle", path, "--config", "other.json", "one") == "elsewhere\n"
    assert oci("run", "-b", path, "-f", f"{path}/other.json", "one") == "elsewhere\n"


def test_signal_0_asks_for_the_process_and_all_is_silent_when_nobody_is_there(
    oci: OciRuntime, bundle: Bundle
) -> None:
    oci.detached("run", "-d", "-b", bundle.args("sleep", "100").written(), "one")
    oci("kill", "one", "0")
    assert oci.state("one")["status"] == "running"
    oci("kill", "one", "KILL")
    oci.wait_status("one", "stopped")
    assert "not running" in oci.fails("kill", "one", "0")
    oci("kill", "--all", "one", "KILL")


def test_update_takes_sizes_and_refuses_what_is_not_there(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("run", "-d", "-b", bundle.args("sleep", "100").written(), "one")
    oci("update", "--memory", "50M", "one")
    v1 = Path(f"/sys/fs/cgroup/memory{bundle.cgroup}/memory.limit_in_bytes")
    v2 = Path(f"/sys/fs/cgroup{bundle.cgroup}/memory.max")
    assert int((v1 if v1.exists() else v2).read_text()) == 50 << 20
    assert "kernels no longer have it" in oci.fails("update", "--kernel-memory", "50M", "one")
    assert "linux.intelRdt" in oci.fails("update", "--l3-cache-schema", "L3:0=f", "one")
    assert "no whole number" in oci.fails("update", "--memory", "plenty", "one")


def test_events_are_figures_and_kills_for_memory_until_the_end(
    oci: OciRuntime, bundle: Bundle
) -> None:
    bundle.linux["resources"]["memory"] = {"limit": 16 << 20}
    rootfs = Path(bundle.spec["root"]["path"])
    (rootfs / "bin/dd").symlink_to("busybox")
    # The shell outlives its child, which the kernel kills.
    bundle.sh("sleep 2; dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1")
    oci.detached("run", "-d", "-b", bundle.written(), "one")
    once = msgspec.json.decode(oci("events", "--stats", "one"))
    assert (once["type"], once["id"]) == ("stats", "one")
    assert once["data"]["memory"]["usage"]["limit"] == 16 << 20
    assert once["data"]["pids"]["current"] >= 1
    told = oci("events", "--interval", "50ms", "one").splitlines()
    lines = [msgspec.json.decode(line) for line in told]
    kinds = [line["type"] for line in lines]
    assert kinds.count("stats") >= 2
    assert kinds.count("oom") == 1
    assert {line["id"] for line in lines} == {"one"}
    assert "not running" in oci.fails("events", "--stats", "one")
    assert "--interval" in oci.fails("events", "--interval", "soon", "one")


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_what_needs_saved_processes_is_refused_clearly(oci: OciRuntime, verb: str) -> None:
    expected = "checkpoint and restore is not supported: no state of a process is saved"
    assert oci.fails(verb, "one") == expected


def test_cgroup_that_stands_frozen_is_refused(oci: OciRuntime, bundle: Bundle) -> None:
    v1 = Path("/sys/fs/cgroup/freezer")
    place = v1 if v1.is_dir() else v1.parent
    is_v1 = place == v1
    place /= bundle.cgroup.lstrip("/")
    place.mkdir(parents=True)
    state = place / ("freezer.state" if is_v1 else "cgroup.freeze")
    state.write_text("FROZEN" if is_v1 else "1")
    said = oci.fails("run", "-b", bundle.args("true").written(), "one")
    assert "container's cgroup unexpectedly frozen" in said
    state.write_text("THAWED" if is_v1 else "0")
    assert oci("run", "-b", bundle.args("echo", "thawed").written(), "one") == "thawed\n"


def test_cgroup_of_an_exec_stays_below_the_containers(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("run", "-d", "-b", bundle.args("sleep", "100").written(), "one")
    said = oci.fails("exec", "--cgroup", "../x", "one", "true", code=255)
    assert said == "--cgroup: ../x is not a sub cgroup path"
    oci("exec", "--cgroup", "/", "one", "true")


def test_read_only_tmpfs_of_devices_holds_what_lies_in_it(oci: OciRuntime, bundle: Bundle) -> None:
    (dev,) = (one for one in bundle.spec["mounts"] if one["destination"] == "/dev")
    dev["options"].append("ro")
    script = (
        "ls -d /dev/pts /dev/shm /dev/null; touch /dev/x; grep -c ' /dev tmpfs ro' /proc/mounts"
    )
    done = oci.run("run", "-b", bundle.sh(script).written(), "one")
    assert done.stdout.splitlines() == ["/dev/null", "/dev/pts", "/dev/shm", "1"]
    assert "Read-only file system" in done.stderr


def test_words_of_a_taken_id_and_of_a_failed_hook(oci: OciRuntime, bundle: Bundle) -> None:
    oci.detached("create", "-b", bundle.args("sleep", "100").written(), "one")
    said = oci.fails("create", "-b", bundle.written(), "one")
    assert said == "container with given ID already exists: one"
    oci("delete", "--force", "one")
    hook = {"path": shutil.which("false"), "args": ["false"]}
    bundle.spec["hooks"] = {"createContainer": [hook]}
    assert "error running hook: " in oci.fails("run", "-b", bundle.written(), "two")
