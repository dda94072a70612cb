"""Archives made in memory, honest and hostile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", **fields: object) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def directory(name: str, mode: int = 0o755, **fields: object) -> Entry:
    return entry(name, type=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def tar_of(entries: Iterable[Entry], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data) if data else None)
    return buffer.getvalue()


class RecordingSource:
    """Gives `data` in pieces of at most `piece` bytes."""

    def __init__(self, data: bytes, piece: int = 1 << 30) -> None:
        self._file = io.BytesIO(data)
        self._piece = piece

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._piece))
