"""Where `podrt oci` says what went wrong: standard error, and the caller's log file.

Source: runc(8), --log and --log-format; container managers read the last error from there.
"""

from __future__ import annotations

import datetime
import os
import sys

import msgspec

from podrt.errors import InvalidConfig

FORMATS = ("text", "json")
_json = msgspec.json.Encoder().encode


class Log:
    """Warnings and errors; `path` is the file they go to besides ("" is none)."""

    def __init__(self, path: str, form: str, *, debug: bool) -> None:
        if form not in FORMATS:
            raise InvalidConfig("--log-format", f"{form!r} is not {' or '.join(FORMATS)}")
        self._form = form
        self._debug = debug
        self._fd = -1
        if path:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._fd = os.open(path, flags, 0o644)
            except OSError as exc:
                raise InvalidConfig("--log", f"{path}: {os.strerror(exc.errno or 0)}") from exc

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def error(self, text: str) -> None:
        """What ended the command."""
        text = " ".join(text.split("\n"))
        print(f"podrt-oci: {text}", file=sys.stderr)
        self._write("error", text)

    def warning(self, text: str) -> None:
        """What failed without ending the command."""
        text = " ".join(text.split("\n"))
        if self._fd < 0:
            print(f"podrt-oci: warning: {text}", file=sys.stderr)
        self._write("warning", text)

    def debug(self, text: str) -> None:
        """What only somebody who looks for a fault wants to know."""
        if self._debug:
            if self._fd < 0:
                print(f"podrt-oci: debug: {text}", file=sys.stderr)
            self._write("debug", text)

    def _write(self, level: str, text: str) -> None:
        if self._fd < 0:
            return
        time = datetime.datetime.now().astimezone().isoformat(timespec="microseconds")
        # What the command line could not decode is no Unicode, and JSON holds nothing else.
        text = text.encode(errors="replace").decode()
        if self._form == "json":
            line = _json({"level": level, "msg": text, "time": time})
        else:
            line = b"time=%s level=%s msg=%s" % (_json(time), level.encode(), _json(text))
        try:
            os.write(self._fd, line + b"\n")
        except OSError:
            # A log that is full must not hide the error itself, which is on standard error.
            pass
