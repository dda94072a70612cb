"""`podrt pod restart` and `podrt restart`."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.model.states import ContainerState
from podrt.runtime.runtime import Runtime
from podrt.store.records import ContainerRecord

from .flags import Parser
from .pod import choose_pods, pods_flags, report_pods, seconds
from .run_async import run
from .selected import act_on_selected, selection_flags


def restart_pods_flags(parser: Parser) -> None:
    """Flags of `pod restart`; podman's has no `--time`."""
    pods_flags(parser, "restart")
    _add_time(parser)


def restart_pods(args: argparse.Namespace, settings: Settings) -> int:
    """Stop pods, dependents first, and start all their containers."""
    timeout_s = _grace(args)

    async def verb(runtime: Runtime) -> int:
        chosen = choose_pods(runtime, args)
        return report_pods(chosen, await runtime.restart_pods(chosen.pods, timeout_s=timeout_s))

    return run(settings, verb)


def restart_flags(parser: Parser) -> None:
    """Flags of `restart`."""
    selection_flags(parser, "restart")
    parser.switch("--running", help="restart the containers that run")
    _add_time(parser)


def restart(args: argparse.Namespace, settings: Settings) -> int:
    """Stop containers and start them again; those that do not run are started."""
    timeout_s = _grace(args)
    args.all = args.all or (args.running and not args.containers and not args.latest)

    def of_all(runtime: Runtime, one: ContainerRecord) -> bool:
        state = runtime.view.state(one)
        return state is ContainerState.RUNNING if args.running else True

    return act_on_selected(
        args, settings, lambda container: container.restart(timeout_s=timeout_s), of_all=of_all
    )


def _add_time(parser: Parser) -> None:
    parser.add_argument("--time", "-t", "--timeout", default=None, metavar="SECONDS", help="grace")


def _grace(args: argparse.Namespace) -> int | None:
    """A grace period has an end here: what never stops could not be started again."""
    if args.time is not None and args.time.startswith("-"):
        raise InvalidConfig("--time", f"{args.time} is negative")
    return seconds("--time", args.time)
