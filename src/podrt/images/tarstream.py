"""Tar archives read as a stream, trusting nothing in them.

The standard library's reader keeps every member and reads extended headers of any size into
memory; this one holds one header at a time and bounds each. Formats: v7, ustar, pax (POSIX)
and GNU long names; GNU sparse members are Unsupported.

Source: pax(1), tar(5); every error names the archive and, where there is one, the member.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from podrt.errors import InvalidConfig, Unsupported

BLOCK_BYTES = 512
# A pax header carries extended attributes of at most 64 KiB each; GNU names end at PATH_MAX.
MAX_HEADER_BYTES = 1 << 20
MAX_NAME_BYTES = 4095
MAX_SIZE_BYTES = 1 << 46
PIECE_BYTES = 1 << 18
# Headers of headers: pax, long name and long link before one member, with room to spare.
_MAX_EXTENSIONS = 16
_ID_LIMIT = (1 << 32) - 1

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_DATA_KINDS = frozenset({b"0", b"\0", b"7"})
_XATTR = b"SCHILY.xattr."
_KINDS = frozenset({REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO})


class Source(Protocol):
    """Bytes in order: `read(size)` gives at most `size` bytes, and b"" at the end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an archive. `kind` is the type flag; names are bytes as in the archive.

    Units: `mtime_ns` nanoseconds since 1970.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[bytes, bytes] = {}

    @property
    def shown(self) -> str:
        """The name for people: unprintable characters escaped, cut at 100."""
        text = os.fsdecode(self.name[:100])
        return text if text.isprintable() else ascii(text)[1:-1]


class TarReader:
    """The members of `source`, an archive called `name` in errors.

    `next_member` skips what is left of the one before it; `pieces` gives its content.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name
        self._left = 0
        self._padding = 0
        self._offset = 0
        self._count = 0
        self._globals: dict[bytes, bytes] = {}

    def next_member(self) -> Member | None:
        """The next member, None at the end. Raises: InvalidConfig, Unsupported."""
        for _piece in self.pieces():
            pass
        extra: dict[bytes, bytes] = {}
        for _ in range(_MAX_EXTENSIONS):
            block = self._header()
            if block is None:
                if extra:
                    raise self.bad("the archive ends after an extended header")
                return None
            if not self._take_extension(block, extra):
                return self._member(block, {**self._globals, **extra})
        raise self.bad("too many extended headers in a row")

    def pieces(self) -> Iterator[bytes]:
        """What is left of the current member's content, piece by piece."""
        while self._left:
            piece = self._source.read(min(self._left, PIECE_BYTES))
            if not piece:
                raise self.bad("unexpected end of the archive")
            self._left -= len(piece)
            self._offset += len(piece)
            yield piece
        if self._padding:
            padding, self._padding = self._padding, 0
            self._exactly(padding)

    def bad(self, reason: str, member: Member | None = None) -> InvalidConfig:
        """The error for this archive: `reason` with the member, or with the place."""
        where = f"member {member.shown!r}" if member is not None else f"offset {self._offset}"
        return InvalidConfig(self._name, f"{reason} ({where})")

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._source.read(size - len(data))
            if not piece:
                raise self.bad("unexpected end of the archive")
            data += piece
        self._offset += size
        return bytes(data)

    def _header(self) -> bytes | None:
        """The next header block, None at the end (zero blocks, or the end between members)."""
        first = self._source.read(1)
        if not first:
            if not self._count:
                raise InvalidConfig(self._name, "the file is empty, not a tar archive")
            return None
        self._offset += 1
        block = first + self._rest_of_header()
        self._count += 1
        if not any(block):
            return None
        self._check_sum(block)
        return block

    def _rest_of_header(self) -> bytes:
        try:
            return self._exactly(BLOCK_BYTES - 1)
        except InvalidConfig:
            if self._count:
                raise
            raise InvalidConfig(self._name, "not a tar archive") from None

    def _check_sum(self, block: bytes) -> None:
        try:
            stored = _number(block[148:156])
        except ValueError:
            stored = -1
        # The field itself counts as eight spaces; ancient tars added up signed bytes.
        rest = block[:148] + b" " * 8 + block[156:]
        unsigned = sum(rest)
        signed = unsigned - 256 * sum(byte > 127 for byte in rest)
        if stored not in (unsigned, signed):
            reason = "not a tar archive" if self._count == 1 else "damaged header"
            raise self.bad(reason)

    def _take_extension(self, block: bytes, extra: dict[bytes, bytes]) -> bool:
        """Take in a header that describes the next member; whether it was one."""
        kind = block[156:157]
        if kind not in (b"x", b"X", b"g", b"L", b"K"):
            return False
        data = self._extension_data(block)
        if kind in (b"L", b"K"):
            extra[b"path" if kind == b"L" else b"linkpath"] = data.split(b"\0", 1)[0]
        elif kind == b"g":
            self._globals.update(self._pax(data))
            if sum(map(len, self._globals.values())) > MAX_HEADER_BYTES:
                raise self.bad("global extended headers of more than 1 MiB")
        else:
            extra.update(self._pax(data))
        return True

    def _extension_data(self, block: bytes) -> bytes:
        size = self._field(block[124:136], "size")
        if size > MAX_HEADER_BYTES:
            raise self.bad(f"an extended header of {size} bytes")
        data = self._exactly(size)
        if size % BLOCK_BYTES:
            self._exactly(BLOCK_BYTES - size % BLOCK_BYTES)
        return data

    def _pax(self, data: bytes) -> dict[bytes, bytes]:
        """Records "LENGTH KEY=VALUE\\n"; LENGTH counts itself."""
        records: dict[bytes, bytes] = {}
        at = 0
        while at < len(data) and data[at]:
            length, space, _ = data[at : at + 20].partition(b" ")
            if not space or not length.isdigit():
                raise self.bad("damaged pax header")
            end = at + int(length)
            key, equals, value = data[at + len(length) + 1 : end - 1].partition(b"=")
            if end > len(data) or not key or not equals or data[end - 1 : end] != b"\n":
                raise self.bad("damaged pax header")
            records[key] = value
            at = end
        return records

    def _field(self, raw: bytes, what: str) -> int:
        try:
            return _number(raw)
        except ValueError:
            raise self.bad(f"damaged header: {what}") from None

    def _member(self, block: bytes, pax: Mapping[bytes, bytes]) -> Member:
        kind = block[156:157]
        name = self._name_of(block, pax)
        # Version 7 had no directories: a name that ends in a slash was one.
        if kind in _DATA_KINDS:
            kind = DIRECTORY if name.endswith(b"/") else REGULAR
        member = Member(
            name=name,
            kind=kind,
            mode=self._field(block[100:108], "mode") & 0o7777,
            uid=self._owner(block[108:116], pax.get(b"uid"), "uid"),
            gid=self._owner(block[116:124], pax.get(b"gid"), "gid"),
            size_bytes=self._size(block, pax),
            mtime_ns=self._mtime(block, pax),
            link=pax.get(b"linkpath", block[157:257].split(b"\0", 1)[0]),
            major=self._field(block[329:337], "major") if kind in (CHAR, BLOCK) else 0,
            minor=self._field(block[337:345], "minor") if kind in (CHAR, BLOCK) else 0,
            xattrs=_xattrs(pax),
        )
        self._check(member, pax)
        self._expect_content(member)
        return member

    def _expect_content(self, member: Member) -> None:
        # Links may state the size of what they link to, with no content behind it.
        has_content = member.kind == REGULAR
        self._left = member.size_bytes if has_content else 0
        self._padding = -self._left % BLOCK_BYTES

    def _check(self, member: Member, pax: Mapping[bytes, bytes]) -> None:
        if member.kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax):
            raise Unsupported(f"{self._name}: member {member.shown!r}", "a sparse member")
        if member.kind not in _KINDS:
            raise self.bad(f"a member of unknown type {member.kind!r}", member)
        for text, what in ((member.name, "name"), (member.link, "link target")):
            if len(text) > MAX_NAME_BYTES or b"\0" in text:
                raise self.bad(f"a {what} that is too long or holds NUL", member)

    def _name_of(self, block: bytes, pax: Mapping[bytes, bytes]) -> bytes:
        if b"path" in pax:
            return pax[b"path"]
        name = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0":
            prefix = block[345:500].split(b"\0", 1)[0]
            return prefix + b"/" + name if prefix else name
        return name

    def _owner(self, raw: bytes, pax: bytes | None, what: str) -> int:
        number = self._decimal(pax, what) if pax is not None else self._field(raw, what)
        # The kernel reads the highest number as "leave it as it is".
        if not 0 <= number < _ID_LIMIT:
            raise self.bad(f"{what} {number} is out of range")
        return number

    def _size(self, block: bytes, pax: Mapping[bytes, bytes]) -> int:
        raw = pax.get(b"size")
        size = (
            self._decimal(raw, "size") if raw is not None else self._field(block[124:136], "size")
        )
        if not 0 <= size <= MAX_SIZE_BYTES:
            raise self.bad(f"a member of {size} bytes")
        return size

    def _decimal(self, text: bytes, what: str) -> int:
        if not text.isdigit() or len(text) > 20:
            raise self.bad(f"damaged pax header: {what}")
        return int(text)

    def _mtime(self, block: bytes, pax: Mapping[bytes, bytes]) -> int:
        text = pax.get(b"mtime")
        if text is None:
            return _clamped_ns(self._field(block[136:148], "mtime"), 0)
        whole, _, fraction = text.partition(b".")
        digits = whole.removeprefix(b"-")
        if not digits.isdigit() or len(digits) > 20 or (fraction and not fraction.isdigit()):
            raise self.bad("damaged pax header: mtime")
        return _clamped_ns(int(whole), int(fraction[:9].ljust(9, b"0")))


def _clamped_ns(seconds: int, nanoseconds: int) -> int:
    """A time every file system takes: between 1901 and 2446 (ext4's range)."""
    return max(-(1 << 31), min(seconds, (1 << 34) - (1 << 31) - 1)) * 1_000_000_000 + nanoseconds


def _number(raw: bytes) -> int:
    """A header's number: octal digits, or GNU's base 256. Raises: ValueError."""
    if raw[0] in (0x80, 0xFF):
        value = int.from_bytes(raw[1:], "big")
        return value - (1 << 8 * (len(raw) - 1)) if raw[0] == 0xFF else value
    text = raw.split(b"\0", 1)[0].strip()
    if text and not text.isdigit():
        raise ValueError(text)
    return int(text or b"0", 8)


def _xattrs(pax: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    found = {}
    for key, value in pax.items():
        # libarchive's own spelling is base64 of what SCHILY's holds plainly; tars that have
        # it have both.
        if key.startswith(_XATTR):
            found[key[len(_XATTR) :]] = value
    return found
