"""podman's spellings of signals: "TERM", "SIGTERM", "term", "15", "RTMIN+3"."""

from __future__ import annotations

import signal

from podrt.errors import InvalidConfig

# The kernel's number of real-time signals starts at 32; libc keeps the first two for itself.
_RTMIN = 34
_RTMAX = 64

NUMBERS = {
    item.name.removeprefix("SIG"): int(item)
    for item in signal.Signals
    if item.name not in ("SIGRTMIN", "SIGRTMAX")
} | {"POLL": 29, "IOT": 6, "CLD": 17, "STKFLT": 16}


def number(word: str, field: str = "--signal") -> int:
    """The number of the signal `word` names. Raises: InvalidConfig naming `field`."""
    name = word.strip().upper().removeprefix("SIG")
    found = NUMBERS.get(name)
    if found is None:
        found = _real_time(name) if name.startswith("RT") else _plain(name)
    if found is None or not 1 <= found <= _RTMAX:
        raise InvalidConfig(field, f"unknown signal {word!r}")
    return found


def name(signal_number: int) -> str:
    """The name of a signal with SIG before it; its number as text when it has none."""
    for word, value in NUMBERS.items():
        if value == signal_number and word not in ("IOT", "CLD", "POLL"):
            return f"SIG{word}"
    if _RTMIN <= signal_number <= _RTMAX:
        return f"SIGRTMIN+{signal_number - _RTMIN}" if signal_number > _RTMIN else "SIGRTMIN"
    return str(signal_number)


def _plain(word: str) -> int | None:
    # isdecimal alone would take the digits of other scripts, which nobody means here.
    return int(word) if word.isascii() and word.isdecimal() and len(word) <= 3 else None


def _real_time(word: str) -> int | None:
    """RTMIN, RTMIN+n, RTMAX, RTMAX-n."""
    base, sign = (_RTMIN, "+") if word.startswith("RTMIN") else (_RTMAX, "-")
    if word[:5] not in ("RTMIN", "RTMAX"):
        return None
    rest = word[5:]
    if not rest:
        return base
    offset = _plain(rest[1:])
    if rest[0] != sign or offset is None:
        return None
    value = base + offset if sign == "+" else base - offset
    return value if _RTMIN <= value <= _RTMAX else None
