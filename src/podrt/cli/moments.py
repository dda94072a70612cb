"""Moments as podman's filters take them."""

from __future__ import annotations

import re
import time

from podrt.errors import InvalidConfig

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def point_in_time_ns(text: str) -> int:
    """A moment as podman's filters take it: seconds since 1970, RFC 3339, "10m" for so long ago.

    Raises: InvalidConfig.
    """
    if text.isascii() and text.isdecimal():
        return int(text) * 10**9
    if _DURATION.fullmatch(text):
        ago_s = sum(float(count) * _SECONDS[unit] for count, unit in _PART.findall(text))
        return time.time_ns() - round(ago_s * 1e9)
    # Few commands come here, and the module costs a millisecond.
    import datetime

    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidConfig("--filter", f"until={text}: no time and no duration") from None
    return round(moment.timestamp() * 1e9)
