"""Flags as podman's command line takes them: argparse, with Go's booleans and exit code 125."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from podrt.config import CGROUP_MANAGERS, Settings
from podrt.errors import InvalidConfig

from .errors import UsageError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = ("true", "1", "t", "T", "TRUE", "True")
_FALSE = ("false", "0", "f", "F", "FALSE", "False")


class _Help(argparse.HelpFormatter):
    """Help as wide as 100 columns: asking for the terminal's width would import shutil."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class Parser(argparse.ArgumentParser):
    """A parser of one verb; a wrong command line raises UsageError instead of exiting."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Help,
        )
        self.add_argument("--help", action="help", help="show this help")

    def error(self, message: str) -> NoReturn:
        """Raises: UsageError, Unsupported for an option of podman's that is missing here."""
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            if word.startswith("-"):
                from .options import missing

                error = missing(self.prog.removeprefix("podrt "), word)
                if error is not None:
                    raise error
                message = f"unknown flag: {word}"
        raise UsageError(message, self.prog)

    def switch(self, *names: str, default: bool | None = False, help: str) -> None:
        """A boolean flag that also takes Go's `--name=false`."""
        dest = names[0].lstrip("-").replace("-", "_")
        self.add_argument(*names, dest=dest, action="store_true", default=default, help=help)
        for name in names:
            if name.startswith("--"):
                # argparse looks for the whole word before it splits at "=".
                yes, no = [f"{name}={v}" for v in _TRUE], [f"{name}={v}" for v in _FALSE]
                hide = argparse.SUPPRESS
                self.add_argument(*yes, dest=dest, action="store_true", default=default, help=hide)
                self.add_argument(*no, dest=dest, action="store_false", default=default, help=hide)

    def many(self, *names: str, metavar: str, help: str) -> None:
        """A flag that may be given several times; a list, empty by default."""
        self.add_argument(*names, action="append", default=[], metavar=metavar, help=help)


def add_global_flags(parser: Parser) -> None:
    """The flags every verb takes, before or after it."""
    defaults = Settings()
    parser.add_argument("--root", default=defaults.root, metavar="DIR", help="state")
    parser.add_argument("--runroot", default=defaults.runroot, metavar="DIR", help="run state")
    parser.add_argument(
        "--cgroup-manager",
        default=defaults.cgroup_manager,
        metavar="NAME",
        help=" or ".join(CGROUP_MANAGERS),
    )
    parser.add_argument(
        "--engine",
        "--runtime",
        default=defaults.engine,
        metavar="NAME",
        help="native, or the name or path of an OCI runtime: crun, runc",
    )
    parser.add_argument("--namespace", default="", metavar="LABEL", help="see only this tenant's")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the global flags ask for. Raises: InvalidConfig, Unsupported."""
    return Settings(
        root=args.root,
        runroot=args.runroot,
        cgroup_manager=args.cgroup_manager,
        engine=args.engine,
        namespace=args.namespace,
    ).resolve()


def size_bytes(flag: str, text: str | None) -> int | None:
    """Bytes from podman's sizes: "64m", "1g", "512"; -1 stays. Raises: InvalidConfig."""
    if text is None or text == "":
        return None
    if text == "-1":
        return -1
    digits = text.lower().removesuffix("ib").removesuffix("b").rstrip("kmgt")
    unit = text.lower().removesuffix("ib").removesuffix("b")[len(digits) :]
    try:
        return int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise InvalidConfig(flag, f"invalid size: {text!r}") from None


def whole_number(flag: str, text: str | None) -> int | None:
    """A whole number, None when the flag was not given. Raises: InvalidConfig."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidConfig(flag, f"{text!r} is no whole number") from None


def pairs(flag: str, words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words as a mapping; a word without "=" has an empty value."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name:
            raise InvalidConfig(flag, f"invalid key=value pair: {word!r}")
        found[name] = value
    return found


def read_id(flag: str, path: str) -> str:
    """The ID on the first line of a file. Raises: InvalidConfig."""
    try:
        with open(path, encoding="utf-8") as file:
            found = file.readline().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = os.strerror(exc.errno or 0) if isinstance(exc, OSError) else "is no text"
        raise InvalidConfig(flag, f"{path}: {reason}") from exc
    if not found:
        raise InvalidConfig(flag, f"{path} is empty")
    return found


def split_list(words: Sequence[str]) -> tuple[str, ...]:
    """Words that may hold several separated by commas."""
    return tuple(part for word in words for part in word.split(",") if part)


Handler = Callable[[argparse.Namespace, Settings], int | None]
