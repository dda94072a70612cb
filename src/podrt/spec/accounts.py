"""Who a container's process is: users and groups by number or by name in the image.

Source: passwd(5), group(5); the forms are those of podman's --user and --group-add.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from podrt.errors import InvalidConfig, NotFound
from podrt.model.runtimespec import User

MAX_ID = (1 << 32) - 2
# A hostile image must not make a create slow: nobody has that many users.
_MAX_FILE_BYTES = 1 << 20
_MAX_LINKS = 40
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Account(msgspec.Struct, frozen=True):
    """A line of passwd."""

    name: str
    uid: int
    gid: int
    home: str


class Group(msgspec.Struct, frozen=True):
    """A line of group."""

    name: str
    gid: int
    members: tuple[str, ...]


class Accounts(msgspec.Struct, frozen=True):
    """The users and groups of an image."""

    users: tuple[Account, ...] = ()
    groups: tuple[Group, ...] = ()


class Identity(msgspec.Struct, frozen=True):
    """A resolved user and its home directory."""

    user: User
    home: str


def parse_accounts(passwd: str, group: str) -> Accounts:
    """The accounts in the text of the two files; lines that make no sense are passed over."""
    users = []
    for fields in _lines(passwd, 6):
        if _is_id(fields[2]) and _is_id(fields[3]):
            users.append(Account(fields[0], int(fields[2]), int(fields[3]), fields[5]))
    groups = []
    for fields in _lines(group, 3):
        if _is_id(fields[2]):
            members = fields[3].split(",") if len(fields) > 3 else []
            groups.append(Group(fields[0], int(fields[2]), tuple(filter(None, members))))
    return Accounts(tuple(users), tuple(groups))


def _lines(text: str, least: int) -> Iterator[list[str]]:
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= least and fields[0] and not fields[0].startswith("#"):
            yield fields


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_ID


@functools.lru_cache(maxsize=512)
def find_identity(wanted: str, groups: tuple[str, ...], umask: int, accounts: Accounts) -> Identity:
    """The process's user for `wanted` ("", "uid", "uid:gid", "name:group").

    `groups` are additional groups by number or name. As podman: a user the image knows brings the
    groups it is listed in unless a group is named; the group itself is among the additional ones.
    Raises: InvalidConfig.
    """
    user_word, has_group, group_word = wanted.partition(":")
    account = _find_user(user_word or "0", accounts)
    gid = account.gid
    additional: list[int] = []
    if has_group and group_word:
        gid = _find_group(group_word, accounts, "--user")
    elif account.name:
        additional = [group.gid for group in accounts.groups if account.name in group.members]
    additional += [_find_group(word, accounts, "--group-add") for word in groups]
    ids = tuple(dict.fromkeys((gid, *additional)))
    user = User(uid=account.uid, gid=gid, umask=umask, additional_gids=ids)
    return Identity(user, account.home or "/")


def _find_user(word: str, accounts: Accounts) -> Account:
    for account in accounts.users:
        if account.name == word or (_is_id(word) and account.uid == int(word)):
            return account
    if _is_id(word):
        return Account("", int(word), 0, "/")
    raise InvalidConfig("--user", f"unable to find user {word}: no matching entries in passwd file")


def _find_group(word: str, accounts: Accounts, field: str) -> int:
    for group in accounts.groups:
        if group.name == word:
            return group.gid
    if _is_id(word):
        return int(word)
    raise InvalidConfig(field, f"unable to find group {word}: no matching entries in group file")


@functools.lru_cache(maxsize=256)
def read_accounts(layers: tuple[str, ...]) -> Accounts:
    """The accounts of an image whose unpacked layers are `layers`, highest first.

    Raises: NotFound when a layer is missing.
    """
    passwd = read_in_layers(layers, "/etc/passwd")
    return parse_accounts(passwd, read_in_layers(layers, "/etc/group"))


def read_in_layers(layers: Sequence[str], path: str) -> str:
    """A text file as the overlay of `layers` (highest first) would show it; "" if there is none.

    Symlinks are followed inside the layers only: every step is opened without following one, so
    an image cannot lead to a file of the host.
    """
    parts = _parts(path)
    links = 0
    at: list[str] = []
    while parts:
        part = parts.pop(0)
        if part == "..":
            at = at[:-1]
            continue
        kind, target = _look_up(layers, [*at, part], is_last=not parts)
        if kind == "link":
            links += 1
            if links > _MAX_LINKS:
                return ""
            parts = _parts(target) + parts
            at = [] if target.startswith("/") else at
        elif kind == "directory" and parts:
            at.append(part)
        else:
            return target if kind == "file" and not parts else ""
    return ""


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _look_up(layers: Sequence[str], parts: list[str], *, is_last: bool) -> tuple[str, str]:
    """What a path without symlinks is in the highest layer that has it, and a link's or file's
    content."""
    for layer in layers:
        found = _open_parts(layer, parts)
        if found is None:
            continue
        if found < 0:
            return "missing", ""
        try:
            return _describe(found, is_last=is_last)
        finally:
            os.close(found)
    return "missing", ""


def _open_parts(layer: str, parts: list[str]) -> int | None:
    """A path descriptor; None if the layer says nothing about it, -1 if it says: not there."""
    try:
        fd = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise NotFound("file", layer) from exc
    for part in parts:
        try:
            step = os.open(part, _PATH, dir_fd=fd)
        except OSError:
            is_opaque = _is_opaque(fd)
            os.close(fd)
            return -1 if is_opaque else None
        os.close(fd)
        fd = step
        if _is_whiteout(fd):
            os.close(fd)
            return -1
    return fd


def _is_whiteout(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(fd: int) -> bool:
    """Whether a directory hides what lower layers have in it."""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _describe(fd: int, *, is_last: bool) -> tuple[str, str]:
    mode = os.fstat(fd).st_mode
    if stat.S_ISLNK(mode):
        return "link", os.readlink("", dir_fd=fd)
    if stat.S_ISDIR(mode):
        return "directory", ""
    if not stat.S_ISREG(mode) or not is_last:
        return "other", ""
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        return "file", file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
