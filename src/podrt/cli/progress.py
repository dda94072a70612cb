"""Progress of a long verb: a bar on a terminal, lines otherwise; always on standard error.

rich is imported only when there is a terminal to show something on.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

_WORDS = {"create": "creating pods", "start": "starting pods"}
_LINES = 10
"""How many lines a stage may take where there is no terminal."""


class Progress(Protocol):
    """Told how far a stage has come."""

    def tell(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` pods are through `stage` ("create" or "start")."""


class Silent:
    """Shows nothing."""

    def tell(self, stage: str, done: int, total: int) -> None:
        """Nothing."""


class Lines:
    """Writes a line now and then."""

    def __init__(self) -> None:
        self._shown = (" ", -1)

    def tell(self, stage: str, done: int, total: int) -> None:
        """A line for every tenth of the stage."""
        tenth = done * _LINES // total if total else _LINES
        if total < 2 or (stage, tenth) == self._shown:
            return
        self._shown = (stage, tenth)
        print(f"{_WORDS.get(stage, stage)}: {done}/{total}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def open_progress(*, is_quiet: bool) -> Iterator[Progress]:
    """What fits where standard error leads."""
    if is_quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield bar
    else:
        yield Lines()


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        class Bar:
            """Moves one bar per stage."""

            def tell(self, stage: str, done: int, total: int) -> None:
                """Draw it."""
                if stage not in tasks:
                    tasks[stage] = bars.add_task(_WORDS.get(stage, stage), total=total)
                bars.update(tasks[stage], completed=done, total=total)

        yield Bar()
