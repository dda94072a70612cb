"""`podrt oci` and `podrt-oci`: the native engine as an OCI runtime's command.

Source: runc(8) for the words, runtime-spec runtime.md for what they do.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

import podrt
from podrt.errors import (
    AlreadyExists,
    EngineFailed,
    InvalidConfig,
    NotFound,
    PodrtError,
    Unsupported,
)

from .errors import UsageError
from .oci_flags import COMMANDS, Options, help_of, overview, parse_command
from .oci_log import Log

FAILED = 1
EXEC_FAILED = 255
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name); its exit code."""
    try:
        verb, before, options = parse_command(sys.argv[1:] if argv is None else argv)
    except UsageError as exc:
        print(f"podrt-oci: {exc}\nSee '{exc.command} --help'", file=sys.stderr)
        return FAILED
    if _answered(verb, before, options):
        return 0
    try:
        log = Log(before.text("log"), before.text("log-format"), debug=before.is_on("debug"))
    except PodrtError as exc:
        print(f"podrt-oci: {exc}", file=sys.stderr)
        return FAILED
    try:
        code = _run(verb, before, options, log)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except PodrtError as exc:
        log.error(_worded(exc))
    except OSError as exc:
        log.error(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
    finally:
        log.close()
    return EXEC_FAILED if verb == "exec" else FAILED


def _answered(verb: str, before: Options, options: Options) -> bool:
    """Print help or the version, if that was asked for."""
    if before.is_on("version"):
        from podrt.model.runtimespec import OCI_VERSION

        print(f"podrt-oci version {podrt.__version__}\nspec: {OCI_VERSION}")
    elif not verb or before.is_on("help"):
        print(overview())
    elif options.is_on("help"):
        print(help_of(verb))
    else:
        return False
    return True


def _worded(error: PodrtError) -> str:
    """The error in the words that container managers look for in a runtime's answer."""
    if isinstance(error, NotFound) and error.kind == "container":
        return f"container {error.name} does not exist"
    if isinstance(error, AlreadyExists) and error.kind == "container":
        return f"container with given ID already exists: {error.name}"
    if isinstance(error, EngineFailed) and error.stage == "run hook" and error.path:
        return f"error running hook: {error.path}"
    if isinstance(error, EngineFailed) and error.stage == "exec":
        # Who called adds words of its own to this.
        return f"exec {error.path}: {os.strerror(error.errno).lower()}"
    return str(error)


def _run(verb: str, before: Options, options: Options, log: Log) -> int:
    if before.is_on("systemd-cgroup") or before.text("cgroup-manager") == "systemd":
        raise Unsupported("--systemd-cgroup", "cgroups are made through their files: leave it out")
    if before.text("cgroup-manager") != "cgroupfs":
        raise Unsupported("--cgroup-manager", before.text("cgroup-manager"))
    if before.text("rootless") not in ("auto", "true", "false"):
        raise InvalidConfig("--rootless", "is true, false or auto")
    if verb in _PLAIN:
        return _PLAIN[verb](options)
    from podrt.linux.features import require_root
    from podrt.oci.lifecycle import Runtime

    require_root()
    runtime = Runtime(before.text("root"), log.warning)
    log.debug(f"{verb} {' '.join(options.words)}")
    return _VERBS[verb](runtime, options) or 0


def _features(options: Options) -> int:
    from podrt.oci.features import features

    _print_json(features())
    return 0


def _spec(options: Options) -> int:
    from podrt.model import runtimespec
    from podrt.oci.template import template

    path = os.path.join(options.text("bundle"), "config.json")
    data = runtimespec.encode(template(rootless=options.is_on("rootless")))
    try:
        with open(path, "xb") as file:
            file.write(msgspec.json.format(data, indent=2) + b"\n")
    except FileExistsError:
        raise InvalidConfig("--bundle", f"{path} exists; remove it first") from None
    return 0


def _print_json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _making(options: Options) -> Any:
    from podrt.oci.creation import Making

    if options.is_on("no-pivot"):
        raise Unsupported("--no-pivot", "a root that was only covered can be left again")
    return Making(
        id=options.words[0],
        bundle=options.text("bundle"),
        config=options.text("config"),
        pid_file=options.text("pid-file"),
        console_socket=options.text("console-socket"),
        preserve_fds=_preserved(options),
        new_keyring=not options.is_on("no-new-keyring"),
    )


def _preserved(options: Options) -> int:
    """How many descriptors from 3 on stay open, with those systemd passed on."""
    count = _number(options, "preserve-fds") or 0
    if count < 0:
        raise InvalidConfig("--preserve-fds", "is negative")
    for number in range(3, 3 + count):
        try:
            os.fstat(number)
        except OSError:
            raise InvalidConfig("--preserve-fds", f"descriptor {number} is not open") from None
    return count


def _number(options: Options, name: str) -> int | None:
    text = options.text(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidConfig(f"--{name}", f"{text!r} is no whole number") from None


def _create(runtime: Any, options: Options) -> None:
    from podrt.oci.creation import create

    create(runtime, _making(options))


def _start(runtime: Any, options: Options) -> None:
    from podrt.oci.creation import start

    start(runtime, options.words[0])


def _run_verb(runtime: Any, options: Options) -> int:
    from podrt.oci.foreground import run

    making = _making(options)
    return run(runtime, making, detach=options.is_on("detach"), keep=options.is_on("keep"))


def _exec(runtime: Any, options: Options) -> int:
    from podrt.oci.execs import Wanted, execute

    wanted = Wanted(
        id=options.words[0],
        args=options.words[1:],
        process_file=options.text("process"),
        tty=options.is_on("tty"),
        user=options.text("user"),
        additional_gids=options.many("additional-gids"),
        cwd=options.text("cwd"),
        env=options.many("env"),
        caps=options.many("cap"),
        no_new_privs=options.is_on("no-new-privs"),
        label=options.text("process-label"),
        apparmor=options.text("apparmor"),
        cgroup=options.text("cgroup"),
        ignore_paused=options.is_on("ignore-paused"),
        detach=options.is_on("detach"),
        pid_file=options.text("pid-file"),
        console_socket=options.text("console-socket"),
        preserve_fds=_preserved(options),
    )
    return execute(runtime, wanted)


def _state(runtime: Any, options: Options) -> None:
    _print_json(runtime.state(options.words[0]))


def _kill(runtime: Any, options: Options) -> None:
    from podrt.linux import signals

    word = options.words[1] if len(options.words) > 1 else "TERM"
    # Signal 0 only asks whether somebody is there. Source: kill(2).
    number = 0 if word == "0" else signals.number(word, "signal")
    runtime.kill(options.words[0], number, everyone=options.is_on("all"))


def _delete(runtime: Any, options: Options) -> None:
    runtime.delete(options.words[0], force=options.is_on("force"))


def _pause(runtime: Any, options: Options) -> None:
    runtime.pause(options.words[0])


def _resume(runtime: Any, options: Options) -> None:
    runtime.resume(options.words[0])


def _update(runtime: Any, options: Options) -> None:
    from podrt.oci.updates import read_limits

    flags = {
        flag.name: value
        for flag in COMMANDS["update"].flags[1:]
        if (value := options.text(flag.name))
    }
    runtime.update(options.words[0], read_limits(options.text("resources"), flags))


def _events(runtime: Any, options: Options) -> None:
    from podrt.oci import events

    every_s = events.interval_s(options.text("interval"))
    if options.is_on("stats"):
        found: Iterable[Any] = [events.stats_once(runtime, options.words[0])]
    else:
        found = events.follow(runtime, options.words[0], every_s)
    for document in found:
        print(msgspec.json.encode(document).decode(), flush=True)


def _no_checkpoint(options: Options) -> int:
    raise Unsupported("checkpoint and restore", "no state of a process is saved")


def _format(options: Options) -> str:
    form = options.text("format")
    if form not in ("table", "json"):
        raise InvalidConfig("--format", f"{form!r} is not table or json")
    return form


def _list(runtime: Any, options: Options) -> None:
    containers = runtime.containers.all()
    if options.is_on("quiet"):
        for container in containers:
            print(container.id)
        return
    found = []
    for container in containers:
        # Another command may delete it meanwhile.
        with contextlib.suppress(NotFound):
            found.append(runtime.state(container.id))
    if _format(options) == "json":
        print(msgspec.json.encode(found).decode())
        return
    heads = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
    _print_table(
        [heads, *((s.id, str(s.pid), s.status, s.bundle, s.created, s.owner) for s in found)]
    )


def _ps(runtime: Any, options: Options) -> int:
    pids = runtime.pids(options.words[0])
    if _format(options) == "json":
        print(msgspec.json.encode(pids).decode())
        return 0
    import subprocess

    words = options.words[1:] or ("-ef",)
    listed = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    head, *lines = listed.stdout.splitlines() or [""]
    if "PID" not in head.split():
        raise InvalidConfig("ps", listed.stderr.strip() or "its output has no column PID")
    column = head.split().index("PID")
    wanted = {str(pid) for pid in pids}
    shown = [line for line in lines if wanted.intersection(line.split()[column : column + 1])]
    print("\n".join([head, *shown]))
    return 0


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("   ".join(cells).rstrip())


_PLAIN: dict[str, Callable[[Options], int]] = {
    "features": _features,
    "spec": _spec,
    "checkpoint": _no_checkpoint,
    "restore": _no_checkpoint,
}
_VERBS: dict[str, Callable[[Any, Options], int | None]] = {
    "create": _create,
    "start": _start,
    "run": _run_verb,
    "exec": _exec,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "pause": _pause,
    "resume": _resume,
    "update": _update,
    "events": _events,
    "list": _list,
    "ps": _ps,
}
