"""`podrt update` and `podrt pod update`: new limits and restart policies for what exists."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.model.resources import Resources
from podrt.runtime.runtime import Runtime

from .flags import Parser
from .resources import add_limit_flags, limits_of
from .run_async import run


def update_flags(parser: Parser) -> None:
    """Flags of `update`."""
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="name or ID")
    _flags(parser, "no, always, on-failure[:N], unless-stopped; '' the pod's")


def update(args: argparse.Namespace, settings: Settings) -> int:
    """Give a container new limits or another restart policy; the rest stays as it is."""
    limits = _wanted(args, args.containers)

    async def verb(runtime: Runtime) -> str:
        container = runtime.container(args.containers[0])
        await container.update(limits, restart_policy=args.restart)
        return container.id

    print(run(settings, verb))
    return 0


def update_pod_flags(parser: Parser) -> None:
    """Flags of `pod update`, which podman does not have."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="name or ID")
    _flags(parser, "its containers' default: no, always, on-failure[:N], unless-stopped")


def update_pod(args: argparse.Namespace, settings: Settings) -> int:
    """Give a pod as a whole new limits, or its members another default restart policy."""
    limits = _wanted(args, args.pods)

    async def verb(runtime: Runtime) -> str:
        pod = runtime.pod(args.pods[0])
        await pod.update(limits, restart_policy=args.restart)
        return pod.id

    print(run(settings, verb))
    return 0


def _flags(parser: Parser, policies: str) -> None:
    parser.add_argument("--restart", default=None, metavar="POLICY", help=policies)
    parser.add_argument("--pids-limit", default=None, metavar="NUMBER", help="processes; -1 any")
    add_limit_flags(parser)


def _wanted(args: argparse.Namespace, words: list[str]) -> Resources:
    if len(words) != 1:
        raise InvalidConfig("", f"accepts 1 arg(s), received {len(words)}")
    limits = limits_of(args, args.pids_limit)
    if limits.is_unset and args.restart is None:
        raise InvalidConfig("", "nothing to update: no limit and no restart policy is given")
    return limits
