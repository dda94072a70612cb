"""The container's first process: arguments, environment, working directory, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from podrt.errors import InvalidConfig
from podrt.model.container import ContainerConfig, Ulimit
from podrt.model.image import ImageDefaults
from podrt.model.runtimespec import Rlimit

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)
UNLIMITED = (1 << 64) - 1
# Source: setrlimit(2); the names are those of podman's --ulimit.
ULIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending "
    "stack"
).split()


def arguments(config: ContainerConfig, image: ImageDefaults) -> tuple[str, ...]:
    """The command line. An own entry point comes without the image's command.

    Raises: InvalidConfig when there is nothing to run.
    """
    entrypoint = image.entrypoint if config.entrypoint is None else config.entrypoint
    command = config.command
    if command is None:
        command = image.command if config.entrypoint is None else ()
    found = (*entrypoint, *command)
    if not found or not found[0]:
        raise InvalidConfig(
            "command", "no command or entrypoint provided, and no CMD or ENTRYPOINT from image"
        )
    for word in found:
        check_text("command", word)
    return found


def environment(
    config: ContainerConfig, image: ImageDefaults, *, hostname: str, home: str
) -> tuple[str, ...]:
    """NAME=value of every variable. Raises: InvalidConfig."""
    found = {"PATH": DEFAULT_PATH}
    if config.terminal:
        found["TERM"] = "xterm"
    found["container"] = "podrt"
    for entry in image.env:
        name, _, value = entry.partition("=")
        found[name] = value
    if config.unset_all_env:
        found.clear()
    for name in config.unset_env:
        found.pop(name, None)
    merged = {name: _expanded(value, found) for name, value in config.merge_env.items()}
    found |= merged
    found.update(config.env)
    found.setdefault("HOSTNAME", hostname)
    found.setdefault("HOME", home)
    return tuple(f"{_variable(name)}={value}" for name, value in _checked(found))


def _expanded(value: str, variables: Mapping[str, str]) -> str:
    """`value` with $NAME and ${NAME} of `variables`; those that are not there are empty."""
    return _REFERENCE.sub(lambda match: variables.get(match[1] or match[2], ""), value)


def _checked(variables: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    for name, value in variables.items():
        check_text(f"--env {name}", value)
    return list(variables.items())


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise InvalidConfig("--env", f"invalid variable name {name!r}")
    return name


def working_directory(config: ContainerConfig, image: ImageDefaults) -> str:
    """Where the process starts. Raises: InvalidConfig."""
    found = config.workdir or image.workdir or "/"
    if not found.startswith("/"):
        raise InvalidConfig("--workdir", f"the working directory {found!r} is not an absolute path")
    return check_text("--workdir", found)


def check_text(field: str, text: str) -> str:
    """`text`, which the kernel will read up to its first NUL. Raises: InvalidConfig."""
    if "\0" in text:
        raise InvalidConfig(field, "holds a NUL character")
    return text


def rlimits(ulimits: Sequence[Ulimit]) -> tuple[Rlimit, ...]:
    """Resource limits by their full names. Raises: InvalidConfig."""
    return tuple(_rlimit(ulimit) for ulimit in ulimits)


def _rlimit(ulimit: Ulimit) -> Rlimit:
    name = ulimit.name.lower().removeprefix("rlimit_")
    if name not in ULIMITS:
        raise InvalidConfig("--ulimit", f"invalid ulimit type: {ulimit.name}")
    soft, hard = (UNLIMITED if value == -1 else value for value in (ulimit.soft, ulimit.hard))
    if soft < 0 or hard < 0 or soft > hard:
        raise InvalidConfig(
            "--ulimit", f"{name}: soft limit {ulimit.soft} is above hard limit {ulimit.hard}"
        )
    return Rlimit(type=f"RLIMIT_{name.upper()}", hard=hard, soft=soft)
