from collections.abc import Iterable
from typing import Final

MKDIR: Final[int]
WRITE: Final[int]
READ: Final[int]
RMDIR: Final[int]
OPTIONAL: Final[int]

def run(
    steps: Iterable[tuple[int, int, bytes, bytes]],
) -> tuple[int, int, list[bytes | int | None]]: ...
def set_device_filter(dirfd: int, program: bytes) -> None: ...
