"""What an archive passes through on its way in: hashing, copying, unpacking, limits.

Every stage reads a bounded piece at a time, so a small file that unpacks to terabytes costs
no memory, only the time until the limit says stop.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from podrt.errors import InvalidConfig, LimitReached, Unsupported

from .tarstream import PIECE_BYTES, Source

# xz -9 needs 65 MiB to unpack; its format allows 4 GiB.
_XZ_MEMORY_BYTES = 80 << 20

PLAIN, GZIP, BZIP2, XZ, ZSTD = "", "gzip", "bzip2", "xz", "zstd"
_MAGICS = (
    (b"\x1f\x8b", GZIP),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\x00", XZ),
    (b"\x28\xb5\x2f\xfd", ZSTD),
)
MAGIC_BYTES = 6


class Sink(Protocol):
    """Takes bytes in order."""

    def write(self, data: bytes, /) -> object:
        """Take `data`."""


class Hasher:
    """A sink that only hashes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Take `data` in."""
        self._hash.update(data)

    @property
    def digest(self) -> str:
        """The hex SHA-256 of what was written."""
        return self._hash.hexdigest()


class Tap:
    """Passes `source` on and gives `sink` a copy of everything.

    Raises (while reading): LimitReached past `limit_bytes`, naming the archive `name`.
    """

    def __init__(self, source: Source, sink: Sink, *, name: str, limit_bytes: int) -> None:
        self._source = source
        self._sink = sink
        self._name = name
        self._left_bytes = self._limit_bytes = limit_bytes

    def read(self, size: int) -> bytes:
        """The next bytes of the source."""
        data = self._source.read(size)
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise LimitReached(f"archive {self._name}", f"{self._limit_bytes} bytes")
        self._sink.write(data)
        return data

    def drain(self) -> None:
        """Read to the end: what follows an archive's last member counts in its digest."""
        while self.read(PIECE_BYTES):
            pass


class Prefixed:
    """`head`, already read from `source`, and then the rest of it."""

    def __init__(self, head: bytes, source: Source) -> None:
        self._head = head
        self._source = source

    def read(self, size: int) -> bytes:
        """The next bytes."""
        if not self._head:
            return self._source.read(size)
        data, self._head = self._head[:size], self._head[size:]
        return data


class _Decoder(Protocol):
    """One compressed stream, as bz2, lzma and zstd spell it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecoder:
    """zlib's decompressor, which spells it differently."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class Decompressed:
    """`source` unpacked; several compressed streams in a row are one, as gzip(1) reads them.

    Raises (while reading): InvalidConfig naming the archive `name` when the data is damaged.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        *,
        decoder: Callable[[], _Decoder],
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._source = source
        self._name = name
        self._new_decoder = decoder
        self._errors = errors
        self._decoder = decoder()
        self._pending = b""

    def read(self, size: int) -> bytes:
        """The next unpacked bytes, b"" at the end."""
        while True:
            if self._decoder.eof and not self._next_stream():
                return b""
            data = self._pending
            if not data and self._decoder.needs_input:
                data = self._source.read(PIECE_BYTES)
                if not data:
                    raise InvalidConfig(self._name, "unexpected end of the compressed data")
            self._pending = b""
            unpacked = self._decompress(data, size)
            if unpacked:
                return unpacked

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            return self._decoder.decompress(data, size)
        except MemoryError:
            raise InvalidConfig(self._name, "the compressed data needs too much memory") from None
        except self._errors as error:
            if "memory usage limit" in str(error).lower():
                reason = "the compressed data needs more than 80 MiB of memory"
                raise InvalidConfig(self._name, reason) from None
            raise InvalidConfig(self._name, f"damaged compressed data: {error}") from None

    def _next_stream(self) -> bool:
        """Go on to the next compressed stream; whether there is one (zeros are padding)."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest:
            rest = self._source.read(PIECE_BYTES)
            if not rest:
                return False
            rest = rest.lstrip(b"\0")
        self._decoder = self._new_decoder()
        self._pending = rest
        return True


def compression_of(head: bytes) -> str:
    """How data that begins with `head` (MAGIC_BYTES of it) is compressed."""
    return next((name for magic, name in _MAGICS if head.startswith(magic)), PLAIN)


def decompressed(source: Source, compression: str, name: str) -> Source:
    """`source` unpacked. Raises: Unsupported for zstd where this Python cannot read it."""
    if compression == GZIP:
        return Decompressed(source, name, decoder=_GzipDecoder, errors=(zlib.error,))
    if compression == BZIP2:
        return Decompressed(source, name, decoder=bz2.BZ2Decompressor, errors=(OSError, ValueError))
    if compression == XZ:
        return Decompressed(source, name, decoder=_xz_decoder, errors=(lzma.LZMAError,))
    if compression == ZSTD:
        return _zstd(source, name)
    return source


def _xz_decoder() -> _Decoder:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES)


def _zstd(source: Source, name: str) -> Source:
    # In the standard library from Python 3.14 on.
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        raise Unsupported(f"{name}: zstd compression", "it needs Python 3.14 or newer") from None
    # zstd's own default bound on its window, 128 MiB, is also the largest it asks for.
    return Decompressed(
        source, name, decoder=zstd.ZstdDecompressor, errors=(zstd.ZstdError, ValueError)
    )
