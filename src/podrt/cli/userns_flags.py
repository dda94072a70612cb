"""The flags of user namespaces, which containers and pods have in common."""

from __future__ import annotations

import argparse

from podrt.model.userns import UserNamespace

from .flags import Parser, split_list

USERNS_WORDS = (
    ("--userns", "MODE", "auto[:OPTIONS], host, keep-id, nomap or ns:PATH"),
    ("--subuidname", "NAME", "map the users that /etc/subuid gives to NAME"),
    ("--subgidname", "NAME", "map the groups that /etc/subgid gives to NAME"),
)
USERNS_LISTS = (
    (("--uidmap",), "INSIDE:OUTSIDE[:COUNT]", "users of its user namespace"),
    (("--gidmap",), "INSIDE:OUTSIDE[:COUNT]", "groups of its user namespace"),
)


def add_userns_flags(parser: Parser) -> None:
    """All of them."""
    for name, metavar, text in USERNS_WORDS:
        parser.add_argument(name, default=None, metavar=metavar, help=text)
    for names, metavar, text in USERNS_LISTS:
        parser.many(*names, metavar=metavar, help=text)


def userns_of(args: argparse.Namespace) -> UserNamespace:
    """What the flags say, unread."""
    return UserNamespace(
        mode=args.userns or "",
        uid_maps=tuple(split_list(args.uidmap)),
        gid_maps=tuple(split_list(args.gidmap)),
        subuid_name=args.subuidname or "",
        subgid_name=args.subgidname or "",
    )
