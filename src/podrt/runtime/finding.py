"""What a look at the state finds that does not fit, and how it is mended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from podrt.linux import trees

Mend = Callable[[], Awaitable[object]]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that does not fit; `is_repaired` says whether it was mended just now."""

    kind: str
    what: str
    problem: str
    is_repaired: bool = False


Problem = tuple[Finding, Mend | None]
"""A finding with what mends it; None: nothing can, without the user's word."""


def found(kind: str, what: str, problem: str) -> Finding:
    """A finding that is not mended yet."""
    return Finding(kind=kind, what=what, problem=problem)


def removal(path: str) -> Mend:
    """Mends by removing what is at `path`."""

    async def mend() -> None:
        trees.remove_tree(path)

    return mend
