from __future__ import annotations

import ast
import importlib

import pytest

from source.seed_table import POD, RUNTIME, TABLE, Row
from source.sources import PROJECT

# How many functions each of the seed's files has, exported or not.
FUNCTIONS = {POD: 24, RUNTIME: 4}


def names_in(path: str) -> set[str]:
    """The test functions of a file below tests/."""
    tree = ast.parse((PROJECT / "tests" / path).read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def has_call(dotted: str) -> bool:
    """Whether a module has what a dotted name leads to."""
    parts = dotted.split(".")
    for length in range(len(parts) - 1, 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def test_every_function_of_the_seed_has_one_row() -> None:
    for file, count in FUNCTIONS.items():
        names = [row.function for row in TABLE if row.file == file]
        assert len(set(names)) == len(names) == count


@pytest.mark.parametrize("row", TABLE, ids=[row.function for row in TABLE])
def test_row_of_the_seed_table_names_calls_and_tests_that_are_there(row: Row) -> None:
    assert row.calls and row.tests
    assert [call for call in row.calls if not has_call(call)] == []
    missing = []
    for test in row.tests:
        path, _, name = test.partition("::")
        there = names_in(path)
        if not there or name not in {*there, "*"}:
            missing.append(test)
    assert not missing


def test_what_is_not_there_is_noticed() -> None:
    assert not has_call("podrt.runtime.pod.Pod.nonsense")
    assert not has_call("podrt.nonsense.pod")
    assert "test_nonsense" not in names_in("source/test_seed_table.py")
