"""`podrt start | stop | kill | rm | wait`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Awaitable, Callable, Sequence

import trio

from podrt.config import Settings
from podrt.errors import InvalidConfig, InvalidState, NotFound, PodrtError, Removed
from podrt.linux import signals
from podrt.runtime.container import Container
from podrt.runtime.runtime import Runtime

from .errors import exit_code, print_error
from .filters import Filters, check_container_filters, container_matches
from .flags import Parser, read_id
from .pod import seconds
from .run_async import run
from .selected import act_on_selected

NO_SUCH = 1
STILL_RUNNING = 2


def container_flags(parser: Parser) -> None:
    """The flags that say which containers a verb is for."""
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="names or IDs")
    parser.switch("--all", "-a", help="all containers")
    parser.switch("--latest", "-l", help="the newest container")


def picked_flags(parser: Parser) -> None:
    """`container_flags`, and those that pick containers in other ways."""
    container_flags(parser)
    parser.many("--cidfile", metavar="FILE", help="read an ID from the file")
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="those that ps would list")


def start_flags(parser: Parser) -> None:
    """Flags of `start`."""
    container_flags(parser)
    parser.many("--filter", "-f", metavar="KEY=VALUE", help="those that ps would list")


def start(args: argparse.Namespace, settings: Settings) -> int:
    """Start containers, all at once."""
    if args.filter:
        args.cidfile = []
        return act_on_selected(
            args, settings, lambda container: container.start(), of_all=lambda *_: True
        )
    return for_each(args, settings, lambda container: container.start())


def stop_flags(parser: Parser) -> None:
    """Flags of `stop`."""
    picked_flags(parser)
    parser.switch("--ignore", "-i", help="pass over containers that do not exist")
    parser.add_argument("--time", "-t", "--timeout", default=None, metavar="SECONDS", help="grace")


def stop(args: argparse.Namespace, settings: Settings) -> int:
    """Stop containers, all at once."""
    timeout_s = seconds("--time", args.time)
    return for_each(
        args, settings, lambda container: container.stop(timeout_s=timeout_s), ignore=args.ignore
    )


def kill_flags(parser: Parser) -> None:
    """Flags of `kill`."""
    container_flags(parser)
    parser.many("--cidfile", metavar="FILE", help="read an ID from the file")
    parser.add_argument("--signal", "-s", default="KILL", help="the signal; KILL")


def kill(args: argparse.Namespace, settings: Settings) -> int:
    """Send a signal to containers."""
    number = signals.number(args.signal)
    return for_each(args, settings, lambda container: container.kill(number))


def remove_flags(parser: Parser) -> None:
    """Flags of `rm`."""
    container_flags(parser)
    parser.many("--cidfile", metavar="FILE", help="read an ID from the file")
    parser.many("--filter", metavar="KEY=VALUE", help="those that ps would list")
    parser.switch("--depend", help="also remove those that depend on it")
    parser.switch("--force", "-f", help="stop what runs")
    parser.switch("--ignore", "-i", help="pass over containers that do not exist")
    parser.add_argument("--time", "-t", default=None, metavar="SECONDS", help="grace; needs -f")


def remove(args: argparse.Namespace, settings: Settings) -> int:
    """Remove containers: 1 when one does not exist, 2 when one runs, else 125 on errors."""
    timeout_s = seconds("--time", args.time)
    if timeout_s is not None and not args.force:
        raise InvalidConfig("--time", "must be used with --force")

    async def verb(runtime: Runtime) -> int:
        code = 0
        is_ignored = args.ignore or args.force
        named = chosen_containers(runtime, args, ignore=is_ignored)
        if args.depend:
            named = _with_dependents(runtime, named)
        # Of all of them the newest first: what others need is older than they are.
        for word, container in reversed(named) if args.all or args.filter else named:
            error = container if isinstance(container, PodrtError) else None
            if isinstance(container, Container):
                error = await _attempt(container.remove(force=args.force, timeout_s=timeout_s))
            if isinstance(error, Removed) and is_ignored:
                continue
            if error is None:
                print(word)
            else:
                print_error(error)
                code = max(code, _remove_code(error))
        return code

    return run(settings, verb)


def _with_dependents(runtime: Runtime, named: Named) -> Named:
    """Each container behind all that need it, in whatever way."""
    found: dict[str, tuple[str, Container | PodrtError]] = {}

    def add(word: str, container: Container) -> None:
        record = container.record()
        for member in runtime.view.members(record.pod_id):
            if any(edge.on == container.id for edge in member.config.requires):
                add(member.id, runtime.container(member.id))
        found.setdefault(container.id, (word, container))

    for word, container in named:
        if isinstance(container, Container):
            add(word, container)
        else:
            found[word] = (word, container)
    return list(found.values())


def _remove_code(error: PodrtError) -> int:
    if isinstance(error, NotFound | Removed):
        return NO_SUCH
    if isinstance(error, InvalidState):
        return STILL_RUNNING
    return exit_code(error)


def rename_flags(parser: Parser) -> None:
    """Flags of `rename`."""
    parser.add_argument(
        "words", nargs="*", metavar="CONTAINER NAME", help="which, and its new name"
    )


def rename(args: argparse.Namespace, settings: Settings) -> int:
    """Give a container another name."""
    if len(args.words) != 2:
        raise InvalidConfig("", f"accepts 2 arg(s), received {len(args.words)}")
    word, name = args.words

    async def verb(runtime: Runtime) -> int:
        await runtime.container(word).rename(name)
        return 0

    return run(settings, verb)


def wait_flags(parser: Parser) -> None:
    """Flags of `wait`."""
    container_flags(parser)
    parser.switch("--ignore", help="print -1 for containers that do not exist")


def wait(args: argparse.Namespace, settings: Settings) -> int:
    """Wait for containers, then print their exit codes in the order they were named."""

    async def verb(runtime: Runtime) -> int:
        code = 0
        for _, container in chosen_containers(runtime, args, ignore=False):
            if isinstance(container, Container):
                error = await _attempt(_print_code(container))
                if error is not None:
                    print_error(error)
                    code = exit_code(error)
            elif args.ignore:
                print(-1)
            else:
                print_error(container)
                code = exit_code(container)
        return code

    return run(settings, verb)


async def _print_code(container: Container) -> None:
    print(await container.wait(), flush=True)


Named = Sequence[tuple[str, Container | PodrtError]]


def chosen_containers(runtime: Runtime, args: argparse.Namespace, *, ignore: bool) -> Named:
    """The containers that the arguments name, each with its word; NotFound where there is none."""
    words = [*args.containers, *_words_of_files(args, ignore=ignore)]
    filters = Filters(getattr(args, "filter", ()))
    if args.all or args.latest or filters.values:
        if words:
            flag = "--all" if args.all else "--latest" if args.latest else "--filter"
            raise InvalidConfig("", f"{flag} and arguments cannot be used together")
        check_container_filters(filters)
        found = [
            one
            for one in runtime.containers()
            if not one.record().config.is_infra
            and container_matches(runtime.view, one.record(), filters)
        ]
        found = found[-1:] if args.latest else found
        return [(container.id, container) for container in found]
    if not words and not getattr(args, "cidfile", ()):
        raise InvalidConfig("", "you must provide at least one name or id")
    named: list[tuple[str, Container | PodrtError]] = []
    for word in dict.fromkeys(words):
        try:
            named.append((word, runtime.container(word)))
        except PodrtError as exc:
            if not (ignore and isinstance(exc, NotFound)):
                named.append((word, exc))
    return named


def _words_of_files(args: argparse.Namespace, *, ignore: bool) -> list[str]:
    """The IDs in the files of --cidfile; with `ignore` a file need not be there."""
    paths = [path for path in getattr(args, "cidfile", ()) if os.path.exists(path) or not ignore]
    return [read_id("--cidfile", path) for path in paths]


async def _attempt(verb: Awaitable[None]) -> PodrtError | None:
    try:
        await verb
    except PodrtError as exc:
        return exc
    return None


def for_each(
    args: argparse.Namespace,
    settings: Settings,
    verb: Callable[[Container], Awaitable[None]],
    *,
    ignore: bool = False,
) -> int:
    """Do `verb` to every container at once; print the words of those that are well."""

    async def act(runtime: Runtime) -> int:
        named = chosen_containers(runtime, args, ignore=ignore)
        results: dict[str, PodrtError | None] = {}

        async def one(word: str, container: Container | PodrtError) -> None:
            if isinstance(container, PodrtError):
                results[word] = container
            else:
                results[word] = await _attempt(verb(container))

        async with trio.open_nursery() as nursery:
            for word, container in named:
                nursery.start_soon(one, word, container)
        return _report(named, results)

    return run(settings, act)


def _report(named: Named, results: dict[str, PodrtError | None]) -> int:
    code = 0
    for word, _ in named:
        error = results[word]
        if error is None:
            print(word)
        else:
            print_error(error)
            code = max(code, exit_code(error))
    return code
