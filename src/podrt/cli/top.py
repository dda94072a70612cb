"""`podrt pod top` and `podrt top`: reading, without Trio and without a lock."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from podrt.cgroups.managers import open_manager
from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.model.states import ContainerState
from podrt.runtime.top import Task, processes_of
from podrt.runtime.view import View, open_view
from podrt.store.records import ContainerRecord

from .columns import COLUMNS, find_columns
from .flags import Parser
from .output import print_table


def top_flags(parser: Parser) -> None:
    """Flags of `top`."""
    _flags(parser, "container")


def top(args: argparse.Namespace, settings: Settings) -> int:
    """Show the processes of a running container."""
    with open_view(settings) as view:
        records = [record for record in view.containers() if not record.config.is_infra]
        word, descriptors = _split(args, "container", [record.id for record in records])
        return _show(settings, view, [view.container(word)], descriptors)


def top_pod_flags(parser: Parser) -> None:
    """Flags of `pod top`."""
    _flags(parser, "pod")


def top_pod(args: argparse.Namespace, settings: Settings) -> int:
    """Show the processes of a pod's running containers."""
    with open_view(settings) as view:
        word, descriptors = _split(args, "pod", [pod.id for pod in view.pods()])
        running = [
            member
            for member in view.members(view.pod(word).id)
            if member.config.has_program and view.state(member) is ContainerState.RUNNING
        ]
        return _show(settings, view, running, descriptors)


def _flags(parser: Parser, what: str) -> None:
    parser.switch("--latest", "-l", help=f"the newest {what}")
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar=f"{what.upper()} [DESCRIPTOR ...]",
        help=", ".join(COLUMNS),
    )


def _split(args: argparse.Namespace, what: str, ids: Sequence[str]) -> tuple[str, list[str]]:
    """What to look at, and the descriptors. Raises: InvalidConfig."""
    if args.latest and ids:
        return ids[-1], args.words
    if args.latest or not args.words:
        raise InvalidConfig("", f"you must provide the name or id of a running {what}")
    return args.words[0], args.words[1:]


def _show(
    settings: Settings, view: View, records: Sequence[ContainerRecord], descriptors: Sequence[str]
) -> int:
    columns = find_columns(descriptors)
    cgroups = open_manager(settings.cgroup_manager)
    try:
        tasks: list[Task] = []
        for record in records:
            tasks += processes_of(view, cgroups, record)
    finally:
        cgroups.close()
    rows = [[_shown(column.cell(task)) for column in columns] for task in tasks]
    print_table([column.head for column in columns], rows, with_heads=True)
    return 0


def _shown(cell: str) -> str:
    """A cell without what would write elsewhere on the terminal: processes name themselves."""
    return "".join(char if char.isprintable() else "?" for char in cell)
