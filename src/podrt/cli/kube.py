"""`podrt kube play` and `podrt kube down`."""

from __future__ import annotations

import argparse
import sys

from podrt.config import Settings
from podrt.kube.down import down as take_down
from podrt.kube.plans import parse_files
from podrt.kube.play import Played
from podrt.kube.play import play as play_plans
from podrt.runtime.runtime import Runtime

from .errors import FAILED, print_error
from .flags import Parser
from .pod import seconds
from .progress import Progress, open_progress
from .run_async import run


def _file_flags(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="YAML files; - is standard input")


def play_flags(parser: Parser) -> None:
    """Flags of `kube play`."""
    _file_flags(parser)
    parser.switch("--start", default=True, help="start the pods")
    parser.switch("--replace", help="remove pods of the same names first")
    parser.switch("--down", help="remove the pods instead")
    parser.switch("--quiet", "-q", help="no progress")


def play(args: argparse.Namespace, settings: Settings) -> int:
    """Make and start the pods of YAML files; print their IDs as podman does."""
    if args.down:
        args.time = None
        return down(args, settings)
    plans = parse_files(args.files)
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        print(f"Note: {note}", file=sys.stderr)

    async def verb(runtime: Runtime, progress: Progress) -> list[Played]:
        return await play_plans(
            runtime, plans, start=args.start, replace=args.replace, progress=progress.tell
        )

    with open_progress(is_quiet=args.quiet) as progress:
        played = run(settings, lambda runtime: verb(runtime, progress))
    return _show(played)


def _show(played: list[Played]) -> int:
    code = 0
    for pod in played:
        print(
            "Pod:",
            pod.pod_id,
            "Container:" if len(pod.containers) == 1 else "Containers:",
            sep="\n",
        )
        for _, container_id in pod.containers:
            print(container_id)
        print()
    for pod in played:
        for error in pod.errors:
            print_error(error, f"pod {pod.pod_name}: ")
            code = FAILED
    return code


def down_flags(parser: Parser) -> None:
    """Flags of `kube down`."""
    _file_flags(parser)
    parser.add_argument("--time", "-t", default=None, metavar="SECONDS", help="grace period")
    parser.switch("--force", help="accepted; a pod's own volumes always go with it")


def down(args: argparse.Namespace, settings: Settings) -> int:
    """Stop and remove the pods of YAML files; pods that are not there are no error."""
    plans = parse_files(args.files)
    timeout_s = seconds("--time", args.time)
    results = run(settings, lambda runtime: take_down(runtime, plans, timeout_s=timeout_s))
    code = 0
    print("Pods removed:")
    for one in results:
        if one.error is not None:
            print_error(one.error, f"pod {one.pod_name}: ")
            code = FAILED
        elif not one.was_absent:
            print(one.pod_id)
    return code
