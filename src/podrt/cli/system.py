"""`podrt system check`, `podrt info`, `podrt version`, `podrt debug plan`."""

from __future__ import annotations

import argparse
import os
import sys

import podrt
from podrt.config import Settings
from podrt.errors import NotFound
from podrt.runtime.view import open_view

from .flags import Parser
from .output import check_format, print_json
from .version import version_text

FOUND = 1


def check_flags(parser: Parser) -> None:
    """Flags of `system check`."""
    parser.switch("--repair", "-r", help="mend what can be mended")
    parser.switch("--quick", "-q", help="accepted")
    parser.add_argument("--format", default=None, metavar="json", help="json")


def check(args: argparse.Namespace, settings: Settings) -> int:
    """Print what does not fit together; 1 when something is left that does not."""
    from podrt.runtime.check import Finding, repair_store
    from podrt.runtime.runtime import Runtime

    from .run_async import run

    async def verb(runtime: Runtime) -> list[Finding]:
        return await runtime.check(repair=args.repair)

    findings = repair_store(settings) if args.repair else []
    findings += run(settings, verb)
    if check_format(args.format):
        print_json(findings)
    for finding in findings if not args.format else ():
        end = " (repaired)" if finding.is_repaired else ""
        print(f"{finding.kind} {finding.what}: {finding.problem}{end}")
    return FOUND if any(not finding.is_repaired for finding in findings) else 0


def info_flags(parser: Parser) -> None:
    """Flags of `info`."""
    parser.add_argument("--format", "-f", default="json", metavar="json", help="json")


def info(args: argparse.Namespace, settings: Settings) -> int:
    """Print as JSON what podrt works with here."""
    check_format(args.format)
    from podrt.linux import features
    from podrt.model.states import ALIVE
    from podrt.store.records import ImageRecord

    with open_view(settings) as view:
        pods, containers = view.pods(), view.containers()
        running = sum(view.state(record) in ALIVE for record in containers)
        images = len(view.store.tables.ids(ImageRecord))
    print_json(
        {
            "host": {
                "arch": os.uname().machine,
                "cgroupManager": settings.cgroup_manager,
                "cgroupVersion": features.cgroup_mode(),
                "cpus": os.cpu_count(),
                "kernel": os.uname().release,
                "namespaces": sorted(features.namespace_types()),
                "engine": settings.engine,
            },
            "store": {
                "root": settings.root,
                "runRoot": settings.runroot,
                "podStore": {"number": len(pods)},
                "containerStore": {"number": len(containers), "running": running},
                "imageStore": {"number": images},
            },
            "version": {"Version": podrt.__version__, "Python": sys.version.split()[0]},
        }
    )
    return 0


def version_flags(parser: Parser) -> None:
    """Flags of `version`."""
    parser.add_argument("--format", "-f", default=None, metavar="json", help="json")


def version(args: argparse.Namespace, settings: Settings) -> int:
    """Print the version."""
    if check_format(args.format):
        print_json(
            {"Client": {"Version": podrt.__version__, "OsArch": f"linux/{os.uname().machine}"}}
        )
    else:
        print(version_text())
    return 0


def plan_flags(parser: Parser) -> None:
    """Flags of `debug plan`."""
    parser.add_argument("container", metavar="CONTAINER", help="name or ID")


def plan(args: argparse.Namespace, settings: Settings) -> int:
    """Print the operations that start a container, one a line."""
    from podrt.engines.plan_ops import describe

    with open_view(settings) as view:
        record = view.container(args.container)
        path = view.layout.plan(record.id)
    try:
        with open(path, "rb") as file:
            lines = describe(file.read())
    except FileNotFoundError:
        raise NotFound("file", path) from None
    print("\n".join(lines))
    return 0
