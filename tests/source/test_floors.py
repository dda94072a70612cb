from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from source.sources import PACKAGE, cython_files, module_of, name_of, python_files

# The floors of ARCHITECTURE.md; two of them hold rooms that stand on each other.
FLOORS = [
    {"errors"},
    {"_fast", "_native"},
    {"model"},
    {"layout", "linux"},
    {"config", "locks"},
    {"cgroups", "engines", "events", "images", "net", "spec", "store", "volumes"},
    {"runtime", "oci"},
    {"kube"},
    {"cli", "api", "cri"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The package itself names the public things, and loads them only when they are asked for.
PUBLIC = "podrt"


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports_of(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, module, relative) for every import in a Python file, wherever it stands."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom):
            yield from modules_of(node, package)


def modules_of(node: ast.ImportFrom, package: list[str]) -> Iterator[tuple[int, str, bool]]:
    base = package[: len(package) - node.level + 1] if node.level else []
    module = ".".join([*base, *([node.module] if node.module else [])])
    if module in (PUBLIC, ""):
        for alias in node.names:
            yield node.lineno, f"{PUBLIC}.{alias.name}", bool(node.level)
    else:
        yield node.lineno, module, bool(node.level)


def cython_imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    pattern = re.compile(r"^\s*(?:from|import|cimport)\s+(podrt[\w.]*)")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if match := pattern.match(line):
            yield number, match[1], False


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room_of(module_of(path)) for path in [*python_files(), *cython_files()]} - {""}
    assert rooms <= FLOOR_OF.keys(), rooms - FLOOR_OF.keys()


def test_rooms_import_only_from_lower_floors() -> None:
    wrong = []
    sources = [(path, imports_of) for path in python_files()]
    sources += [(path, cython_imports) for path in cython_files()]
    for path, read in sources:
        room = room_of(module_of(path))
        if not room:
            continue
        for line, module, _ in read(path):
            other = room_of(module)
            if not module.startswith("podrt.") or other == room or other == "__version__":
                continue
            if FLOOR_OF.get(other, 99) >= FLOOR_OF[room]:
                wrong.append(f"{name_of(path)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_imports_across_rooms_are_absolute_and_inside_relative() -> None:
    wrong = []
    for path in python_files():
        room = room_of(module_of(path))
        inside = (PACKAGE / room).is_dir() if room else False
        for line, module, relative in imports_of(path):
            if not module.startswith("podrt."):
                continue
            same = inside and room_of(module) == room
            if same != relative:
                how = "relatively" if relative else "absolutely"
                wrong.append(f"{name_of(path)}:{line} imports {module} {how}")
    assert not wrong, "\n".join(wrong)


def test_modules_are_named_by_an_idea() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
    assert not [name_of(path) for path in python_files() if path.stem in vague]
    assert not [name_of(path) for path in PACKAGE.iterdir() if path.name in vague]
