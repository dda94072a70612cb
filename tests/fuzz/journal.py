"""The journal reader: what a monitor wrote and nobody damaged is always found, and only that."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

from fuzz.damage import junk, shuffle_pieces, spoil
from podrt.errors import StoreCorrupt, Unsupported
from podrt.store.journal import (
    HEADER_BYTES,
    RECORD_BYTES,
    JournalReader,
    JournalRecord,
    encode_header,
    encode_record,
    read_header,
    read_journal,
)

BOOT, GROUP = "0123456789abcdef" * 2, "ab" * 32
EDGES = (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
# More than any damage here has room for: such a number is nobody's next one.
FAR = 1 << 20


class Journals:
    """`JournalReader`, in one go and while the file grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input"

    def run(self, seed: int) -> str:
        """See `fuzz.target`."""
        rng = random.Random(seed)
        written = [random_record(number, rng) for number in range(1, rng.randrange(1, 30))]
        header = encode_header(BOOT, GROUP)
        choice = rng.random()
        if choice < 0.1:
            return self._with_header(spoil(header, rng), written)
        if choice < 0.6:
            body, expected = rot(written, rng)
            return self._whole(header + body, expected, written, rng)
        if choice < 0.75:
            body = with_strangers(written, rng)
            return self._whole(header + body, written, written, rng)
        pieces = [encode_record(each) for each in written]
        if choice < 0.85:
            pieces = [forge(piece, rng) if rng.random() < 0.2 else piece for piece in pieces]
            return self._orderly(header + b"".join(shuffle_pieces(pieces, rng)))
        body = spoil(b"".join(shuffle_pieces(pieces, rng)) or b"\0", rng)
        return self._known(header + body, written, rng)

    def _with_header(self, header: bytes, written: list[JournalRecord]) -> str:
        data = header + b"".join(map(encode_record, written))
        self._path.write_bytes(data)
        is_intact = data[:HEADER_BYTES] == encode_header(BOOT, GROUP)
        try:
            found = read_journal(str(self._path))
        except (StoreCorrupt, Unsupported):
            assert not is_intact
            return "refused"
        assert is_intact or len(data) < HEADER_BYTES or not any(data[:HEADER_BYTES])
        assert is_intact or found == []
        assert not is_intact or read_header(str(self._path)) == (BOOT, GROUP)
        return "no header"

    def _whole(
        self,
        data: bytes,
        expected: list[JournalRecord],
        written: list[JournalRecord],
        rng: random.Random,
    ) -> str:
        """What is whole is there; else only what was torn and completed by what follows it."""
        self._path.write_bytes(data)
        found = read_journal(str(self._path))
        assert [record for record in found if record in expected] == expected
        assert [record for record in written if record in found] == found
        assert self._grown(data, rng) == found
        return "all" if expected else "empty"

    def _orderly(self, data: bytes) -> str:
        """Anything that carries its checksum may be taken, in the order of the numbers."""
        self._path.write_bytes(data)
        found = read_journal(str(self._path))
        seqs = [record.seq for record in found]
        assert seqs == sorted(set(seqs))
        assert len(found) <= len(data) // RECORD_BYTES
        return "forged"

    def _known(self, data: bytes, written: list[JournalRecord], rng: random.Random) -> str:
        """However it was mixed up: nothing but what was written, each once, and in order."""
        self._path.write_bytes(data)
        found = read_journal(str(self._path))
        seqs = [record.seq for record in found]
        assert seqs == sorted(set(seqs))
        assert all(written[record.seq - 1] == record for record in found)
        assert self._grown(data, rng) == found
        return "some" if found else "none"

    def _grown(self, data: bytes, rng: random.Random) -> list[JournalRecord]:
        """The records as a reader finds them that looks while the file is written."""
        cuts = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(4)))
        found: list[JournalRecord] = []
        seq = at = 0
        self._path.unlink()
        reader = JournalReader(str(self._path))
        for cut in (*cuts, len(data)):
            self._path.write_bytes(data[:cut])
            if rng.random() < 0.3:
                # Another process goes on where the log says that the folding stopped.
                reader.close()
                reader = JournalReader(str(self._path), seq=seq, bytes_read=at)
            found += reader.read()
            seq, at = reader.seq, reader.bytes_read
        reader.close()
        return found


def random_record(seq: int, rng: random.Random) -> JournalRecord:
    return JournalRecord(
        boot_id=BOOT,
        kind=rng.choice((rng.randrange(1, 14), rng.randrange(1 << 16))),
        flags=rng.randrange(8),
        seq=seq,
        at_ns=rng.getrandbits(63),
        id=rng.choice((GROUP, "cd" * 32, "00" * 32, rng.randbytes(32).hex())),
        run=rng.randrange(5),
        pid=rng.randrange(-1, 1 << 22),
        start_ticks=rng.getrandbits(40),
        code=rng.randrange(-1, 256),
        error=rng.randrange(134),
        a=rng.choice(EDGES),
        b=rng.getrandbits(64),
    )


def rot(written: list[JournalRecord], rng: random.Random) -> tuple[bytes, list[JournalRecord]]:
    """A journal in which records were torn and rotted, and those that are whole.

    A damaged record leaves at least a byte where it was: one writer writes in order, and goes on
    behind what it could not write as a whole.
    """
    body, whole = b"", []
    for record in written:
        data = encode_record(record)
        choice = rng.random()
        if choice < 0.1:
            data = data[: rng.randrange(1, RECORD_BYTES)]
        elif choice < 0.2:
            data = flipped(data, rng)
        elif choice < 0.25:
            data = bytes(RECORD_BYTES)
        else:
            whole.append(record)
            if choice < 0.35:
                # Written again, as the disk was full the first time.
                body += data[: rng.randrange(RECORD_BYTES)]
            elif choice < 0.4:
                body += junk(rng)
        body += data
    return body + (junk(rng) if rng.random() < 0.3 else b""), whole


def flipped(data: bytes, rng: random.Random) -> bytes:
    after = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 20))):
        after[rng.randrange(len(after))] ^= rng.randrange(1, 256)
    return bytes(after) if after != data else bytes(len(data))


def with_strangers(written: list[JournalRecord], rng: random.Random) -> bytes:
    """The whole journal, with valid records in it that cannot be the next ones."""
    body = b""
    for record in written:
        if rng.random() < 0.3:
            number = rng.choice((0, record.seq - 1, FAR, *EDGES[2:]))
            body += encode_record(record._replace(seq=number, code=77))
        body += encode_record(record)
    return body


def forge(data: bytes, rng: random.Random) -> bytes:
    """The record with other values and the checksum that fits."""
    after = bytearray(data)
    at = rng.choice((4, 8, 16, 56, 60, 72))
    after[at : at + 8] = rng.choice(
        (*(edge.to_bytes(8, "little") for edge in EDGES), rng.randbytes(8))
    )
    return zlib.crc32(after[4:]).to_bytes(4, "little") + bytes(after[4:])
