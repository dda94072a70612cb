"""The command line of `podrt oci`: runc's options, read by a table.

argparse alone costs as much time as a whole `state`, and conmon asks for one command after the
other; so the few rules of runc's command line are written out here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .errors import UsageError

PROGRAM = "podrt oci"
_TRUE = ("true", "1", "t", "T", "TRUE", "True")
_FALSE = ("false", "0", "f", "F", "FALSE", "False")


class Flag(NamedTuple):
    """An option: `kind` is "text", "switch" or "many"."""

    names: tuple[str, ...]
    help: str
    kind: str = "text"
    default: str = ""

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        return self.names[0].lstrip("-")


class Command(NamedTuple):
    """A verb: what stands behind it, its options, and how many words it takes."""

    summary: str
    usage: str = "ID"
    flags: tuple[Flag, ...] = ()
    least: int = 1
    most: int = 1
    keeps_rest: bool = False


class Options(NamedTuple):
    """What a command line said."""

    values: Mapping[str, list[str]]
    switches: Mapping[str, bool]
    words: tuple[str, ...]

    def text(self, name: str, default: str = "") -> str:
        """The last value given for `name`."""
        given = self.values.get(name)
        return given[-1] if given else default

    def many(self, name: str) -> tuple[str, ...]:
        """Every value given for `name`."""
        return tuple(self.values.get(name, ()))

    def is_on(self, name: str) -> bool:
        """Whether the switch `name` is on."""
        return self.switches.get(name, False)


def _switch(*names: str, help: str) -> Flag:
    return Flag(names, help, "switch")


def _many(*names: str, help: str) -> Flag:
    return Flag(names, help, "many")


GLOBAL = (
    Flag(("--root",), "directory of the containers' state", default="/run/podrt-oci"),
    Flag(("--log",), "file for errors and warnings, beside standard error"),
    Flag(("--log-format",), "text or json", default="text"),
    _switch("--debug", help="log more"),
    _switch("--systemd-cgroup", help="refused: cgroups are made through their files"),
    Flag(("--cgroup-manager",), "cgroupfs", default="cgroupfs"),
    Flag(("--rootless",), "true, false or auto", default="auto"),
    _switch("--help", "-h", help="show help"),
    _switch("--version", "-v", help="show the version"),
)
_CONSOLE = Flag(("--console-socket",), "unix socket that gets the terminal's descriptor")
_PID_FILE = Flag(("--pid-file",), "file for the process's number")
_PRESERVE = Flag(("--preserve-fds",), "how many descriptors from 3 on stay open", default="0")
_BUNDLE = Flag(("--bundle", "-b"), "the bundle's directory", default=".")
_MAKING = (
    _BUNDLE,
    Flag(
        ("--config", "-f"), "the bundle's document, if it has another name", "text", "config.json"
    ),
    _CONSOLE,
    _PID_FILE,
    _PRESERVE,
    _switch("--no-pivot", help="refused: the root is always switched by pivot_root"),
    _switch("--no-new-keyring", help="keep the caller's session keyring"),
)
_DETACH = _switch("--detach", "-d", help="do not wait for the process's end")
_EXEC = (
    _CONSOLE,
    _PID_FILE,
    _PRESERVE,
    _DETACH,
    Flag(("--process", "-p"), "file with the process as the specification writes it"),
    _switch("--tty", "-t", help="give it a terminal"),
    Flag(("--user", "-u"), "UID[:GID]"),
    _many("--additional-gids", "-g", help="another group's number"),
    Flag(("--cwd",), "working directory"),
    _many("--env", "-e", help="NAME=VALUE"),
    _many("--cap", "-c", help="a capability more"),
    _switch("--no-new-privs", help="set no_new_privs"),
    Flag(("--process-label",), "SELinux label"),
    Flag(("--apparmor",), "AppArmor profile"),
    Flag(("--cgroup",), "a cgroup below the container's"),
    _switch("--ignore-paused", help="also in a paused container"),
)
_FORMAT = Flag(("--format", "-f"), "table or json", default="table")
_UPDATE = (
    Flag(("--resources", "-r"), "file with linux.resources, - for standard input"),
    Flag(("--memory",), "bytes"),
    Flag(("--memory-reservation",), "bytes"),
    Flag(("--memory-swap",), "bytes of memory and swap, -1 for no limit"),
    Flag(("--cpu-period",), "microseconds"),
    Flag(("--cpu-quota",), "microseconds a period"),
    Flag(("--cpu-burst",), "microseconds"),
    Flag(("--cpu-share",), "relative weight"),
    Flag(("--cpuset-cpus",), "list of CPUs"),
    Flag(("--cpuset-mems",), "list of memory nodes"),
    Flag(("--pids-limit",), "processes, -1 for no limit"),
    Flag(("--blkio-weight",), "10 to 1000"),
    Flag(("--cpu-idle",), "1: only what nobody else wants"),
    Flag(("--cpu-rt-period",), "refused: realtime is not supported"),
    Flag(("--cpu-rt-runtime",), "refused: realtime is not supported"),
    Flag(("--kernel-memory",), "refused: kernels no longer have it"),
    Flag(("--kernel-memory-tcp",), "refused: kernels no longer have it"),
    Flag(("--l3-cache-schema",), "refused: Intel's RDT is not supported"),
    Flag(("--mem-bw-schema",), "refused: Intel's RDT is not supported"),
)

COMMANDS: dict[str, Command] = {
    "create": Command("Create a container from a bundle", flags=_MAKING),
    "start": Command("Run the program of a created container"),
    "run": Command(
        "Create a container, run it to its end and delete it",
        flags=(*_MAKING, _DETACH, _switch("--keep", help="do not delete it at the end")),
    ),
    "exec": Command(
        "Run a process in a container", "ID [COMMAND [ARGUMENT...]]", _EXEC, 1, -1, True
    ),
    "state": Command("Print a container's state"),
    "kill": Command(
        "Send a signal to a container's first process (TERM)",
        "ID [SIGNAL]",
        (_switch("--all", "-a", help="to every process of it"),),
        1,
        2,
    ),
    "delete": Command(
        "Delete a container that has stopped",
        flags=(_switch("--force", "-f", help="kill it first; none is no error"),),
    ),
    "pause": Command("Freeze a container"),
    "resume": Command("Let a paused container go on"),
    "list": Command(
        "List the containers",
        "",
        (_FORMAT, _switch("--quiet", "-q", help="only their IDs")),
        0,
        0,
    ),
    "ps": Command("List a container's processes", "ID [PS OPTION...]", (_FORMAT,), 1, -1, True),
    "update": Command("Change a container's limits", flags=_UPDATE),
    "events": Command(
        "Print what a container uses, and when the kernel kills for memory",
        flags=(
            Flag(("--interval",), "how often", default="5s"),
            _switch("--stats", help="once"),
        ),
    ),
    "checkpoint": Command("Refused: no state of a process is saved"),
    "restore": Command("Refused: no state of a process is saved"),
    "spec": Command(
        "Write a config.json to begin with",
        "",
        (_BUNDLE, _switch("--rootless", help="one that needs no root")),
        0,
        0,
    ),
    "features": Command("Print what this runtime can do", "", (), 0, 0),
}


def parse(flags: Sequence[Flag], argv: Sequence[str], command: str, *, mixed: bool) -> Options:
    """Read the options of `argv`; `mixed` lets them stand behind words, too.

    Raises: UsageError.
    """
    by_name = {name: flag for flag in flags for name in flag.names}
    values: dict[str, list[str]] = {flag.name: [flag.default] for flag in flags if flag.default}
    switches: dict[str, bool] = {}
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word == "--":
            words += rest
        elif not word.startswith("-") or word == "-" or word[1:].isdigit():
            words.append(word)
            if not mixed:
                words += rest
        else:
            _read(by_name, word, rest, command, (values, switches))
    return Options(values, switches, tuple(words))


def _read(
    by_name: Mapping[str, Flag],
    word: str,
    rest: Iterator[str],
    command: str,
    into: tuple[dict[str, list[str]], dict[str, bool]],
) -> None:
    name, equals, value = word.partition("=")
    # Go's flags take one dash as well as two.
    flag = by_name.get(name) or by_name.get(f"-{name}")
    if flag is None:
        raise UsageError(f"unknown flag: {name}", command)
    values, switches = into
    if flag.kind == "switch":
        if equals and value not in (*_TRUE, *_FALSE):
            raise UsageError(f"{name}: {value!r} is neither true nor false", command)
        switches[flag.name] = value in _TRUE if equals else True
        return
    if not equals:
        try:
            value = next(rest)
        except StopIteration:
            raise UsageError(f"flag needs an argument: {name}", command) from None
    if flag.kind == "many":
        values.setdefault(flag.name, []).append(value)
    else:
        values[flag.name] = [value]


def parse_command(argv: Sequence[str]) -> tuple[str, Options, Options]:
    """(verb, global options, its own); the verb is "" where none is given. Raises: UsageError."""
    before = parse(GLOBAL, argv, PROGRAM, mixed=False)
    if not before.words:
        return "", before, before
    verb, *rest = before.words
    command = COMMANDS.get(verb)
    if command is None:
        raise UsageError(f"unrecognized command `{PROGRAM} {verb}`", PROGRAM)
    name = f"{PROGRAM} {verb}"
    flags = (*command.flags, GLOBAL[-2])
    options = parse(flags, rest, name, mixed=not command.keeps_rest)
    count = len(options.words)
    if not options.is_on("help") and (
        count < command.least or (command.most >= 0 and count > command.most)
    ):
        raise UsageError(f"usage: {name} [OPTION...] {command.usage}".rstrip(), name)
    return verb, before, options


def overview() -> str:
    """The help text of the whole command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["An OCI runtime: podrt's native engine for other container managers.", "",
         f"Usage: {PROGRAM} [GLOBAL OPTION...] COMMAND [OPTION...]", "", "Commands:", *lines, "",
         "Global options:", *_option_lines(GLOBAL)]
    )  # fmt: skip


def help_of(verb: str) -> str:
    """The help text of one verb."""
    command = COMMANDS[verb]
    usage = f"Usage: {PROGRAM} {verb} [OPTION...] {command.usage}".rstrip()
    lines = [command.summary, "", usage, "", "Options:", *_option_lines(command.flags)]
    return "\n".join(lines if command.flags else lines[:3])


def _option_lines(flags: Sequence[Flag]) -> list[str]:
    names = [", ".join(flag.names) + (" X" if flag.kind != "switch" else "") for flag in flags]
    width = max(map(len, names))
    return [
        f"  {name:<{width}}  {flag.help}" + (f" (default {flag.default})" if flag.default else "")
        for name, flag in zip(names, flags, strict=True)
    ]
