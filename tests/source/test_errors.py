from __future__ import annotations

import ast
from collections.abc import Iterator

import podrt
from podrt import errors
from podrt.cli.errors import EXIT_CODES
from source.sources import PACKAGE, name_of, python_files


def classes(root: type[errors.PodrtError]) -> Iterator[type[errors.PodrtError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


def test_every_error_has_an_exit_code() -> None:
    own = {cls for cls in classes(errors.PodrtError) if cls.__module__ == errors.__name__}
    assert own == EXIT_CODES.keys()


def test_every_error_is_a_public_name_and_drawn_in_the_tree() -> None:
    assert errors.__doc__
    for cls in EXIT_CODES:
        assert cls.__name__ in podrt.__all__
        assert f"{cls.__name__}" in errors.__doc__


def test_only_errors_of_podrt_are_defined_where_errors_belong() -> None:
    """A room may have exceptions of its own, but those do not leave it: they are no PodrtError."""
    elsewhere = []
    for path in python_files():
        if path == PACKAGE / "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
            if bases & {cls.__name__ for cls in EXIT_CODES}:
                elsewhere.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not elsewhere
