"""The three files a container's resolver reads: /etc/hosts, /etc/hostname, /etc/resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Sequence

from podrt.errors import InvalidConfig

_HEAD = "127.0.0.1\tlocalhost localhost.localdomain\n::1\tlocalhost localhost.localdomain\n"
_RESOLV = "/etc/resolv.conf"


def hosts_text(hostname: str, names: Sequence[str] = (), add_hosts: Sequence[str] = ()) -> str:
    """The text of /etc/hosts: loopback, the host's own names, then `add_hosts` ("name:address").

    Raises: InvalidConfig for an entry without an address.
    """
    lines = [_HEAD]
    own = " ".join(dict.fromkeys(name for name in (hostname, *names) if name))
    if own:
        lines.append(f"127.0.1.1\t{own}\n")
    for entry in add_hosts:
        host, _, address = entry.partition(":")
        if not host or not address:
            raise InvalidConfig("--add-host", f"{entry!r} is not NAME:ADDRESS")
        lines.append(f"{address}\t{host}\n")
    return "".join(lines)


def resolv_text(*, is_private: bool) -> str:
    """The host's resolv.conf; in an own network its loopback name servers lead nowhere."""
    try:
        with open(_RESOLV, encoding="utf-8", errors="replace") as file:
            lines = file.read(64 << 10).splitlines(keepends=True)
    except OSError:
        return ""
    return "".join(line for line in lines if not (is_private and _is_loopback_server(line)))


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
