"""Which containers a verb is for: names, files with IDs, filters, the newest, all of a kind."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

import trio

from podrt.config import Settings
from podrt.errors import InvalidConfig, PodrtError
from podrt.runtime.container import Container
from podrt.runtime.runtime import Runtime
from podrt.store.records import ContainerRecord

from .errors import exit_code, print_error
from .filters import Filters, container_matches
from .flags import Parser, read_id
from .run_async import run

Act = Callable[[Container], Awaitable[None]]
Wanted = Callable[[Runtime, ContainerRecord], bool]


def selection_flags(parser: Parser, verb: str) -> None:
    """The flags of verbs whose containers are all looked up before one is touched."""
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="names or IDs")
    parser.switch("--all", "-a", help=f"{verb} every container that can be")
    parser.switch("--latest", "-l", help=f"{verb} the newest container")
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="those that ps would list")
    parser.many("--cidfile", metavar="FILE", help="read an ID from the file")


def act_on_selected(
    args: argparse.Namespace, settings: Settings, act: Act, *, of_all: Wanted
) -> int:
    """Do `act` to every selected container at once; print the words of those that are well.

    Of all containers `--all` takes those that `of_all` names. Raises: NotFound before any is
    touched.
    """

    async def verb(runtime: Runtime) -> int:
        selected = _select(runtime, args, of_all)
        results: dict[str, PodrtError | None] = dict.fromkeys(selected)

        async def attempt(word: str, container: Container) -> None:
            try:
                await act(container)
            except PodrtError as exc:
                results[word] = exc

        async with trio.open_nursery() as nursery:
            for word, container in selected.items():
                nursery.start_soon(attempt, word, container)
        return report_words(results)

    return run(settings, verb)


def report_words(results: dict[str, PodrtError | None]) -> int:
    """Print the words of what is well, a line for each failure; the exit code."""
    code = 0
    for word, error in results.items():
        if error is None:
            print(word)
        else:
            print_error(error)
            code = max(code, exit_code(error))
    return code


def _select(runtime: Runtime, args: argparse.Namespace, of_all: Wanted) -> dict[str, Container]:
    """The containers by the words that named them, none of them twice."""
    words = [*args.containers, *(read_id("--cidfile", path) for path in args.cidfile)]
    if args.all or args.latest or args.filter:
        if words:
            flag = "--all" if args.all else "--latest" if args.latest else "--filter"
            raise InvalidConfig("", f"no arguments are needed with {flag}")
        return _listed(runtime, args, of_all)
    if not words:
        raise InvalidConfig("", "you must provide at least one name or id")
    found: dict[str, Container] = {}
    for word in words:
        container = runtime.container(word)
        if container.id not in [known.id for known in found.values()]:
            found[word] = container
    return found


def _listed(runtime: Runtime, args: argparse.Namespace, of_all: Wanted) -> dict[str, Container]:
    filters = Filters(args.filter)
    found = {}
    for container in runtime.containers():
        record = container.record()
        if record.config.is_infra or not container_matches(runtime.view, record, filters):
            continue
        if args.latest or of_all(runtime, record):
            found[container.id] = container
    newest = list(found.items())[-1:]
    return dict(newest) if args.latest else found
