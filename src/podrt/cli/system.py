"""`podrt system check`, `podrt system locks`, `podrt info`, `podrt version`, `podrt debug plan`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import podrt
from podrt.config import Settings
from podrt.errors import NotFound, Removed
from podrt.runtime.view import open_view

from .flags import Parser
from .output import FORMAT_HELP, check_format, open_format, print_json, print_table
from .version import version_text

if TYPE_CHECKING:
    from podrt.runtime.lock_list import LockRow, SeenClaim, SeenProcess

FOUND = 1
_LOCK_HEADS = ("LOCK", "OBJECT", "STATE", "HOLDER", "CLAIM", "WAITERS", "NOTE")


def check_flags(parser: Parser) -> None:
    """Flags of `system check`."""
    parser.switch("--repair", "-r", help="mend what can be mended")
    parser.switch("--quick", "-q", help="accepted")
    parser.add_argument("--format", default=None, metavar="json", help="json")


def check(args: argparse.Namespace, settings: Settings) -> int:
    """Print what does not fit together; 1 when something is left that does not."""
    from podrt.runtime.check import repair_store
    from podrt.runtime.finding import Finding
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


def locks_flags(parser: Parser) -> None:
    """Flags of `system locks`."""
    parser.add_argument("--format", default=None, metavar="FORMAT", help=FORMAT_HELP)
    parser.switch("--abandoned", "-a", help="only what looks abandoned")
    parser.switch("--noheading", help="no heading")


def locks(args: argparse.Namespace, settings: Settings) -> int:
    """List the locks in use: their holders, waiters and claims, and what looks abandoned."""
    from podrt.runtime.lock_list import lock_rows

    form = open_format(args.format, "locks", kind="lock")
    with open_view(settings) as view:
        rows = [row for row in lock_rows(view) if row.notes or not args.abandoned]
    if form.is_json:
        print_json([_lock_document(row) for row in rows])
    elif form.report is not None:
        heads = None if args.noheading else {"Id": "ID"}
        form.report.print_rows([_lock_document(row) for row in rows], heads)
    else:
        print_table(_LOCK_HEADS, map(_lock_cells, rows), with_heads=not args.noheading)
    return 0


def _lock_cells(row: LockRow) -> tuple[str, ...]:
    return (
        str(row.lock),
        " ".join(filter(None, (row.kind, row.name))),
        row.state,
        _process_words(row.holder) if row.holder is not None else "",
        _claim_words(row.claim) if row.claim is not None else "",
        " ".join(map(str, row.waiters)),
        "; ".join(row.notes),
    )


def _process_words(seen: SeenProcess) -> str:
    if not seen.is_alive:
        return f"{seen.pid} (dead)" if seen.pid else "dead"
    return f"{seen.pid} ({seen.command})"


def _claim_words(claim: SeenClaim) -> str:
    end = f", told to end by {claim.preempted_by}" if claim.preempted_by else ""
    return f"{claim.verb}, {_process_words(claim.owner)}{end}"


def _lock_document(row: LockRow) -> dict[str, Any]:
    claim = row.claim
    return {
        "Lock": row.lock,
        "Kind": row.kind,
        "Name": row.name,
        "Id": row.owner_id,
        "State": row.state,
        "Holder": _process_document(row.holder) if row.holder is not None else None,
        "Claim": None
        if claim is None
        else {
            "Verb": claim.verb,
            **_process_document(claim.owner),
            "PreemptedBy": claim.preempted_by,
        },
        "Waiters": list(row.waiters),
        "Notes": list(row.notes),
    }


def _process_document(seen: SeenProcess) -> dict[str, Any]:
    return {"Pid": seen.pid, "Command": seen.command, "Alive": seen.is_alive}


def settle_flags(parser: Parser) -> None:
    """Flags of `system settle`."""
    parser.add_argument("group", metavar="ID", help="a pod's, or a container's outside of pods")


def settle(args: argparse.Namespace, settings: Settings) -> int:
    """Do what is due now that containers have ended: exit policies, removal of --rm containers."""

    from podrt.runtime.runtime import Runtime

    from .run_async import run

    async def verb(runtime: Runtime) -> int:
        # Who is gone by now has nothing that is due.
        with contextlib.suppress(Removed):
            await runtime.settle(args.group)
        return 0

    return run(settings, verb)


def info_flags(parser: Parser) -> None:
    """Flags of `info`."""
    parser.add_argument("--format", "-f", default="json", metavar="FORMAT", help=FORMAT_HELP)


def info(args: argparse.Namespace, settings: Settings) -> int:
    """Print as JSON what podrt works with here."""
    form = open_format(args.format, "info", kind="info", is_list=False)
    from podrt.linux import features
    from podrt.model.states import ALIVE
    from podrt.store.records import ImageRecord

    with open_view(settings) as view:
        pods, containers = view.pods(), view.containers()
        running = sum(view.state(record) in ALIVE for record in containers)
        images = len(view.store.tables.ids(ImageRecord))
    document: dict[str, Any] = {
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
    if form.report is not None:
        form.report.print_one(document)
    else:
        print_json(document)
    return 0


def version_flags(parser: Parser) -> None:
    """Flags of `version`."""
    parser.add_argument("--format", "-f", default=None, metavar="FORMAT", help=FORMAT_HELP)


def version(args: argparse.Namespace, settings: Settings) -> int:
    """Print the version."""
    form = open_format(args.format, "version", kind="version", is_list=False)
    one = {"Version": podrt.__version__, "OsArch": f"linux/{os.uname().machine}"}
    if form.is_json:
        print_json({"Client": one})
    elif form.report is not None:
        form.report.print_one({**one, "Client": one})
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
