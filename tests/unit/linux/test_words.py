"""Capabilities, signals and mount tables: words of users and of the kernel."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from podrt.errors import InvalidConfig
from podrt.linux import caps, mounts, signals


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        ("15", 15),
        (" KILL ", 9),
        ("WINCH", 28),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("rtmax-1", 63),
        ("RTMAX", 64),
        ("64", 64),
        ("IOT", 6),
    ],
)
def test_number_takes_every_spelling(word: str, expected: int) -> None:
    assert signals.number(word) == expected


@pytest.mark.parametrize(
    "word",
    ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN+31", "RTMAX-31", "RTMIN-1", "RTMID", "٣", "9 9"],
)
def test_number_of_no_signal_names_the_flag(word: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^--stop-signal: unknown signal"):
        signals.number(word, "--stop-signal")


def test_name_undoes_number_for_every_signal() -> None:
    for number in range(1, 65):
        assert signals.number(signals.name(number)) == number
    assert signals.name(int(signal.SIGTERM)) == "SIGTERM"


def test_every_capability_of_this_kernel_has_a_name() -> None:
    assert caps.last_cap() < len(caps.NAMES)


def test_mask_and_names_undo_each_other() -> None:
    names = ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE")
    assert caps.mask(names) == 1 | 1 << 21 | 1 << 40
    assert caps.names_of(caps.mask(names)) == names
    assert caps.names_of(1 << 60) == ()


@pytest.mark.parametrize("word", ["sys_admin", "CAP_SYS_ADMIN", "cap_sys_admin"])
def test_full_name_takes_every_spelling(word: str) -> None:
    assert caps.full_name(word) == "CAP_SYS_ADMIN"


def test_full_name_of_no_capability_names_the_flag() -> None:
    with pytest.raises(InvalidConfig, match=r"^--cap-drop: unknown capability 'nope'"):
        caps.full_name("nope", "--cap-drop")


def test_current_agrees_with_proc() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    held = dict(line.split(":\t") for line in lines if line.startswith("Cap"))
    assert caps.current("Eff") == int(held["CapEff"], 16)
    assert caps.current("Bnd") == int(held["CapBnd"], 16)
    with pytest.raises(KeyError):
        caps.current("Nope")


def test_parse_mounts_undoes_the_kernels_escapes() -> None:
    found = mounts.parse_mounts("dev /a\\040b\\011c\\134d ext4 rw,relatime 0 0\nshort line\n\n")
    assert found == (mounts.Mount("dev", "/a b\tc\\d", "ext4", ("rw", "relatime")),)


def test_read_mounts_finds_proc() -> None:
    assert any(mount.target == "/proc" for mount in mounts.read_mounts())
