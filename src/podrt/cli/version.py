"""What `podrt version` prints; apart from the other verbs, because it is answered before them."""

from __future__ import annotations

import os
import sys

import podrt


def version_text() -> str:
    """The versions that a report of a fault should name, one a line."""
    system = os.uname()
    return "\n".join(
        [
            f"Version:  {podrt.__version__}",
            f"Python:   {'.'.join(map(str, sys.version_info[:3]))}",
            f"Kernel:   {system.release}",
            f"OS/Arch:  linux/{system.machine}",
        ]
    )
