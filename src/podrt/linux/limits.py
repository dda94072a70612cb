"""How many files this process may open: more for podrt itself, never for what it starts."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator

# What a shell or service manager had set, before `raise_open_files`.
_found: list[tuple[int, int]] = []


def raise_open_files() -> None:
    """Open as many files as the hard limit allows: a bulk verb has a socket for each pod."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != most:
        _found.append((soft, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def limits_as_found() -> Iterator[None]:
    """For as long as this lasts, what is started gets the limit that podrt itself was given."""
    if not _found:
        yield
        return
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, _found[0])
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, raised)
