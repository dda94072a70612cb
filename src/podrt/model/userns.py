"""A user namespace as the caller asks for it, and as a pod or container was given it."""

from __future__ import annotations

import msgspec


class UserNamespace(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What --userns, --uidmap, --gidmap, --subuidname and --subgidname say, as written."""

    mode: str = ""
    uid_maps: tuple[str, ...] = ()
    gid_maps: tuple[str, ...] = ()
    subuid_name: str = ""
    subgid_name: str = ""


HOST_USERS = UserNamespace()
"""Nothing is asked for: the host's."""


class IdRange(msgspec.Struct, frozen=True, array_like=True):
    """`count` IDs from `inside` on are those from `outside` on."""

    inside: int
    outside: int
    count: int


class GivenIds(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A user namespace that was decided: joined (`path`) or made, with its maps.

    `user` is who a process is where nothing else says so.
    """

    path: str = ""
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    user: tuple[int, int] | None = None

    def root(self) -> tuple[int, int]:
        """The host's user and group that are 0 inside."""
        return _outside(self.uid_map), _outside(self.gid_map)


def _outside(ranges: tuple[IdRange, ...]) -> int:
    return next((one.outside for one in ranges if one.inside == 0), 0)
