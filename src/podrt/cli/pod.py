"""`podrt pod create | start | stop | kill | rm`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from podrt.config import Settings
from podrt.errors import InvalidConfig, NotFound, PodrtError, Removed, WalkFailed
from podrt.linux import files, signals
from podrt.runtime.pod import Pod
from podrt.runtime.runtime import Results, Runtime
from podrt.runtime.timeline import Timeline

from .errors import FAILED, exit_code, print_error
from .flags import Parser, read_id, whole_number
from .pod_flags import add_pod_flags, pod_config, with_volumes
from .run_async import run

NO_SUCH = 1


def create_flags(parser: Parser) -> None:
    """Flags of `pod create`."""
    parser.add_argument("names", nargs="?", metavar="NAME", help="the pod's name")
    parser.add_argument("--pod-id-file", default="", metavar="FILE", help="write the ID there")
    parser.switch("--replace", help="remove a pod of that name first")
    add_pod_flags(parser)


def create(args: argparse.Namespace, settings: Settings) -> int:
    """Create a pod and print its ID."""
    if args.names and args.name:
        raise InvalidConfig("--name", "the name is given twice")
    args.name = args.name or args.names or ""
    config = pod_config(args)
    if args.replace and not config.name:
        raise InvalidConfig("", "cannot replace pod without a name: --replace needs --name")
    if args.pod_id_file and os.path.exists(args.pod_id_file):
        raise InvalidConfig("--pod-id-file", f"{args.pod_id_file} exists already")

    async def verb(runtime: Runtime) -> str:
        wanted = with_volumes(runtime, args, config)
        return (await runtime.create_pod(wanted, replace=args.replace)).id

    pod_id = run(settings, verb)
    if args.pod_id_file:
        files.write_atomically(args.pod_id_file, pod_id.encode(), 0o644)
    print(pod_id)
    return 0


def pods_flags(parser: Parser, verb: str) -> None:
    """The flags that say which pods a verb is for."""
    parser.add_argument("pods", nargs="*", metavar="POD", help="names or IDs")
    parser.switch("--all", "-a", help=f"{verb} all pods")
    parser.switch("--latest", "-l", help=f"{verb} the newest pod")


def _add_id_files(parser: Parser) -> None:
    parser.many("--pod-id-file", metavar="FILE", help="read an ID from the file")


def start_flags(parser: Parser) -> None:
    """Flags of `pod start`."""
    pods_flags(parser, "start")
    _add_id_files(parser)
    parser.add_argument(
        "--timeline",
        default="",
        metavar="FILE",
        help="write when each container waited and ran: a trace for Perfetto; .svg: a picture",
    )


def start(args: argparse.Namespace, settings: Settings) -> int:
    """Start pods, all at once."""

    async def verb(runtime: Runtime) -> int:
        chosen = choose_pods(runtime, args)
        with _timeline_in(args.timeline) as timeline:
            results = await runtime.start_pods(chosen.pods, timeline=timeline)
        return report_pods(chosen, results)

    return run(settings, verb)


def _timeline_in(path: str) -> AbstractContextManager[Timeline | None]:
    if not path:
        return nullcontext()
    # Only who asks for one waits until what writes it is loaded.
    from .timeline import writing

    return writing(path)


def stop_flags(parser: Parser) -> None:
    """Flags of `pod stop`."""
    pods_flags(parser, "stop")
    _add_id_files(parser)
    parser.add_argument("--time", "-t", "--timeout", default=None, metavar="SECONDS", help="grace")
    parser.switch("--ignore", "-i", help="pass over pods that do not exist")


def stop(args: argparse.Namespace, settings: Settings) -> int:
    """Stop pods, dependents first."""
    timeout_s = seconds("--time", args.time)

    async def verb(runtime: Runtime) -> int:
        chosen = choose_pods(runtime, args, ignore=args.ignore)
        return report_pods(chosen, await runtime.stop_pods(chosen.pods, timeout_s=timeout_s))

    return run(settings, verb)


def kill_flags(parser: Parser) -> None:
    """Flags of `pod kill`."""
    pods_flags(parser, "kill")
    parser.add_argument("--signal", "-s", default="KILL", help="the signal; KILL")


def kill(args: argparse.Namespace, settings: Settings) -> int:
    """Send a signal to the running containers of pods."""
    number = signals.number(args.signal)

    async def verb(runtime: Runtime) -> int:
        chosen = choose_pods(runtime, args)
        return report_pods(chosen, await runtime.kill_pods(chosen.pods, number))

    return run(settings, verb)


def remove_flags(parser: Parser) -> None:
    """Flags of `pod rm`."""
    pods_flags(parser, "remove")
    _add_id_files(parser)
    parser.switch("--force", "-f", help="stop what runs")
    parser.switch("--ignore", "-i", help="pass over pods that do not exist")
    parser.add_argument("--time", "-t", default=None, metavar="SECONDS", help="grace; needs -f")


def remove(args: argparse.Namespace, settings: Settings) -> int:
    """Remove pods."""
    timeout_s = seconds("--time", args.time)
    if timeout_s is not None and not args.force:
        raise InvalidConfig("--time", "must be used with --force")

    async def verb(runtime: Runtime) -> int:
        try:
            chosen = choose_pods(runtime, args, ignore=args.ignore or args.force)
        except NotFound as exc:
            print_error(exc)
            return NO_SUCH
        results = await runtime.remove_pods(chosen.pods, force=args.force, timeout_s=timeout_s)
        if args.ignore or args.force:
            # Another command was faster, which is as good as there being no such pod.
            chosen = chosen.without(
                pod_id for pod_id, result in results.items() if isinstance(result, Removed)
            )
        return report_pods(chosen, results)

    return run(settings, verb)


def seconds(flag: str, text: str | None) -> int | None:
    """A grace period; -1 waits for ever. Raises: InvalidConfig."""
    number = whole_number(flag, text)
    if number is not None and number < -1:
        raise InvalidConfig(flag, f"{text} is negative")
    return _FOR_EVER if number == -1 else number


_FOR_EVER = 10**9


class ChosenPods:
    """The pods of a command, each with the word it was named by."""

    def __init__(self, pods: Sequence[Pod], words: Sequence[str]) -> None:
        self.pods = pods
        self.words = words

    def without(self, ids: Iterable[str]) -> ChosenPods:
        """The others."""
        gone = set(ids)
        kept = [
            (pod, word)
            for pod, word in zip(self.pods, self.words, strict=True)
            if pod.id not in gone
        ]
        return ChosenPods([pod for pod, _ in kept], [word for _, word in kept])


def choose_pods(runtime: Runtime, args: argparse.Namespace, *, ignore: bool = False) -> ChosenPods:
    """The pods that the arguments name. Raises: NotFound, InvalidConfig."""
    files = getattr(args, "pod_id_file", ())
    if files and (args.all or args.latest):
        raise InvalidConfig("", "--all, --latest, and --pod-id-file cannot be used together")
    if files and args.pods:
        raise InvalidConfig("", "no arguments are needed with --pod-id-file")
    if args.all or args.latest:
        if args.pods:
            raise InvalidConfig("", "--all or --latest and arguments cannot be used together")
        pods = runtime.pods()
        pods = pods if args.all else pods[-1:]
        return ChosenPods(pods, [pod.id for pod in pods])
    words_given = args.pods or [read_id("--pod-id-file", path) for path in files]
    if not words_given:
        raise InvalidConfig("", "you must provide at least one name or id")
    pods, words = [], []
    for word in dict.fromkeys(words_given):
        try:
            pod = runtime.pod(word)
        except NotFound:
            if not ignore:
                raise
            continue
        if pod.id not in [known.id for known in pods]:
            pods.append(pod)
            words.append(word)
    return ChosenPods(pods, words)


def report_pods(chosen: ChosenPods, results: Results) -> int:
    """Print the words of the pods that are well, a line for each failure; the exit code."""
    code = 0
    for pod, word in zip(chosen.pods, chosen.words, strict=True):
        error = _error_of(results[pod.id])
        if error is None:
            print(word)
            continue
        print_error(error)
        code = max(code, FAILED if isinstance(error, WalkFailed) else exit_code(error))
    return code


def _error_of(result: object) -> PodrtError | None:
    if isinstance(result, PodrtError):
        return result
    assert isinstance(result, dict)
    failed = any(error is not None for error in result.values())
    return WalkFailed("walk", result) if failed else None
