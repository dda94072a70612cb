"""Options of `create`, `run` and `pod create` as the processes in real containers see them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX, Podrt, command_environment
from podrt.cli.main import main

SHELL = ("base", "/bin/sh", "-c")
SLEEP = ("base", "/bin/sleep", "1000")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podrt]:
    """A root with the image `base`, for tests that clean up after themselves."""
    if not BUSYBOX:
        pytest.skip("needs busybox")
    folder = tmp_path_factory.mktemp("options")
    made = Podrt(folder)
    made.import_busybox(folder)
    yield made


@pytest.fixture
def podrt(shared: Podrt, cgroup_parent: str) -> Iterator[Podrt]:
    shared.cgroup_parent = cgroup_parent
    try:
        yield shared
    finally:
        shared.remove_all()


def run(podrt: Podrt, *words: str) -> str:
    """What a container of its own says before it is removed."""
    return podrt("run", "--rm", "--cgroup-parent", podrt.cgroup_parent, *words)


def test_run_with_names_and_servers_of_its_own(podrt: Podrt, tmp_path: Path) -> None:
    base = tmp_path / "hosts"
    base.write_text("10.1.1.1 base\n")
    flags = ("--add-host", "db;cache:10.0.0.9", "--hosts-file", str(base), "--dns", "10.0.0.1",
             "--dns-search", "shop.test", "--dns-option", "ndots:3",
             "--hostname", "web")  # fmt: skip
    said = run(podrt, *flags, *SHELL, "cat /etc/hosts; echo --; cat /etc/resolv.conf")
    hosts, _, resolv = said.partition("--\n")
    assert hosts.splitlines() == ["10.1.1.1 base", "127.0.1.1\tweb", "10.0.0.9\tdb cache"]
    words = [line for line in resolv.splitlines() if not line.startswith(("#", "sortlist"))]
    assert words == ["search shop.test", "nameserver 10.0.0.1", "options ndots:3"]
    kept = run(podrt, "--no-hosts", "--no-hostname", "--dns", "none",
               *SHELL, "grep /etc/ /proc/self/mountinfo; true")  # fmt: skip
    assert kept == ""


def test_run_environment_comes_from_host_files_and_line(podrt: Podrt, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nONE=file\nTWO=file\nHERE_A\n")
    flags = ("--env-file", str(file), "-e", "TWO=line", "-e", "HERE_B*", "--unsetenv", "PATH",
             "--env-merge", "BOTH=${container}-$none-x")  # fmt: skip
    words = podrt.words("run", "--rm", "--cgroup-parent", podrt.cgroup_parent, *flags,
                        "base", "/bin/cat", "/proc/self/environ")  # fmt: skip
    environment = {**command_environment(), "HERE_A": "a", "HERE_B1": "b", "HTTP_PROXY": "p",
                   "OTHER": "o"}  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    found = dict(one.split("=", 1) for one in done.stdout.split("\0") if one)
    assert {"ONE": "file", "TWO": "line", "HERE_A": "a", "HERE_B1": "b", "HTTP_PROXY": "p",
            "BOTH": "podrt--x", "container": "podrt"}.items() <= found.items()  # fmt: skip
    assert "PATH" not in found and "OTHER" not in found
    flags = ("--unsetenv-all", "--http-proxy=false", "-e", "ONE=1")
    words = podrt.words("run", "--rm", "--cgroup-parent", podrt.cgroup_parent, *flags,
                        "base", "/bin/cat", "/proc/self/environ")  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    names = {one.partition("=")[0] for one in done.stdout.split("\0") if one}
    assert names - {"HOME", "HOSTNAME", "SHLVL", "PWD"} == {"ONE"}


def test_run_with_mounts_in_full_words(podrt: Podrt, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("shown\n")
    flags = (
        "--mount", f"type=bind,source={tmp_path},target=/bound,ro,bind-nonrecursive",
        "--mount", "type=tmpfs,dst=/fast,tmpfs-size=1m,tmpfs-mode=1700,notmpcopyup",
        "--mount", "src=kept,dst=/kept,nosuid",
        "--mount", "type=ramfs,dst=/ram",
        "--mount", "type=devpts,destination=/terminals,uid=7,mode=0600",
    )  # fmt: skip
    script = (
        "cat /bound/shown; echo x >/bound/no || echo refused; echo y >/kept/file; "
        "cat /proc/self/mountinfo"
    )
    said = run(podrt, *flags, *SHELL, script)
    assert said.startswith("shown\nrefused\n")
    mounts = {line.split()[4]: line for line in said.splitlines() if " - " in line}
    assert " - tmpfs " in mounts["/fast"] and "size=1024k,mode=1700" in mounts["/fast"]
    assert " - ramfs " in mounts["/ram"] and " - devpts " in mounts["/terminals"]
    assert " ro," in mounts["/bound"] and "mode=600" in mounts["/terminals"]
    assert (podrt.root / "volumes/kept/_data/file").read_text() == "y\n"


def test_run_with_the_volumes_of_another_container(podrt: Podrt, tmp_path: Path) -> None:
    podrt("create", "--name", "from", "--cgroup-parent", podrt.cgroup_parent, "-v",
          f"{tmp_path}:/one", "-v", "kept2:/two", "--tmpfs", "/three", *SLEEP)  # fmt: skip
    script = "cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(one|two|three)'"
    flags = ("--volumes-from", "from:ro", "--tmpfs", "/two")
    said = run(
        podrt, *flags, "base", "/bin/busybox", "sh", "-c", script.replace("cut", "busybox cut")
    )
    found = dict(line.split() for line in said.splitlines())
    assert set(found) == {"/one", "/two"}
    assert found["/one"].startswith("ro,") and found["/two"].startswith("rw,")


def test_run_with_what_the_kernel_is_told(podrt: Podrt, tmp_path: Path) -> None:
    flags = ("--personality", "linux32", "--device-cgroup-rule", "c 10:229 rw", "--cap-add",
             "MKNOD", "--read-only", "--read-only-tmpfs=false", "--quiet")  # fmt: skip
    script = (
        "busybox uname -m; echo x >/run/x || echo refused; cd /dev; "
        "busybox mknod a c 10 229; busybox mknod b c 10 237; "
        "for one in a b; do busybox dd if=$one of=/null count=0 2>/dev/null || echo $one; done"
    )
    said = run(podrt, *flags, *SHELL, script).split()
    assert said[0] in ("i686", "i386", "armv8l") and said[1] == "refused"
    assert "b" in said[2:]
    host = os.readlink("/proc/self/ns/cgroup")
    for mode, is_host in (("host", True), ("private", False)):
        said = run(
            podrt, "--cgroupns", mode, "base", "/bin/busybox", "readlink", "/proc/self/ns/cgroup"
        )
        assert (said.strip() == host) is is_host


def test_run_in_a_time_zone_of_its_own(podrt: Podrt) -> None:
    if not os.path.exists("/usr/share/zoneinfo/Asia/Tokyo"):
        pytest.skip("needs zoneinfo")
    said = run(podrt, "--tz", "Asia/Tokyo", "base", "/bin/grep", "-c", "JST", "/etc/localtime")
    assert int(said) > 0


def test_run_of_a_directory_writes_into_it(podrt: Podrt, tmp_path: Path) -> None:
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    for name in ("busybox", "sh"):
        (root / "bin" / name).write_bytes(Path(BUSYBOX).read_bytes())
        (root / "bin" / name).chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("ann:x:7:8::/:/bin/sh\n")
    script = "echo here >/made; busybox id -u; busybox cat /proc/self/mountinfo"
    words = ("--rootfs", "--user", "ann", str(root), "/bin/sh", "-c", script)
    (root).chmod(0o777)
    said = run(podrt, *words)
    assert said.startswith("7\n") and "overlay" not in said
    assert (root / "made").read_text() == "here\n"


def test_files_with_ids_of_pods_containers_and_processes(podrt: Podrt, tmp_path: Path) -> None:
    pod = podrt.pod("shop", "--pod-id-file", str(tmp_path / "pod"))
    flags = ("--pod-id-file", f"{tmp_path}/pod", "--pidfile", f"{tmp_path}/pid")
    podrt("create", "--name", "a", "--stop-timeout", "0", *flags, *SLEEP)
    assert podrt.listed("ps", "-a", "--filter", "name=^a$")[0]["Pod"] == pod
    for verb in ("start", "restart"):
        podrt(verb, "a")
        pid = int((tmp_path / "pid").read_text())
        assert podrt.listed("ps")[-1]["Pid"] == pid or pid in [
            one["Pid"] for one in podrt.listed("ps")
        ]


def test_pod_gives_its_members_mounts_devices_rules_and_names(podrt: Podrt, tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("shown\n")
    labels = tmp_path / "labels"
    labels.write_text("# none\nteam=a\n")
    podrt.pod(
        "shop", "-v", f"{tmp_path}:/given:ro", "--device", "/dev/loop-control:/dev/given",
        "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined",
        "--dns", "10.0.0.1", "--add-host", "db:10.0.0.2", "--uts", "host",
        "--label-file", str(labels), "--label", "tier=b",
    )  # fmt: skip
    script = (
        "cat /given/shown; busybox stat -c %t:%T /dev/given; "
        "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; cat /etc/hosts /etc/resolv.conf; "
        "busybox readlink /proc/self/ns/uts"
    )
    podrt("create", "--pod", "shop", "--name", "a", *SHELL, script)
    podrt("pod", "start", "shop")
    podrt("wait", "a")
    said = re.sub(r"\s+", " ", podrt("logs", "a"))
    assert said.startswith("shown a:ed NoNewPrivs: 1 Seccomp: 0 ")
    assert "10.0.0.2 db" in said and "nameserver 10.0.0.1" in said
    assert said.rstrip().endswith(os.readlink("/proc/self/ns/uts"))
    pod = podrt.listed("pod", "ps")[0]
    assert pod["Labels"] == {"team": "a", "tier": "b"}
    error = podrt.fails(125, "create", "--pod", "shop", "-v", f"{tmp_path}:/given", *SLEEP)
    assert "/given: duplicate mount destination" in error


CREATE = ("create",)
POD = ("pod", "create", "--name", "x")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((*CREATE, "--mount", "type=bogus,dst=/x"), "invalid filesystem type 'bogus'"),
        ((*CREATE, "--mount", "type=bind"), "must set volume destination"),
        ((*CREATE, "--mount", "type=bind,src=/none,dst=/x"), "/none: no such file or directory"),
        ((*CREATE, "--mount", "type=bind,src=/tmp,dst=/x,foo=1"), "foo: invalid mount option"),
        ((*CREATE, "--mount", "type=tmpfs,dst=/x,src=/y"), "src: invalid mount option"),
        ((*CREATE, "--mount", "type=bind,src=/tmp,dst=/x,ro,rw"), "more than once"),
        ((*CREATE, "--mount", "type=bind,src=/tmp,dst=x"), "'x' is not an absolute path"),
        ((*CREATE, "--mount", "type=bind,src=/tmp,dst=/x,U"), "--mount U is not supported"),
        ((*CREATE, "--mount", "type=image,src=a,dst=/x"), "--mount type=image is not supported"),
        ((*CREATE, "--env-file", "/none"), "--env-file: /none: No such file"),
        ((*CREATE, "--env", "=x"), "invalid environment variable: '=x'"),
        ((*CREATE, "--env-merge", "x"), "--env-merge: 'x' is not NAME=VALUE"),
        ((*CREATE, "--label-file", "/none"), "--label-file: /none: No such file"),
        ((*CREATE, "--label", "=x"), "invalid label format: '=x'"),
        ((*CREATE, "--pod-id-file", "/none"), "--pod-id-file: /none: No such file"),
        ((*CREATE, "--pod-id-file", "/dev/null"), "--pod-id-file: /dev/null is empty"),
        ((*CREATE, "--pod-id-file", "/none", "--pod", "x"), "cannot specify both"),
        ((*CREATE, "--device-cgroup-rule", "foo"), "invalid device cgroup rule: 'foo'"),
        ((*CREATE, "--personality", "foo"), "--personality: 'foo' is not one of"),
        ((*CREATE, "--tz", "foo"), "--tz: /usr/share/zoneinfo/foo: No such file"),
        ((*CREATE, "--tz", "../../../etc/passwd"), "no name of a time zone"),
        ((*CREATE, "--volumes-from", "none"), "no such container: none"),
        ((*CREATE, "--volumes-from", "none:bad"), "invalid option 'bad'"),
        ((*CREATE, "--cgroupns", "foo"), "--cgroupns foo is not supported"),
        ((*CREATE, "--dns", "foo"), "foo is not an ip address"),
        ((*CREATE, "--dns", "none", "--dns", "10.0.0.1"), "none cannot be combined"),
        ((*CREATE, "--dns-search", "a b"), "--dns-search: 'a b' is no word"),
        ((*CREATE, "--add-host", "foo"), "'foo' is not NAME:ADDRESS"),
        ((*CREATE, "--add-host", "foo:bar"), "invalid IP address in add-host: 'bar'"),
        ((*CREATE, "--add-host", "foo:host-gateway"), "host-gateway is not supported"),
        ((*CREATE, "--no-hosts", "--add-host", "a:10.0.0.1"), "cannot be set together"),
        ((*CREATE, "--hosts-file", "/none"), "--hosts-file: /none: No such file"),
        ((*CREATE, "--hosts-file", "image"), "--hosts-file image is not supported"),
        ((*CREATE, "--security-opt", "bogus"), "invalid option 'bogus'"),
        (("create", "--rootfs", "/none"), "--rootfs: /none: no such directory"),
        ((*POD, "--dns", "nope"), "nope is not an ip address"),
        ((*POD, "--no-hosts", "--add-host", "a:10.0.0.1"), "cannot be set together"),
        ((*POD, "--infra=false", "--dns", "10.0.0.1"), "NoInfra and DNSServer are mutually"),
        ((*POD, "--infra=false", "--add-host", "a:10.0.0.1"), "NoInfra and HostAdd are mutually"),
        ((*POD, "--infra=false", "--no-hosts"), "--no-hosts without an infra container"),
        ((*POD, "-v", "/none:/x"), "/none: no such file or directory"),
        ((*POD, "--label-file", "/none"), "--label-file: /none: No such file"),
        ((*POD, "--uts", "bogus"), "unrecognized namespace mode bogus"),
        ((*POD, "--uts", "host", "--share", "net"), "--uts: needs --share uts"),
        ((*POD, "--security-opt", "bogus"), "invalid option 'bogus'"),
        ((*POD, "--device", "/dev/none"), "--device: /dev/none: No such file"),
    ],
)
def test_create_with_a_wrong_value_says_so_and_leaves_nothing(
    shared: Podrt, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    image = () if words[0] == "pod" or "--rootfs" in words else ("base",)
    command = () if words[0] == "pod" else ("/bin/true",)
    places = ("--root", str(shared.root), "--runroot", str(shared.runroot))
    assert main([*places, *words, *image, *command]) == 125
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("Error: ") and error.count("\n") == 1
    assert reason in error
    assert main([*places, "system", "check"]) == 0
    assert capsys.readouterr().out == ""
    assert os.listdir(shared.root / "containers") == os.listdir(shared.root / "pods") == []


def test_new_volume_begins_with_what_the_image_has_there(podrt: Podrt) -> None:
    script = "busybox cat /v/passwd; echo own >/v/own; busybox rm /v/passwd"
    said = run(podrt, "-v", "begun:/v:nocopy", *SHELL, "busybox ls /v")
    assert said == ""
    said = run(podrt, "-v", "filled:/etc", *SHELL, "busybox ls /etc")
    assert "passwd" in said.split()
    # It is the image's once: what is in it since then stays.
    said = run(podrt, "-v", "filled:/v", *SHELL, script)
    assert said.startswith("root:")
    said = run(podrt, "-v", "filled:/etc", *SHELL, "busybox ls /etc")
    assert "own" in said.split() and "passwd" not in said.split()
    assert set(os.listdir(podrt.root / "volumes/filled")) == {"_data"}
