"""IDs and names: 64 hex digits, 12 of them shown, and names as podman allows them.

Source: semantics.md section 1.
"""

from __future__ import annotations

import os
import re

from podrt.errors import InvalidConfig

ID_DIGITS = 64
SHORT_DIGITS = 12
# A container's cgroup and its log carry the name nowhere, so only readability bounds it;
# 253 is the longest host name, and a pod's name becomes one.
MAX_NAME = 253

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_HEX = re.compile(r"[0-9a-f]+")

_MOODS = (
    "able amber ample bold brave brisk bright calm civil clear clever cosy crisp daring deft eager "
    "early even fair fast fine firm fleet fond frank fresh gentle glad golden grand great green "
    "happy hardy honest humble jolly keen kind lively loyal lucid lucky mellow merry mild modest "
    "neat noble patient plain polite prime proud quick quiet rapid ready rosy serene sharp silent "
    "silver sleek smart smooth snug sober solid spry stable steady still strong subtle sunny sure "
    "swift tall tidy true vivid warm wise witty young"
).split()
_BIRDS = (
    "avocet bittern bunting buzzard chough coot cormorant crake crane curlew dipper dotterel dove "
    "duck dunlin dunnock eagle egret eider falcon finch fulmar gannet godwit goose grebe grouse "
    "gull harrier heron hobby hoopoe ibis jackdaw jay kestrel kite kittiwake knot lapwing lark "
    "linnet magpie mallard martin merlin nightjar nuthatch oriole osprey ouzel owl partridge "
    "petrel pipit plover pochard puffin quail rail raven redpoll robin rook ruff sandpiper scaup "
    "scoter serin shag shrike siskin skua skylark smew snipe sparrow starling stilt stint stork "
    "swallow swan swift teal tern thrush tit turnstone twite wagtail warbler whimbrel widgeon wren"
).split()


def new_id() -> str:
    """A fresh ID: 64 random hex digits."""
    return os.urandom(ID_DIGITS // 2).hex()


def short_id(full: str) -> str:
    """The 12 digits that people see."""
    return full[:SHORT_DIGITS]


def is_full_id(text: str) -> bool:
    """Whether `text` has the shape of a full ID."""
    return len(text) == ID_DIGITS and _HEX.fullmatch(text) is not None


def is_id_prefix(text: str) -> bool:
    """Whether `text` could be the beginning of an ID."""
    return 0 < len(text) <= ID_DIGITS and _HEX.fullmatch(text) is not None


def check_name(name: str, field: str = "name") -> str:
    """Return `name` if podman would take it.

    Raises: InvalidConfig naming `field`.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidConfig(
            field, f"{name!r}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument"
        )
    if len(name) > MAX_NAME:
        raise InvalidConfig(field, f"{name[:32]!r}...: names have at most {MAX_NAME} characters")
    return name


def generate_name() -> str:
    """A name like `brisk_heron`, for who gave none; the state says whether it is free."""
    number = int.from_bytes(os.urandom(8), "little")
    mood = _MOODS[number % len(_MOODS)]
    bird = _BIRDS[(number >> 20) % len(_BIRDS)]
    return f"{mood}_{bird}"


def generate_unique_name() -> str:
    """A generated name with digits behind it, for states so full that plain ones clash."""
    return f"{generate_name()}{int.from_bytes(os.urandom(4), 'little')}"
