"""`--format`, `--sort` and `--filter` of the verbs that read, on real records and processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from doubles.commands import BUSYBOX
from doubles.places import Place, open_place
from podrt.cli.main import main
from podrt.model.container import ContainerConfig
from podrt.model.pod import PodConfig


@pytest.fixture
async def place(tmp_path: Path, cgroup_parent: str) -> AsyncIterator[Place]:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    async with open_place(tmp_path, cgroup_parent) as found:
        yield found


class Reader:
    """Reading commands in this process: they are synchronous."""

    def __init__(self, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
        settings = place.ctx.settings
        self._places = ["--root", settings.root, "--runroot", settings.runroot]
        self._capsys = capsys

    def __call__(self, *words: str) -> list[str]:
        assert main([*self._places, *words]) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out.splitlines()

    def fails(self, *words: str) -> str:
        assert main([*self._places, *words]) == 125
        return self._capsys.readouterr().err


@pytest.fixture
def read(place: Place, capsys: pytest.CaptureFixture[str]) -> Reader:
    return Reader(place, capsys)


async def make_some(place: Place) -> None:
    """A pod `web` with `b` and `a`, of which `a` runs, and an empty pod `other`."""
    labels = {"app": "shop"}
    parent = place.cgroup_parent
    config = PodConfig(name="web", labels=labels, cgroup_parent=parent, infra=False)
    members = [
        ContainerConfig(name="b", image="base", command=("true",)),
        ContainerConfig(
            name="a", image="base", labels=labels, command=("sleep", "1000"), stop_timeout_s=0
        ),
    ]
    pod = await place.runtime.create_pod(config, members)
    await place.runtime.create_pod(PodConfig(name="other", cgroup_parent=parent, infra=False))
    for container in pod.containers():
        if container.name == "a":
            await container.start()


async def test_templates_show_what_the_records_and_the_kernel_say(
    place: Place, read: Reader
) -> None:
    await make_some(place)
    pid = str(place.pid("a"))
    assert read("inspect", "a", "--format", "{{.State.Pid}} {{.Config.Cmd}}") == [
        f"{pid} [sleep 1000]"
    ]
    assert read("ps", "--format", "{{.Names}} {{.Pid}} {{.PodName}}") == [f"a {pid} web"]
    assert read("pod", "ps", "--format", "table {{.Name}} {{.Labels.app}}") == [
        "NAME        APP",
        "other       <no value>",
        "web         shop",
    ]
    form = "{{.Name}}:{{range .Containers}} {{.Name}}={{.State}}{{end}}"
    assert read("pod", "inspect", "web", "--format", form) == ["web: b=created a=running"]
    assert read("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}") == ["a 1"]
    assert read("images", "--format", "{{.Repository}}") == ["localhost/base"]
    assert read("version", "--format", "{{.Version}}") == read(
        "info", "--format", "{{.Version.Version}}"
    )
    assert read("system", "locks", "--format", "{{.Kind}} {{.Name}}")


async def test_wrong_template_is_one_line_and_125(place: Place, read: Reader) -> None:
    await make_some(place)
    for words in (["ps", "-a"], ["pod", "ps"], ["inspect", "a"], ["pod", "inspect", "web"]):
        error = read.fails(*words, "--format", "{{.Nope}}")
        assert error.startswith("Error: template: ") and error.count("\n") == 1
        assert "can't evaluate field Nope" in error
        assert "template: " in read.fails(*words, "--format", "{{")


async def test_sort_orders_the_listing(place: Place, read: Reader) -> None:
    await make_some(place)
    names = ["--format", "{{.Names}}"]
    assert read("ps", "-a", "--sort", "names", *names) == ["a", "b"]
    assert read("ps", "-a", "--sort", "created", *names) == ["b", "a"]
    assert read("ps", "-a", "--sort", "status", *names) == ["a", "b"]
    assert read("ps", "-n", "1", *names) == read("ps", "-l", *names) == ["a"]
    pods = ["pod", "ps", "--format", "{{.Name}}"]
    assert read(*pods) == read(*pods, "--sort", "number") == ["other", "web"]
    assert "--sort" in read.fails("ps", "--sort", "size")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["label=app=shop"], ["a"]),
        (["label!=app"], ["b"]),
        (["label=app", "label=none"], []),
        (["pod=web", "name=b"], ["b"]),
        (["status=created", "status=running"], ["b", "a"]),
        (["before=a"], ["b"]),
        (["since=b"], ["a"]),
        (["until=1h"], []),
        (["until=0s"], ["b", "a"]),
        (["ancestor=base"], ["b", "a"]),
        (["command=sleep"], ["a"]),
        (["exited=0"], []),
    ],
)
async def test_filter_of_containers_keeps_what_fits(
    place: Place, read: Reader, words: list[str], names: list[str]
) -> None:
    await make_some(place)
    flags = [flag for word in words for flag in ("--filter", word)]
    assert read("ps", "-a", "--format", "{{.Names}}", *flags) == names


async def test_filter_of_pods_keeps_what_fits(place: Place, read: Reader) -> None:
    await make_some(place)
    for word, names in {
        "ctr-number=2": ["web"],
        "ctr-status=running": ["web"],
        "ctr-names=a": ["web"],
        "label!=app": ["other"],
        "status=created": ["other"],
        "until=1h": [],
    }.items():
        assert read("pod", "ps", "--format", "{{.Name}}", "--filter", word) == names, word
    columns = read("pod", "ps", "--filter", "name=web", "--ctr-names", "--ctr-status")
    assert columns[0].split()[-2:] == ["NAMES", "STATUS"]
    assert columns[1].split()[-2:] == ["b,a", "created,running"]
