"""The same bundles under podrt, crun and runc: what their containers see, and what they answer."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doubles.commands import command_environment
from doubles.oci_runtime import Bundle, OciRuntime
from podrt.spec.security import MASKED_PATHS, READONLY_PATHS

PROBE = """
id -u; id -g; id -G; pwd; umask; hostname
grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
grep -E 'open files|core|processes' /proc/self/limits
env; cat /proc/self/oom_score_adj
for n in mnt pid net ipc uts user; do test -e /proc/self/ns/$n && echo $n; done
while read a b c d point options rest; do echo "$point $options"; done < /proc/self/mountinfo
test -w /proc/sys/kernel/hostname && echo writable
ls -A /proc/acpi /sys/firmware 2>&1 | head -3
for d in null zero full random urandom tty; do test -c /dev/$d && echo $d; done
for l in fd stdin ptmx; do readlink /dev/$l; done
touch /marker 2>&1; ls /proc/self/fd | wc -l; exit 3
"""


def process(bundle: Bundle, **changes: Any) -> None:
    bundle.process.update(changes)


CASES: dict[str, Callable[[Bundle], None]] = {
    "plain": lambda bundle: None,
    "readonly root": lambda bundle: bundle.spec["root"].update(readonly=True),
    "user": lambda bundle: process(
        bundle, user={"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27}
    ),
    "no capabilities": lambda bundle: process(bundle, capabilities={}),
    "ambient": lambda bundle: process(
        bundle,
        user={"uid": 7, "gid": 8},
        capabilities={
            name: ["CAP_NET_RAW"]
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        },
    ),
    "limits": lambda bundle: process(
        bundle,
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        oomScoreAdj=77,
        noNewPrivileges=False,
    ),
    "directory and environment": lambda bundle: process(
        bundle, cwd="/made/here", env=["PATH=/bin", "A=b c", "EMPTY="]
    ),
    "mounts": lambda bundle: bundle.spec["mounts"].extend(
        [
            {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["ro", "nodev"]},
            {"destination": "/deep", "type": "bind", "source": "/usr", "options": ["bind", "ro"]},
        ]
    ),
    "seccomp": lambda bundle: bundle.linux.update(
        seccomp={
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}],
        }
    ),
    "unmasked": lambda bundle: bundle.linux.update(maskedPaths=[], readonlyPaths=[]),
    "failing program": lambda bundle: process(bundle, args=["false"]),
    "missing program": lambda bundle: process(bundle, args=["/nope"]),
}  # fmt: skip


@pytest.fixture(params=["crun", "runc"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OciRuntime]:
    """The other runtime; crun refuses hybrid cgroups, so it sees v1 alone."""
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    shell = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", shell, "sh", name]
    runtime = OciRuntime(command, tmp_path / name)
    yield runtime
    runtime.clean()


# Each runtime gives its masks and read-only paths attributes of its own besides.
KEPT = {"ro", "rw", "nosuid", "nodev", "noexec"}


def comparable(text: str) -> list[str]:
    """What is printed, without what each runtime has of its own.

    crun and runc add HOME to an environment without one; the specification does not ask for it.
    """
    found = []
    for line in text.splitlines():
        point, _, options = line.partition(" ")
        if point.startswith("/") and options.startswith(("rw", "ro")):
            kept = KEPT.intersection(options.split(","))
            if point in READONLY_PATHS:
                kept &= {"ro"}
            found.append(point if point in MASKED_PATHS else f"{point} {sorted(kept)}")
        elif not line.startswith("HOME="):
            found.append(line)
    return sorted(found)


@pytest.mark.parametrize("case", CASES)
def test_containers_see_the_same(
    oci: OciRuntime, peer: OciRuntime, bundle: Bundle, case: str
) -> None:
    bundle.sh(PROBE)
    bundle.spec["mounts"] = [mount for mount in bundle.spec["mounts"] if mount["type"] != "cgroup"]
    bundle.linux["namespaces"] = [
        one for one in bundle.linux["namespaces"] if one["type"] != "cgroup"
    ]
    bundle.spec["ociVersion"] = "1.0.2"  # the newest that crun 1.8 takes
    CASES[case](bundle)
    path = bundle.written()
    ours, theirs = (runtime.run("run", "-b", path, "one") for runtime in (oci, peer))
    assert (ours.returncode == 0) == (theirs.returncode == 0), (ours, theirs)
    lines = difflib.unified_diff(comparable(ours.stdout), comparable(theirs.stdout), n=0)
    assert not list(lines), (ours.stderr, theirs.stderr)


def test_states_and_refusals_are_the_same(
    oci: OciRuntime, peer: OciRuntime, bundle: Bundle
) -> None:
    bundle.spec["ociVersion"] = "1.0.2"
    path = bundle.args("sleep", "1000").written()
    stories = []
    for runtime in (oci, peer):
        story: list[object] = []

        def told(*words: str, story: list[object] = story, runtime: OciRuntime = runtime) -> None:
            done = subprocess.run(
                [*runtime.command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, check=False, timeout=60, env=command_environment(),
            )  # fmt: skip
            story.append((words, done.returncode == 0))

        def look(story: list[object] = story, runtime: OciRuntime = runtime) -> None:
            state = msgspec.json.decode(runtime("state", "one"))
            keys = ("ociVersion", "id", "status", "bundle")
            story.append([keys, [bool(state[key]) for key in keys], state["status"]])

        runtime.ids.append("one")
        told("state", "one")
        told("start", "one")
        told("create", "-b", path, "one")
        look()
        told("create", "-b", path, "one")
        told("start", "one")
        look()
        told("start", "one")
        told("pause", "one")
        look()
        told("resume", "one")
        told("exec", "one", "true")
        told("exec", "one", "false")
        told("exec", "one", "/nope")
        told("kill", "one", "KILL")
        runtime.wait_status("one", "stopped")
        look()
        told("start", "one")
        told("exec", "one", "true")
        told("delete", "one")
        told("delete", "one")
        told("delete", "--force", "one")
        stories.append(story)
    assert stories[0] == stories[1]
