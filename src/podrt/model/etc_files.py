"""What a caller asks of the files below /etc that a group's containers share."""

from __future__ import annotations

import msgspec


class EtcFiles(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """/etc/hosts, /etc/hostname and /etc/resolv.conf beyond what podrt writes by itself.

    `add_hosts` are "NAME[;NAME]:ADDRESS"; `base_hosts` is the host's file that /etc/hosts begins
    with ("" and "none": nothing); without hosts or hostname the image's are kept. What is given
    of `dns_*` takes the place of the host's; the server "none" keeps the image's resolv.conf, the
    search domain "." is none.
    """

    add_hosts: tuple[str, ...] = ()
    base_hosts: str = ""
    no_hosts: bool = False
    no_hostname: bool = False
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()


DEFAULT_FILES = EtcFiles()
