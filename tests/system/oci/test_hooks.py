from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from doubles.commands import command_environment
from doubles.oci_runtime import Bundle, OciRuntime

ON_THE_HOST = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A program that notes its argument, its mount namespace and its standard input."""
    program = tmp_path / "record"
    program.write_text(
        f'#!/bin/sh\necho "$1 $(readlink /proc/self/ns/mnt) $(cat)" >> {tmp_path}/noted\n'
    )
    program.chmod(0o755)
    return program


def noted(record: Path) -> list[tuple[str, str, dict[str, Any]]]:
    lines = (record.parent / "noted").read_text().splitlines()
    words = [line.split(" ", 2) for line in lines]
    return [(point, namespace, msgspec.json.decode(state)) for point, namespace, state in words]


def hook(record: Path, point: str) -> dict[str, Any]:
    return {"path": str(record), "args": ["record", point], "env": ["PATH=/usr/bin:/bin"]}


def test_hooks_run_in_their_order_with_the_state_on_stdin(
    oci: OciRuntime, bundle: Bundle, record: Path
) -> None:
    bundle.spec["annotations"] = {"a": "@PID@ b"}
    bundle.spec["hooks"] = {point: [hook(record, point)] for point in ON_THE_HOST}
    inside = Path(bundle.spec["root"]["path"]) / "bin/inside"
    inside.write_text("#!/bin/sh\ncat > /tmp/state\n")
    inside.chmod(0o755)
    bundle.spec["hooks"]["startContainer"] = [{"path": "/bin/inside", "env": ["PATH=/bin"]}]
    oci("run", "-b", bundle.sh("test -s /tmp/state").written(), "one")
    found = noted(record)
    assert [point for point, _, _ in found] == list(ON_THE_HOST)
    states = {point: state for point, _, state in found}
    assert {point: state["status"] for point, state in states.items()} == {
        "prestart": "created",
        "createRuntime": "creating",
        "createContainer": "creating",
        "poststart": "running",
        "poststop": "stopped",
    }
    (pid,) = {state["pid"] for point, state in states.items() if point != "poststop"}
    assert pid > 0
    for state in states.values():
        assert state["id"] == "one"
        assert state["bundle"] == str(bundle.path)
        assert state["annotations"] == {"a": "@PID@ b"}
    hosts = {namespace for point, namespace, _ in found if point != "createContainer"}
    own = {namespace for point, namespace, _ in found if point == "createContainer"}
    assert len(hosts) == 1
    assert not own & hosts
    state = msgspec.json.decode((inside.parent.parent / "tmp/state").read_bytes())
    assert (state["status"], state["pid"]) == ("created", pid)


@pytest.mark.parametrize("point", ["prestart", "createRuntime", "createContainer"])
def test_hook_that_fails_ends_create_and_poststop_runs(
    oci: OciRuntime, bundle: Bundle, record: Path, point: str
) -> None:
    bad = {"path": "/bin/sh", "args": ["sh", "-c", "echo no thanks; exit 3"]}
    bundle.spec["hooks"] = {
        point: [bad, hook(record, "second")],
        "poststop": [hook(record, "poststop")],
    }
    said = oci.run("create", "-b", bundle.args("true").written(), "one").stderr
    assert "hook" in said
    assert "3" in said
    assert [name for name, _, _ in noted(record)] == ["poststop"]
    assert oci("list", "-q") == ""


def test_start_container_hook_that_fails_ends_the_container(
    oci: OciRuntime, bundle: Bundle, record: Path
) -> None:
    bundle.spec["hooks"] = {
        "startContainer": [{"path": "/bin/false"}],
        "poststop": [hook(record, "poststop")],
    }
    oci.detached("create", "-b", bundle.sh("touch /tmp/ran").written(), "one")
    assert "hook" in oci.fails("start", "one")
    assert not (Path(bundle.spec["root"]["path"]) / "tmp/ran").exists()
    assert [name for name, _, _ in noted(record)] == ["poststop"]
    assert oci("list", "-q") == ""


def test_poststart_and_poststop_hooks_that_fail_are_only_warnings(
    oci: OciRuntime, bundle: Bundle, record: Path
) -> None:
    for point in ("poststart", "poststop"):
        bundle.spec.setdefault("hooks", {})[point] = [
            {"path": "/bin/false"},
            hook(record, point),
        ]
    done = oci.run("run", "-b", bundle.sh("exit 6").written(), "one")
    assert done.returncode == 6
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" warning"] * 2
    assert [name for name, _, _ in noted(record)] == ["poststart", "poststop"]


@pytest.mark.parametrize("point", ["createRuntime", "createContainer"])
def test_hook_that_takes_too_long_is_killed(oci: OciRuntime, bundle: Bundle, point: str) -> None:
    bundle.spec["hooks"] = {point: [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]}
    assert "hook" in oci.run("create", "-b", bundle.args("true").written(), "one").stderr
    assert oci("list", "-q") == ""


def test_poststart_hook_may_use_the_container(
    oci: OciRuntime, bundle: Bundle, record: Path
) -> None:
    script = " ".join([*oci.command, "exec", "one", "touch", "/tmp/touched"])
    environment = [f"{name}={value}" for name, value in command_environment().items()]
    bundle.spec["hooks"] = {
        "poststart": [
            {"path": "/bin/sh", "args": ["sh", "-c", script], "env": environment, "timeout": 30}
        ]
    }
    oci.detached("run", "-d", "-b", bundle.args("sleep", "100").written(), "one")
    assert (Path(bundle.spec["root"]["path"]) / "tmp/touched").exists()
