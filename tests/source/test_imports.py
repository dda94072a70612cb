from __future__ import annotations

import subprocess
import sys

import pytest

import podrt
from source.sources import PACKAGE, module_of

READING = ["model", "errors", "layout", "config"]
HEAVY = ["trio", "asyncio", "pyroute2", "rich", "yaml"]


def modules_after(code: str) -> set[str]:
    """What a fresh Python has loaded once it ran `code`."""
    program = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    command = [sys.executable, "-P", "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def reading_modules() -> list[str]:
    """The modules that only look at things: values, paths, and the store's reading half."""
    found = []
    for room in READING:
        files = [PACKAGE / f"{room}.py", *sorted((PACKAGE / room).glob("*.py"))]
        found += [module_of(path) for path in files if path.exists()]
    halves = ["records", "wal", "recover", "snapshot", "tables"]
    found += [f"podrt.store.{half}" for half in halves if (PACKAGE / f"store/{half}.py").exists()]
    return found


def test_import_of_the_package_loads_nothing_heavy() -> None:
    bare = modules_after("pass")
    added = {name.split(".")[0] for name in modules_after("import podrt") - bare}
    assert added <= {"podrt", "__future__", "importlib", "warnings"}, added


def test_reading_modules_do_not_load_trio() -> None:
    names = reading_modules()
    assert len(names) > 5
    loaded = modules_after("import " + ", ".join(names))
    assert not loaded & set(HEAVY), loaded & set(HEAVY)


def test_command_line_starts_without_heavy_modules() -> None:
    loaded = modules_after("import podrt.__main__, podrt.cli.main")
    assert not loaded & set(HEAVY), loaded & set(HEAVY)


@pytest.mark.parametrize("name", podrt.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(podrt, name).__doc__


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = podrt.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_version_is_answered_without_the_command_line(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['podrt', *{arguments!r}]\n"
        "from podrt.__main__ import main\nassert main() == 0"
    )
    assert "podrt.cli.main" not in modules_after(code)
