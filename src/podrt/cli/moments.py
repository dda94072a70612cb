"""Moments as podman's flags and filters take them."""

from __future__ import annotations

import re
import time

from podrt.errors import InvalidConfig

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FRACTION = re.compile(r"(?<=:\d\d)\.(\d{1,9})")
_STAMP = re.compile(r"(\d+)(?:\.(\d{1,9}))?")


def duration_s(text: str) -> float | None:
    """Seconds of a duration as Go writes it ("1h30m"); None for any other text."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text))


def point_in_time_ns(flag: str, text: str) -> int:
    """A moment: seconds since 1970, RFC 3339 or a part of it, "10m" for so long ago.

    Raises: InvalidConfig.
    """
    stamp = _STAMP.fullmatch(text) if text.isascii() else None
    if stamp is not None:
        return int(stamp[1]) * 10**9 + int((stamp[2] or "0").ljust(9, "0"))
    ago_s = duration_s(text)
    if ago_s is not None:
        return time.time_ns() - round(ago_s * 1e9)
    # Few commands come here, and the module costs a millisecond.
    import datetime

    # A datetime holds microseconds, a log line nanoseconds.
    fraction = _FRACTION.search(text)
    whole = text if fraction is None else text[: fraction.start()] + text[fraction.end() :]
    try:
        moment = datetime.datetime.fromisoformat(whole)
    except ValueError:
        raise InvalidConfig(flag, f"{text!r} is no time and no duration") from None
    return int(moment.timestamp()) * 10**9 + int(fraction[1].ljust(9, "0") if fraction else 0)
