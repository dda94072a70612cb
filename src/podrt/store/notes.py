"""What the store tells people besides its errors: logging, imported when there is something.

`logging` takes a good part of the time that a command like `pod ps` has in all.
"""

from __future__ import annotations

_INFO = 20
_WARNING = 30


def inform(message: str, *arguments: object) -> None:
    """Something that needs nobody to act, such as a torn tail that was cut."""
    _log(_INFO, message, arguments)


def warn(message: str, *arguments: object) -> None:
    """Something that did not work and will be tried again."""
    _log(_WARNING, message, arguments)


def _log(level: int, message: str, arguments: tuple[object, ...]) -> None:
    import logging

    logging.getLogger("podrt.store").log(level, message, *arguments)
