from typing import Final, final

from typing_extensions import Buffer

HEAD_BYTES: Final[int]
MAX_PAYLOAD_BYTES: Final[int]
CLEAN: Final[int]
SHORT: Final[int]
BAD: Final[int]
BY_ID: Final[int]
BY_NAME: Final[int]
BY_OWNER: Final[int]

def crc32(data: Buffer, seed: int = 0) -> int: ...
def encode_frame(
    payload: bytes, seq: int, *, salt: int, durable: int, at_ns: int, kind: int
) -> bytes: ...
def scan(
    data: Buffer, first_seq: int, *, salt: int
) -> tuple[list[tuple[int, int, int, int, int, int]], int, int]: ...
def search(data: Buffer, *, salt: int) -> tuple[int, int]: ...
def salvage(data: Buffer, *, salt: int) -> list[tuple[int, int, int, int, int, int]]: ...
def find_rows(
    data: Buffer,
    layout: tuple[int, int, int],
    *,
    field: int,
    count: int,
    wanted: bytes,
    table: int = 0,
) -> tuple[int, int]: ...

@final
class Mapping:
    def __init__(self, fd: int, size: int, *, writable: bool = False) -> None: ...
    def __len__(self) -> int: ...
    def view(self) -> memoryview: ...

@final
class Words:
    def __init__(self, buffer: Buffer) -> None: ...
    def load(self, index: int) -> int: ...
    def store(self, index: int, value: int) -> None: ...
    def raise_to(self, index: int, value: int) -> int: ...
