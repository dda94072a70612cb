from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from source.sources import PACKAGE, PROJECT, c_files, cython_files, name_of, python_files

TEXT = {
    ".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".md", ".toml", ".yaml", ".yml", ".txt", ".in",
    ".sh", ".json", "",
}  # fmt: skip
# Paths of somebody's machine, put together here so that this file does not hold them.
MACHINE_PATHS = re.compile("|".join(["/wo" + "rk/", "/ro" + r"ot/\.", "/op" + "t/(wheels|pypi)"]))
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + r"X)\b|NotImplemented" + "Error")


def project_files() -> list[Path]:
    """What git holds or would hold; every file of the tree where there is no git."""
    command = ["git", "-C", str(PROJECT), "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        names = listed.stdout.decode().split("\0")
        paths = [PROJECT / name for name in names if name]
    else:
        tops = ["src", "tests", "examples", "benchmarks", ".ci", ".github"]
        paths = [path for top in tops for path in (PROJECT / top).rglob("*")]
    skipped = {"LICENSE"}
    return [
        path
        for path in paths
        if path.suffix in TEXT and path.name not in skipped and path.is_file()
    ]


def lines_matching(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in paths:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name_of(path)}:{number} {line.strip()[:80]}"
            for number, line in enumerate(lines, 1)
            if pattern.search(line)
        ]
    return found


def test_files_name_no_machine() -> None:
    found = lines_matching(project_files(), MACHINE_PATHS)
    assert not found, "\n".join(found)


def test_sources_leave_nothing_for_later() -> None:
    found = lines_matching([*python_files(), *cython_files(), *c_files()], UNFINISHED)
    assert not found, "\n".join(found)


def is_public(name: str) -> bool:
    return not name.startswith("_")


def undocumented(path: Path) -> list[str]:
    """The public classes, functions and methods of a module that have no docstring."""
    tree = ast.parse(path.read_text())
    missing = [] if ast.get_docstring(tree) or path.name == "__init__.py" else ["the module"]
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for node in tree.body if isinstance(node, definitions) and is_public(node.name)]
    for node in list(nodes):
        if isinstance(node, ast.ClassDef):
            nodes += [
                inner
                for inner in node.body
                if isinstance(inner, definitions) and is_public(inner.name)
            ]
    missing += [node.name for node in nodes if not ast.get_docstring(node) and not is_variant(node)]
    return [f"{name_of(path)}: {name}" for name in missing]


def is_variant(node: ast.AST) -> bool:
    """Overloads, overrides and setters: the documented one stands elsewhere."""
    decorators = getattr(node, "decorator_list", [])
    return any(ast.unparse(one).endswith(("overload", "override", ".setter")) for one in decorators)


def test_public_names_have_docstrings() -> None:
    missing = [line for path in python_files() for line in undocumented(path)]
    assert not missing, "\n".join(missing)


def test_python_modules_postpone_annotations() -> None:
    line = "from __future__ import annotations"
    without = [
        name_of(path)
        for path in python_files()
        if path.read_text().strip() and line not in path.read_text()
    ]
    assert not without


def test_every_cython_module_has_a_stub() -> None:
    missing = [name_of(path) for path in cython_files() if not path.with_suffix(".pyi").exists()]
    assert not missing


C_RESULT = re.compile(
    r"^ *cp?def (?:inline )?"
    r"(?:void|bint|int|long|unsigned|char|float|double|\w+_t|\w[\w ]*\*)[ *]"
)


def cython_heads(path: Path) -> Iterator[tuple[int, str]]:
    """The heads of the C functions that a module defines, each as one line."""
    lines = path.read_text().splitlines()
    external = False
    for number, line in enumerate(lines):
        if line and not line[0].isspace():
            external = line.startswith("cdef extern")
        if external or not C_RESULT.match(line) or not re.match(r"[^=]*\(", line):
            continue
        head = line
        for later in lines[number + 1 : number + 8]:
            if head.rstrip().endswith(":"):
                break
            head += " " + later.strip()
        if head.rstrip().endswith(":"):
            yield number + 1, head


def test_cython_functions_say_how_they_fail() -> None:
    """A bare cdef checks for an exception after every call, which costs more than the call."""
    silent = [
        f"{name_of(path)}:{number} {head}"
        for path in cython_files()
        for number, head in cython_heads(path)
        if "noexcept" not in head and " except " not in head
    ]
    assert not silent, "\n".join(silent)


def test_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
