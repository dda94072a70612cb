"""`podrt pod prune` and `podrt container prune`."""

from __future__ import annotations

import argparse
import sys

from podrt.config import Settings
from podrt.errors import InvalidConfig
from podrt.runtime.runtime import Runtime
from podrt.store.records import ContainerRecord

from .filters import Filters
from .flags import Parser
from .moments import point_in_time_ns
from .run_async import run
from .selected import report_words

_KEYS = frozenset({"label", "label!", "until"})


def prune_pods_flags(parser: Parser) -> None:
    """Flags of `pod prune`."""
    parser.switch("--force", "-f", help="do not ask")


def prune_pods(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the pods that are Exited or Stopped, and print their IDs."""
    if not args.force and not _agrees("This will remove all stopped/exited pods.."):
        return 0

    async def verb(runtime: Runtime) -> int:
        return report_words(await runtime.prune_pods())

    return run(settings, verb)


def prune_containers_flags(parser: Parser) -> None:
    """Flags of `container prune`."""
    parser.switch("--force", "-f", help="do not ask")
    parser.many("--filter", metavar="KEY=VALUE", help="label, label!, until")


def prune_containers(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the containers outside of pods that do not run, and print their IDs."""
    filters = Filters(args.filter)
    filters.check(_KEYS)
    before_ns = [
        point_in_time_ns("--filter until", text) for text in filters.values.get("until", [])
    ]
    if not args.force and not _agrees("This will remove all non running containers."):
        return 0

    def wanted(record: ContainerRecord) -> bool:
        has, lacks = filters.values.get("label", []), filters.values.get("label!", [])
        return (
            all(record.created_at_ns < limit for limit in before_ns)
            and all(_has_label(record, word) for word in has)
            and not any(_has_label(record, word) for word in lacks)
        )

    async def verb(runtime: Runtime) -> int:
        return report_words(await runtime.prune_containers(wanted))

    return run(settings, verb)


def _has_label(record: ContainerRecord, word: str) -> bool:
    key, equals, value = word.partition("=")
    labels = record.config.labels
    return key in labels and (not equals or labels[key] == value)


def _agrees(warning: str) -> bool:
    """Whether the user says yes. Raises: InvalidConfig when there is nobody to say anything."""
    question = f"WARNING! {warning}\nAre you sure you want to continue? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise InvalidConfig("", "EOF: nobody answers, use --force")
    return answer.strip().lower() == "y"
