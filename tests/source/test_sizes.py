from __future__ import annotations

import ast
import re

from source.sources import (
    PACKAGE,
    c_files,
    c_functions,
    cython_files,
    cython_functions,
    name_of,
    python_files,
    python_functions,
)

FUNCTION_LINES = 60
MODULE_LINES = 600
C_FILE_LINES = 500
MONITOR_CODE_LINES = 3500
POSITIONAL_PARAMETERS = 5
NESTING = 4

BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def test_reads_functions_of_all_three_languages() -> None:
    """The rules below would hold of nothing, if the readers found nothing."""
    assert sum(1 for path in python_files() for _ in python_functions(path)) > 50
    assert sum(1 for path in cython_files() for _ in cython_functions(path)) > 5
    assert sum(1 for path in c_files() for _ in c_functions(path)) > 20


def test_functions_stay_under_the_limit() -> None:
    readers = [
        (python_files(), python_functions),
        (cython_files(), cython_functions),
        (c_files(), c_functions),
    ]
    long = [
        str(function)
        for paths, read in readers
        for path in paths
        for function in read(path)
        if function.lines > FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_files_stay_under_the_limit() -> None:
    limits = [(path, MODULE_LINES) for path in [*python_files(), *cython_files()]]
    limits += [(path, C_FILE_LINES) for path in c_files()]
    long = [
        f"{name_of(path)}: {count} lines"
        for path, limit in limits
        if (count := len(path.read_text().splitlines())) > limit
    ]
    assert not long, "\n".join(long)


def code_lines(text: str) -> int:
    """Lines that hold more than white space and comments."""
    bare = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)
    return sum(1 for line in bare.splitlines() if line.strip())


def test_monitor_and_launcher_stay_small() -> None:
    """Who reads them for holes must get through: the code lines of their .c files.

    Their headers, declarations and tables of numbers, are not in the sum; neither is pause.c,
    a program of its own.
    """
    assert code_lines("int a; /* one\ntwo */ int b;\n\n/* three\n */\nint c;\n") == 3
    counted = [path for path in c_files() if path.suffix == ".c" and path.name != "pause.c"]
    assert {"monitor.c", "launch.c", "child.c"} <= {path.name for path in counted}
    assert sum(code_lines(path.read_text()) for path in counted) < MONITOR_CODE_LINES


def test_functions_take_few_positional_parameters() -> None:
    many = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args]]
            own = names[1:] if names[:1] in (["self"], ["cls"]) else names
            if len(own) > POSITIONAL_PARAMETERS:
                many.append(f"{name_of(path)}:{node.lineno} {node.name}: {len(own)}")
    assert not many, "\n".join(many)


def depth(node: ast.AST) -> int:
    """How deeply blocks stand inside each other below a node; `elif` does not go deeper."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        inner = depth(child)
        chained = isinstance(node, ast.If) and node.orelse == [child]
        deepest = max(deepest, inner + (isinstance(child, BLOCKS) and not chained))
    return deepest


def test_functions_nest_little() -> None:
    deep = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = depth(node)
                if found > NESTING:
                    deep.append(f"{name_of(path)}:{node.lineno} {node.name}: {found}")
    assert not deep, "\n".join(deep)


def test_package_files_are_empty_but_the_public_one() -> None:
    full = [
        name_of(path)
        for path in PACKAGE.rglob("__init__.py")
        if path.parent != PACKAGE and path.read_text().strip()
    ]
    assert not full
