"""The flags about /etc/hosts, /etc/hostname and /etc/resolv.conf, of containers and of pods."""

from __future__ import annotations

import argparse

from podrt.model.etc_files import EtcFiles

from .flags import Parser, split_list


def add_etc_flags(parser: Parser) -> None:
    """All of them."""
    parser.many("--add-host", metavar="HOST:ADDRESS", help="a line of /etc/hosts")
    parser.add_argument("--hosts-file", default="", metavar="FILE", help="what it begins with")
    parser.switch("--no-hosts", help="keep the image's /etc/hosts")
    parser.switch("--no-hostname", help="keep the image's /etc/hostname")
    parser.many("--dns", metavar="ADDRESS", help="a name server; none keeps the image's file")
    parser.many("--dns-option", metavar="OPTION", help="an option of the resolver")
    parser.many("--dns-search", metavar="DOMAIN", help="a search domain; . is none")


def etc_files_of(args: argparse.Namespace) -> EtcFiles:
    """What the flags ask for, unread."""
    return EtcFiles(
        add_hosts=split_list(args.add_host),
        base_hosts=args.hosts_file,
        no_hosts=args.no_hosts,
        no_hostname=args.no_hostname,
        dns_servers=split_list(args.dns),
        dns_options=split_list(args.dns_option),
        dns_searches=split_list(args.dns_search),
    )
