"""Every verb that names a pod or a container: nothing named, nobody of that name, several."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import trio

from doubles.commands import BUSYBOX, busybox_archive
from podrt.cli.main import main
from podrt.cli.verbs import VERBS
from podrt.config import Settings
from podrt.model.container import ContainerConfig
from podrt.model.pod import PodConfig
from podrt.runtime.runtime import Runtime, open_runtime

# They name something else, or need not name anything.
OTHERS = frozenset(
    {"create", "run", "pod create", "ps", "pod ps", "pod prune", "container prune", "stats",
     "pod stats", "kube play", "kube down", "info", "version", "debug plan", "events"}
)  # fmt: skip
NAMING = [
    verb for verb in VERBS if verb not in OTHERS and verb.split()[0] not in ("image", "system")
]
MORE = {"update": ("--cpus", "1"), "pod update": ("--cpus", "1"), "rename": ("new",)}
# Of nobody: these verbs say it by their exit code, and two of them by nothing else.
NOBODY = {"rm": 1, "pod rm": 1, "pod exists": 1, "container exists": 1}


class Shelf(NamedTuple):
    """A root, and prefixes of IDs that several containers, or pods, have."""

    places: tuple[str, ...]
    containers: str
    pods: str


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    if not BUSYBOX:
        pytest.skip("needs busybox")
    folder = tmp_path_factory.mktemp("shelf")
    settings = Settings(root=str(folder / "root"), runroot=str(folder / "run"))

    async def fill() -> tuple[str, str]:
        async with open_runtime(settings) as runtime:
            await runtime.import_image(str(busybox_archive(folder / "busybox.tar")), "base")
            return await _same_prefix(runtime, of_pods=False), await _same_prefix(
                runtime, of_pods=True
            )

    containers, pods = trio.run(fill)
    return Shelf(("--root", settings.root, "--runroot", settings.runroot), containers, pods)


async def _same_prefix(runtime: Runtime, *, of_pods: bool) -> str:
    """Create until two IDs begin alike, which 17 must; what they begin with."""
    seen: set[str] = set()
    while True:
        if of_pods:
            made = (await runtime.create_pod(PodConfig(infra=False))).id
        else:
            config = ContainerConfig(image="base", command=("true",))
            made = (await runtime.create_container(config)).id
        if made[0] in seen:
            return made[0]
        seen.add(made[0])


def test_verbs_that_name_something_are_all_here() -> None:
    assert len(NAMING) >= 25


@pytest.mark.parametrize("verb", NAMING)
def test_verb_with_a_wrong_name_says_so_in_one_line(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    def error_of(code: int, *words: str) -> str:
        assert main([*shelf.places, *verb.split(), *words]) == code, (verb, words)
        out, error = capsys.readouterr()
        assert out in ("", "[]\n"), out
        lines = [line for line in error.splitlines() if not line.startswith("See 'podrt")]
        assert len(lines) <= 1 and all(line.startswith("Error: ") for line in lines), error
        return lines[0] if lines else ""

    more = MORE.get(verb, ())
    assert error_of(125)
    code = NOBODY.get(verb, 125)
    assert "nosuch" in error_of(code, "nosuch", *more) or verb.endswith("exists")
    prefix = shelf.pods if verb.startswith("pod ") else shelf.containers
    assert f"matches {prefix}: " in error_of(125, prefix, *more)
    assert "unknown flag: --bogus" in error_of(125, "--bogus", "x")
