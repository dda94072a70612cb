"""The environment flags of `create` and `run`: variables from the line, from files, from here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping

from podrt.errors import InvalidConfig

from .flags import Parser

# What podman hands on of a host's proxies, in either case.
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy")


def add_environment_flags(parser: Parser) -> None:
    """All of them."""
    parser.many("--env", "-e", metavar="NAME=VALUE", help="an environment variable")
    parser.many("--env-file", metavar="FILE", help="a file with a variable a line")
    parser.switch("--env-host", help="every variable that podrt has")
    parser.many("--env-merge", metavar="NAME=VALUE", help="a value with $NAME of the image in it")
    parser.many("--unsetenv", metavar="NAME", help="leave out a variable of the image")
    parser.switch("--unsetenv-all", help="leave out all variables but those given here")
    parser.switch("--http-proxy", default=True, help="hand on the host's proxy variables")


def environment_of(args: argparse.Namespace) -> dict[str, str]:
    """What the flags set; a later kind counts more. Raises: InvalidConfig."""
    found = dict(os.environ) if args.env_host else {}
    if args.http_proxy:
        names = [*_PROXIES, *(name.upper() for name in _PROXIES)]
        found |= {name: os.environ[name] for name in names if name in os.environ}
    for path in args.env_file:
        found |= variables(_lines("--env-file", path))
    return found | variables(args.env)


def merges_of(args: argparse.Namespace) -> Mapping[str, str]:
    """`--env-merge`. Raises: InvalidConfig."""
    for word in args.env_merge:
        if not word.partition("=")[0] or "=" not in word:
            raise InvalidConfig("--env-merge", f"{word!r} is not NAME=VALUE")
    return {word.partition("=")[0]: word.partition("=")[2] for word in args.env_merge}


def variables(words: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE; a bare NAME takes the value it has here, NAME* all that begin so."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name:
            raise InvalidConfig("--env", f"invalid environment variable: {word!r}")
        if equals:
            found[name] = value
        elif name.endswith("*"):
            start = name.removesuffix("*")
            found |= {key: value for key, value in os.environ.items() if key.startswith(start)}
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def labels_of(args: argparse.Namespace) -> dict[str, str]:
    """`--label-file` and `--label`, which counts more. Raises: InvalidConfig."""
    found: dict[str, str] = {}
    in_files = [line for path in args.label_file for line in _lines("--label-file", path)]
    for flag, words in (("--label-file", in_files), ("--label", args.label)):
        for word in words:
            name, _, value = word.partition("=")
            if not name:
                raise InvalidConfig(flag, f"invalid label format: {word!r}")
            found[name] = value
    return found


def _lines(flag: str, path: str) -> Iterator[str]:
    """The lines of a file that say something."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = os.strerror(exc.errno or 0) if isinstance(exc, OSError) else "is no text"
        raise InvalidConfig(flag, f"{path}: {reason}") from exc
    for line in lines:
        word = line.lstrip()
        if word and not word.startswith("#"):
            yield word
