"""The three files a container's resolver reads: /etc/hosts, /etc/hostname, /etc/resolv.conf."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

from podrt.errors import InvalidConfig, Unsupported
from podrt.model.etc_files import DEFAULT_FILES, EtcFiles

_HEAD = "127.0.0.1\tlocalhost localhost.localdomain\n::1\tlocalhost localhost.localdomain\n"
_RESOLV = "/etc/resolv.conf"
_MAX_BYTES = 64 << 10


def hosts_text(
    hostname: str, names: Sequence[str] = (), add_hosts: Sequence[str] = (), base: str = ""
) -> str:
    """The text of /etc/hosts: loopback, the container's own names, then `add_hosts`.

    Shape: an entry is "NAME[;NAME]:ADDRESS". `base` is a text that comes in place of loopback.
    Raises: InvalidConfig for an entry without an address.
    """
    lines = [base if base.endswith("\n") else f"{base}\n"] if base else [_HEAD]
    own = " ".join(dict.fromkeys(name for name in (hostname, *names) if name))
    if own:
        lines.append(f"127.0.1.1\t{own}\n")
    for entry in add_hosts:
        hosts, address = parse_host(entry)
        lines.append(f"{address}\t{' '.join(hosts)}\n")
    return "".join(lines)


def parse_host(entry: str) -> tuple[list[str], str]:
    """The names and the address of "NAME[;NAME]:ADDRESS". Raises: InvalidConfig, Unsupported."""
    words, _, address = entry.partition(":")
    names = [word for word in words.split(";") if word]
    if not names or not address or any(set(word) & set(" \t\n") for word in names):
        raise InvalidConfig("--add-host", f"{entry!r} is not NAME:ADDRESS")
    if address == "host-gateway":
        raise Unsupported("--add-host host-gateway", "no network leads to the host yet")
    if not is_address(address):
        raise InvalidConfig("--add-host", f"invalid IP address in add-host: {address!r}")
    return names, address


def is_address(text: str) -> bool:
    """Whether `text` is an address of IPv4 or IPv6."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, text)
            return True
    return False


def check_files(wanted: EtcFiles) -> None:
    """Raises: InvalidConfig, Unsupported naming the flag that is wrong."""
    for entry in wanted.add_hosts:
        parse_host(entry)
    if wanted.no_hosts and wanted.add_hosts:
        raise InvalidConfig("", "--no-hosts and --add-host cannot be set together")
    if wanted.no_hosts and wanted.base_hosts:
        raise InvalidConfig("", "--no-hosts and --hosts-file cannot be set together")
    if wanted.base_hosts == "image":
        raise Unsupported("--hosts-file image", "a path and none are built so far")
    for server in wanted.dns_servers:
        if server != "none" and not is_address(server):
            raise InvalidConfig("--dns", f"{server} is not an ip address")
    is_complete = len(wanted.dns_servers) > 1 or wanted.dns_searches or wanted.dns_options
    if "none" in wanted.dns_servers and is_complete:
        raise InvalidConfig(
            "--dns", "none cannot be combined with other servers, options or searches"
        )
    for flag, words in (
        ("--dns-search", wanted.dns_searches),
        ("--dns-option", wanted.dns_options),
    ):
        for word in words:
            if not word or set(word) & set(" \t\n\0"):
                raise InvalidConfig(flag, f"{word!r} is no word of resolv.conf")


def base_text(wanted: EtcFiles) -> str:
    """What /etc/hosts begins with; "" is podrt's own. Raises: InvalidConfig."""
    if wanted.base_hosts in ("", "none"):
        return ""
    try:
        with open(wanted.base_hosts, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except OSError as exc:
        reason = f"{wanted.base_hosts}: {os.strerror(exc.errno or 0)}"
        raise InvalidConfig("--hosts-file", reason) from exc


def resolv_text(wanted: EtcFiles = DEFAULT_FILES, *, is_private: bool) -> str:
    """The host's resolv.conf, with what is given in place of its own lines.

    In an own network its loopback name servers lead nowhere.
    """
    given = {
        "search": [word for word in wanted.dns_searches if word != "."],
        "nameserver": wanted.dns_servers,
        "options": wanted.dns_options,
    }
    replaced = {"nameserver"} if wanted.dns_servers else set()
    replaced |= {"search", "domain"} if wanted.dns_searches else set()
    replaced |= {"options"} if wanted.dns_options else set()
    lines = [f"search {' '.join(given['search'])}\n"] if given["search"] else []
    lines += (f"nameserver {server}\n" for server in given["nameserver"])
    lines += [f"options {' '.join(given['options'])}\n"] if given["options"] else []
    lines += (
        line
        for line in _host_lines()
        if not (is_private and _is_loopback_server(line))
        and line.split(maxsplit=1)[:1] not in ([word] for word in replaced)
    )
    return "".join(lines)


def _host_lines() -> list[str]:
    try:
        with open(_RESOLV, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES).splitlines(keepends=True)
    except OSError:
        return []


def _is_loopback_server(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver" and words[1].startswith(("127.", "::1"))


def write_files(directory: str, *, hosts: str, hostname: str, resolv: str) -> None:
    """Write `hosts`, `hostname` and `resolv.conf` into `directory`, readable by everybody."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    for name, text in (
        ("hosts", hosts), ("hostname", hostname + "\n"), ("resolv.conf", resolv),
    ):  # fmt: skip
        fd = os.open(
            f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
        )
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)
            file.write(text)
