"""`podrt pod clone` and `podrt container clone`."""

from __future__ import annotations

import argparse

import msgspec

from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.runtime.runtime import Runtime

from .flags import Parser
from .pod_flags import add_override_flags, overrides, with_volumes
from .resources import add_limit_flags, limits_of
from .run_async import run


def clone_pod_flags(parser: Parser) -> None:
    """Flags of `pod clone`."""
    parser.add_argument("words", nargs="*", metavar="POD [NAME]", help="the original, its clone")
    parser.switch("--destroy", help="remove the original")
    parser.switch("--start", help="start the clone")
    add_override_flags(parser)


def clone_pod(args: argparse.Namespace, settings: Settings) -> int:
    """Copy a pod with its containers, and print the copy's ID."""
    original, name = _words(args, most=2)[:2]
    given = msgspec.structs.replace(overrides(args), name=name or args.name)

    async def verb(runtime: Runtime) -> str:
        pod = runtime.pod(original)
        clone = await runtime.clone_pod(pod, with_volumes(runtime, args, given))
        if args.destroy:
            await pod.remove(force=True)
        if args.start:
            await clone.start()
        return clone.id

    print(run(settings, verb))
    return 0


def clone_container_flags(parser: Parser) -> None:
    """Flags of `container clone`."""
    metavar = "CONTAINER [NAME [IMAGE]]"
    parser.add_argument("words", nargs="*", metavar=metavar, help="the original, its clone")
    parser.add_argument("--name", default="", help="the clone's name")
    parser.add_argument("--pod", default=None, help="the pod to be in")
    parser.switch("--destroy", help="remove the original")
    parser.switch("--force", "-f", help="with --destroy: also if it runs")
    parser.switch("--run", help="start the clone")
    add_limit_flags(parser)


def clone_container(args: argparse.Namespace, settings: Settings) -> int:
    """Copy a container, and print the copy's ID."""
    original, name, image = _words(args, most=3)
    if args.force and not args.destroy:
        raise InvalidConfig("", "cannot set --force without --destroy")
    limits = limits_of(args)

    async def verb(runtime: Runtime) -> str:
        container = runtime.container(original)
        clone = await runtime.clone_container(
            container, name=name or args.name, image=image, pod=args.pod, limits=limits
        )
        if args.destroy:
            await container.remove(force=args.force)
        if args.run:
            await clone.start()
        return clone.id

    print(run(settings, verb))
    return 0


def _words(args: argparse.Namespace, *, most: int) -> list[str]:
    """The original and what else is named, "" for what is not. Raises: InvalidConfig."""
    words = list(args.words)
    if not 1 <= len(words) <= most:
        raise InvalidConfig("", f"accepts between 1 and {most} arg(s), received {len(words)}")
    return [*words, *[""] * (3 - len(words))]
