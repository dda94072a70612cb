from __future__ import annotations

import os

import msgspec
import pytest

from podrt.cli.columns import AIX, COLUMNS, DEFAULT, find_columns
from podrt.errors import InvalidConfig
from podrt.linux import caps, proc
from podrt.runtime.top import Task
from podrt.spec.accounts import parse_accounts

INSIDE = parse_accounts("ann:x:7:8::/:/bin/sh\n", "staff:x:8:\nwheel:x:9:\n")
OUTSIDE = parse_accounts("lp:x:7:7::/:/bin/sh\n", "mail:x:8:\n")


def a_task(**changes: object) -> Task:
    own = proc.read_process(os.getpid())
    assert own is not None
    info = msgspec.structs.replace(own, uids=(0, 7, 0, 0), gids=(0, 8, 0, 0), groups=(8, 9, 10))
    info = msgspec.structs.replace(info, **changes)
    return Task(info=info, pid=3, ppid=1, pgid=3, accounts=INSIDE, host_accounts=OUTSIDE)


def cell(word: str, task: Task) -> str:
    (column,) = find_columns([word])
    return column.cell(task)


def test_no_words_are_the_columns_of_podman() -> None:
    heads = [column.head for column in find_columns([])]
    assert heads == ["USER", "PID", "PPID", "%CPU", "ELAPSED", "TTY", "TIME", "COMMAND"]
    assert set(DEFAULT) <= COLUMNS.keys()


def test_words_may_hold_several_and_aix_codes() -> None:
    heads = [column.head for column in find_columns(["pid,user", "%C", "%z"])]
    assert heads == ["PID", "USER", "%CPU", "VSZ"]
    assert set(AIX.values()) <= COLUMNS.keys()


@pytest.mark.parametrize("word", ["nothing", "PID", "-eo", "%q", "pid,,x"])
def test_unknown_word_is_named(word: str) -> None:
    with pytest.raises(InvalidConfig, match="unknown descriptor"):
        find_columns([word])


def test_users_and_groups_have_their_names_on_either_side() -> None:
    task = a_task()
    assert (cell("user", task), cell("huser", task)) == ("ann", "lp")
    assert (cell("group", task), cell("hgroup", task)) == ("staff", "mail")
    assert (cell("ruser", task), cell("rgroup", task)) == ("0", "0")
    assert (cell("groups", task), cell("hgroups", task)) == ("staff,wheel,10", "mail,9,10")


def test_capabilities_are_names_none_or_full() -> None:
    every = (1 << caps.last_cap() + 1) - 1
    assert cell("capeff", a_task(cap_effective=every)) == "full"
    assert cell("capeff", a_task(cap_effective=0)) == "none"
    two = caps.mask(["CAP_KILL", "CAP_CHOWN"])
    assert cell("capbnd", a_task(cap_bounding=two)) == "CHOWN,KILL"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (0, "?"), (136 << 8, "pts/0"), (136 << 8 | 3, "pts/3"), (137 << 8 | 1, "pts/257"),
        (4 << 8 | 1, "tty1"), (5 << 8 | 1, "console"), (204 << 8 | 64, "204:64"),
    ],
)  # fmt: skip
def test_terminals_have_names(device: int, name: str) -> None:
    assert cell("tty", a_task(tty=device)) == name


def test_process_without_arguments_shows_its_name_in_brackets() -> None:
    assert cell("args", a_task(arguments=(), command="sleep")) == "[sleep]"
    assert cell("args", a_task(arguments=("sh", "-c", "a\nb"))) == "sh -c a b"
    assert (cell("pid", a_task()), cell("ppid", a_task())) == ("3", "1")
