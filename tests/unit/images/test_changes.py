from __future__ import annotations

import pytest

from podrt.errors import InvalidConfig
from podrt.images.changes import parse_changes


def test_parse_changes_of_every_kind_gives_the_defaults() -> None:
    defaults = parse_changes(
        [
            'CMD ["/bin/sh", "-c"]',
            "ENTRYPOINT=/init now",
            "ENV PATH=/bin",
            "ENV NAME some words",
            "env PATH=/sbin",
            "WORKDIR /srv",
            "USER 1:2",
            'LABEL a="b c"',
            "EXPOSE 80 53/udp",
            "STOPSIGNAL INT",
            "VOLUME /data",
        ]
    )
    assert defaults.command == ("/bin/sh", "-c")
    assert defaults.entrypoint == ("/bin/sh", "-c", "/init now")
    assert defaults.env == ("PATH=/sbin", "NAME=some words")
    assert (defaults.workdir, defaults.user) == ("/srv", "1:2")
    assert defaults.labels == {"a": "b c"}
    assert defaults.exposed_ports == ("80/tcp", "53/udp")
    assert (defaults.stop_signal, defaults.volumes) == ("SIGINT", ("/data",))


@pytest.mark.parametrize(
    "change",
    [
        "",
        "CMD",
        "CMD ",
        "FROM scratch",
        "LABEL x",
        "EXPOSE abc",
        "EXPOSE 70000",
        "EXPOSE 0",
        "WORKDIR srv",
        "STOPSIGNAL NOPE",
        "STOPSIGNAL 99",
        "USER a:b:c",
        "ENV A=\0",
        "VOLUME data",
    ],
)
def test_parse_changes_that_are_wrong_names_the_instruction(change: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^--change"):
        parse_changes([change])


def test_parse_changes_twice_keeps_no_memory_of_the_first() -> None:
    parse_changes(["ENV A=1", "LABEL a=1"])
    assert parse_changes([]).env == ()
    assert parse_changes([]).labels == {}


@pytest.mark.parametrize("name", ["SIGTERM", "term", "15", "RTMIN+3", "SIGRTMAX-1"])
def test_parse_changes_takes_every_spelling_of_a_signal(name: str) -> None:
    assert parse_changes([f"STOPSIGNAL {name}"]).stop_signal
