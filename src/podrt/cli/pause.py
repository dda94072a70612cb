"""`podrt pod pause | unpause`, `podrt pause | unpause`."""

from __future__ import annotations

import argparse

from podrt.config import Settings
from podrt.model.states import ContainerState
from podrt.runtime.runtime import Runtime

from .flags import Parser
from .pod import choose_pods, pods_flags, report_pods
from .run_async import run
from .selected import act_on_selected, selection_flags


def pause_pods_flags(parser: Parser) -> None:
    """Flags of `pod pause`."""
    pods_flags(parser, "pause")


def pause_pods(args: argparse.Namespace, settings: Settings) -> int:
    """Freeze the running containers of pods."""

    async def verb(runtime: Runtime) -> int:
        chosen = choose_pods(runtime, args)
        return report_pods(chosen, await runtime.pause_pods(chosen.pods))

    return run(settings, verb)


def unpause_pods_flags(parser: Parser) -> None:
    """Flags of `pod unpause`."""
    pods_flags(parser, "unpause")


def unpause_pods(args: argparse.Namespace, settings: Settings) -> int:
    """Thaw the paused containers of pods."""

    async def verb(runtime: Runtime) -> int:
        chosen = choose_pods(runtime, args)
        return report_pods(chosen, await runtime.unpause_pods(chosen.pods))

    return run(settings, verb)


def pause_flags(parser: Parser) -> None:
    """Flags of `pause`."""
    selection_flags(parser, "pause")


def pause(args: argparse.Namespace, settings: Settings) -> int:
    """Freeze containers."""
    return act_on_selected(
        args,
        settings,
        lambda container: container.pause(),
        of_all=lambda runtime, one: runtime.view.state(one) is ContainerState.RUNNING,
    )


def unpause_flags(parser: Parser) -> None:
    """Flags of `unpause`."""
    selection_flags(parser, "unpause")


def unpause(args: argparse.Namespace, settings: Settings) -> int:
    """Thaw containers."""
    return act_on_selected(
        args,
        settings,
        lambda container: container.unpause(),
        of_all=lambda runtime, one: runtime.view.state(one) is ContainerState.PAUSED,
    )
