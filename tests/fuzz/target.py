"""What is fuzzed: a target makes an input of a seed, uses it, and knows what must come of it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Target(Protocol):
    """One thing that reads files it cannot trust."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the target's own; what it holds is kept with a finding."""

    def run(self, seed: int) -> str:
        """Use the input of `seed`; gives a word for what came of it, to be counted.

        Any exception is a finding. The same seed makes the same input.
        """
