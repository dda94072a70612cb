"""podman and podrt as two players of one script: code, output's shape and states of each."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from doubles.command_server import CommandServer
from doubles.oci_runtime import remove_cgroups
from doubles.side_by_side import Podman

# One mount namespace for all commands, because podman keeps networks mounted between them. In it
# podman sees cgroup v1 alone, cannot make directories that are no hierarchies, and has a
# /dev/null of its own, which crun gives away.
HOLDER = """
umount /sys/fs/cgroup/unified 2>/dev/null
mount -t tmpfs -o mode=700,nosuid none "$0" && mknod -m 666 "$0/null" c 1 3 &&
mkdir "$0/cgroup" && for path in /sys/fs/cgroup/*; do
    name=${path##*/}
    if [ -L "$path" ]; then cp -P "$path" "$0/cgroup/$name"
    elif mountpoint -q "$path"; then
        mkdir "$0/cgroup/$name" && mount --bind "$path" "$0/cgroup/$name"
    fi
done &&
mount --rbind "$0/cgroup" /sys/fs/cgroup && mount -o remount,bind,ro /sys/fs/cgroup &&
mount --bind "$0/null" /dev/null && echo ready && exec sleep 100000
"""
INFRA = """infra_image = "localhost/infra:latest"
infra_command = "/bin/sleep 100000"
"""


class Answer(NamedTuple):
    """What a line of a script came to; `raw` is its output."""

    code: int
    out: str
    raw: str


class PodmanPods(Podman):
    """podman for pods, with an infra image of its own."""

    def __init__(self, folder: Path, parent: str) -> None:
        super().__init__(folder, parent)
        config = folder / "containers.conf"
        config.write_text(config.read_text() + INFRA)
        self._holder = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", HOLDER, f"{folder}/null"],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        inside = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        self.command = [*inside, *self.command[self.command.index("podman") :]]

    def import_images(self, archive: Path) -> None:
        """`base`, and what infra containers are made of."""
        entrypoint = '--change=ENTRYPOINT=["/bin/sleep","100000"]'
        for words in ((str(archive), "base"), (entrypoint, str(archive), "infra")):
            done = self.run("import", *words)
            assert done.returncode == 0, done.stderr

    def play(self, words: Sequence[str]) -> Answer:
        """Run a line, with what podman needs on this host."""
        extra: list[str] = []
        if words[:2] == ["pod", "create"]:
            has_network = not {"--infra=false", "none", "nonsense"} & {*words}
            extra = ["--network", "none"] if has_network else []
            extra += [] if {"--share", "--infra=false"} & {*words} else ["--share", "ipc,uts"]
            extra += _parent(words, self.parent)
        elif words[:1] == ["create"]:
            extra = [
                "--network",
                "none",
                *([] if "--pod" in words else _parent(words, self.parent)),
            ]
        done = self.run(*_with_flags(words, extra))
        return Answer(done.returncode, shape(done.stdout), done.stdout)

    def close(self) -> None:
        """Remove everything."""
        try:
            self.run("pod", "rm", "--all", "--force", "--time", "0")
            self.remove()
        finally:
            self._holder.kill()
            self._holder.communicate()
            remove_cgroups(self.parent)


class PodrtPods:
    """podrt, with the same words."""

    def __init__(self, server: CommandServer, parent: str) -> None:
        self._server = server
        self._parent = parent

    def play(self, words: Sequence[str]) -> Answer:
        """Run a line below the test's cgroup parent."""
        extra = []
        if words[:2] == ["pod", "create"]:
            extra = [] if {"--share", "--infra=false"} & {*words} else ["--share", "ipc,uts"]
            extra += _parent(words, self._parent)
        elif words[:1] == ["create"] and "--pod" not in words:
            extra = _parent(words, self._parent)
        done = self._server.run(*_with_flags(words, extra))
        return Answer(done.code, shape(done.out), done.out)


Play = Callable[[Sequence[str]], Answer]


def _parent(words: Sequence[str], parent: str) -> list[str]:
    return [] if "--cgroup-parent" in words else ["--cgroup-parent", parent]


def _with_flags(words: Sequence[str], extra: Sequence[str]) -> list[str]:
    verb = 2 if words[0] == "pod" else 1
    return [*words[:verb], *extra, *words[verb:]]


def play_script(play: Play, lines: Sequence[str], file: Path) -> list[Answer]:
    """Every line's answer."""
    answers: list[Answer] = []
    made = ""
    for line in lines:
        told = line.replace("{id}", made).replace("{short}", made[:12]).replace("{file}", str(file))
        answer = play(shlex.split(told))
        if line.startswith("pod create") and not made:
            made = answer.raw.strip()
        answers.append(answer)
    return answers


def read_states(play: Play) -> dict[str, str]:
    """Name -> state of every pod and container; an infra container without a name is "infra"."""
    pods = json.loads(play(shlex.split("pod ps --format json")).raw or "[]")
    found = {f"pod {pod['Name']}": str(pod["Status"]) for pod in pods}
    for container in json.loads(play(shlex.split("ps -a --format json")).raw or "[]"):
        name = container["Names"][0]
        found["infra" if name.endswith("-infra") else name] = container["State"]
    return found


def clear(play: Play) -> None:
    """Remove all pods and containers."""
    play(shlex.split("pod rm --all --force --time 0"))
    play(shlex.split("rm --all --force --time 0"))


_AGE = re.compile(r"(Less than a second|About an? \w+|\d+ \w+) ago")
_ID = re.compile(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b")


def shape(text: str) -> str:
    """An output without what differs between any two runs: IDs, ages, widths of columns."""
    try:
        value = json.loads(text)
    except ValueError:
        pass
    else:
        if isinstance(value, list | dict):
            return json.dumps(_keys(value))
    text = _AGE.sub("AGE", text)
    text = _ID.sub(lambda match: "ID" if len(match[0]) == 64 else "id", text)
    return "\n".join(re.sub(r" {2,}", "  ", line).strip() for line in text.splitlines())


def _keys(value: Any) -> Any:
    """The keys of a JSON value, of lists those of the first item."""
    if isinstance(value, dict):
        return {key: _keys(one) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [_keys(one) for one in value[:1]]
    return ""
