"""Restart policies: the words people write, and what they mean.

The monitor keeps them (_native/restarts.c); nothing here decides about a container that ended.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from podrt.errors import InvalidConfig

from .container import ContainerConfig
from .pod import PodConfig

# What the monitor's field for it holds.
_MOST_RETRIES = 2**31 - 1


class RestartKind(enum.IntEnum):
    """When a container that ended by itself is started again; the numbers are the monitor's."""

    NO = 0
    ON_FAILURE = 1
    ALWAYS = 2
    UNLESS_STOPPED = 3


class RestartPolicy(NamedTuple):
    """`most` bounds the restarts after failures; 0: there is no bound."""

    kind: RestartKind = RestartKind.NO
    most: int = 0

    @property
    def name(self) -> str:
        """The policy's word without its number."""
        return self.kind.name.lower().replace("_", "-")

    @property
    def outlives_boot(self) -> bool:
        """Whether a reboot, which stops everything, should not be the end of it."""
        return self.kind in (RestartKind.ALWAYS, RestartKind.UNLESS_STOPPED)


NO_RESTARTS = RestartPolicy()
_KINDS = {
    "": RestartKind.NO,
    "no": RestartKind.NO,
    "never": RestartKind.NO,
    "on-failure": RestartKind.ON_FAILURE,
    "always": RestartKind.ALWAYS,
    "unless-stopped": RestartKind.UNLESS_STOPPED,
}


def parse_restart(text: str, field: str = "--restart") -> RestartPolicy:
    """The policy that `text` ("on-failure:3") names. Raises: InvalidConfig naming `field`."""
    word, colon, number = text.partition(":")
    kind = _KINDS.get(word)
    if kind is None:
        raise InvalidConfig(field, f"{text!r} is not a valid restart policy")
    if not colon:
        return RestartPolicy(kind)
    if kind is not RestartKind.ON_FAILURE:
        reason = "restart policy retries can only be specified with on-failure"
        raise InvalidConfig(field, f"{text!r}: {reason}")
    if not number.isascii() or not number.isdecimal() or int(number) > _MOST_RETRIES:
        raise InvalidConfig(field, f"{text!r}: restart policy retry count: {number!r} is no number")
    return RestartPolicy(kind, int(number))


def policy_of(config: ContainerConfig, pod: PodConfig | None) -> RestartPolicy:
    """The policy that counts for a container: its own, else its pod's.

    An infra container has none, and init containers have come to their end before others start.
    """
    if config.is_infra or config.init is not None:
        return NO_RESTARTS
    default = pod.restart_policy if pod is not None else ""
    return parse_restart(config.restart_policy or default)
