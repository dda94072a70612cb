"""`--change`: Dockerfile instructions that describe how an imported image is run.

Source: podman-import(1), and what podman 4.3.1 makes of each form (`CMD /bin/x y` is run by a
shell, `CMD ["/bin/x", "y"]` as it stands).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from podrt.errors import InvalidConfig
from podrt.linux import signals
from podrt.model.image import ImageDefaults

_FIELD = "--change"
_CHANGE = re.compile(r"\s*([A-Za-z]+)(?:\s*=\s*|\s+)(.*)", re.DOTALL)
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?")
_SHELL = ("/bin/sh", "-c")


class _Draft(msgspec.Struct):
    """What the instructions so far amount to."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    workdir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    ports: dict[str, None] = {}
    stop_signal: str = ""
    volumes: dict[str, None] = {}


def parse_changes(changes: Iterable[str]) -> ImageDefaults:
    """What `changes` say, in order. Raises: InvalidConfig naming the instruction."""
    draft = _Draft()
    for change in changes:
        match = _CHANGE.fullmatch(change)
        takes = _INSTRUCTIONS.get(match.group(1).upper()) if match else None
        if match is None or takes is None:
            known = ", ".join(_INSTRUCTIONS)
            raise _bad(change, f"an instruction is one of {known}, then a value")
        if "\0" in change:
            raise _bad(change, "it holds a NUL character")
        takes(draft, match.group(2).strip(), change)
    return ImageDefaults(
        entrypoint=draft.entrypoint,
        command=draft.command,
        env=tuple(f"{key}={value}" for key, value in draft.env.items()),
        workdir=draft.workdir,
        user=draft.user,
        labels=draft.labels,
        exposed_ports=tuple(draft.ports),
        stop_signal=draft.stop_signal,
        volumes=tuple(draft.volumes),
    )


def _bad(change: str, reason: str) -> InvalidConfig:
    return InvalidConfig(_FIELD, f"{change[:200]!r}: {reason}")


def _words(value: str) -> tuple[str, ...] | None:
    """A JSON list of strings, None if `value` is something else."""
    if not value.startswith("["):
        return None
    try:
        return msgspec.json.decode(value, type=tuple[str, ...])
    except (msgspec.DecodeError, UnicodeError):
        return None


def _argv(value: str, change: str) -> tuple[str, ...]:
    words = _words(value)
    if words is not None:
        return words
    if not value:
        raise _bad(change, "no command is given")
    return (*_SHELL, value)


def _take_cmd(draft: _Draft, value: str, change: str) -> None:
    draft.command = _argv(value, change)


def _take_entrypoint(draft: _Draft, value: str, change: str) -> None:
    draft.entrypoint = _argv(value, change)


def _take_env(draft: _Draft, value: str, change: str) -> None:
    key, equals, text = value.partition("=")
    if not equals:
        key, _, text = value.partition(" ")
    if not key:
        raise _bad(change, "ENV is formatted key=value")
    draft.env[key] = _unquoted(text)


def _take_label(draft: _Draft, value: str, change: str) -> None:
    key, equals, text = value.partition("=")
    if not equals or not key:
        raise _bad(change, "LABEL must be formatted key=value")
    draft.labels[_unquoted(key)] = _unquoted(text)


def _take_workdir(draft: _Draft, value: str, change: str) -> None:
    if not value.startswith("/"):
        raise _bad(change, "WORKDIR must be an absolute path")
    draft.workdir = value


def _take_user(draft: _Draft, value: str, change: str) -> None:
    if not value or value.count(":") > 1 or any(char.isspace() for char in value):
        raise _bad(change, "USER is formatted user[:group]")
    draft.user = value


def _take_expose(draft: _Draft, value: str, change: str) -> None:
    for port in value.split():
        match = _PORT.fullmatch(port)
        if match is None or not all(0 < int(number or 1) < 65536 for number in match.groups()[:2]):
            raise _bad(change, "EXPOSE port must be a number up to 65535, and /tcp, /udp or /sctp")
        draft.ports[port if "/" in port else f"{port}/tcp"] = None


def _take_stop_signal(draft: _Draft, value: str, change: str) -> None:
    draft.stop_signal = signals.name(signals.number(value, f"{_FIELD} {change[:200]!r}"))


def _take_volume(draft: _Draft, value: str, change: str) -> None:
    for path in _words(value) or tuple(value.split()):
        if not path.startswith("/"):
            raise _bad(change, "VOLUME must be an absolute path")
        draft.volumes[path] = None


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


_INSTRUCTIONS: dict[str, Callable[[_Draft, str, str], None]] = {
    "CMD": _take_cmd,
    "ENTRYPOINT": _take_entrypoint,
    "ENV": _take_env,
    "EXPOSE": _take_expose,
    "LABEL": _take_label,
    "STOPSIGNAL": _take_stop_signal,
    "USER": _take_user,
    "VOLUME": _take_volume,
    "WORKDIR": _take_workdir,
}
