from __future__ import annotations

import pytest

from podrt.errors import InvalidConfig
from podrt.images.reference import candidates, id_prefix, normalise, parse_reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", "localhost/busybox:latest"),
        ("busybox:1.36", "localhost/busybox:1.36"),
        ("team/app", "localhost/team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("quay.io/team/app:v1", "quay.io/team/app:v1"),
        ("host:5000/app", "host:5000/app:latest"),
        ("a__b/c-d--e.f:X_1.2", "localhost/a__b/c-d--e.f:X_1.2"),
    ],
)
def test_normalise_a_name_gives_the_full_one(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("busybox", ("localhost/busybox:latest", "docker.io/library/busybox:latest")),
        ("team/app:2", ("localhost/team/app:2", "docker.io/team/app:2")),
        ("quay.io/app", ("quay.io/app:latest",)),
        (
            f"app:1@{DIGEST}",
            (f"localhost/app@{DIGEST}", f"docker.io/library/app@{DIGEST}"),
        ),
    ],
)
def test_candidates_of_a_name_come_in_podmans_order(text: str, expected: tuple[str, ...]) -> None:
    assert candidates(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid"),
        ("Busybox", "must be lowercase"),
        ("a b", "invalid"),
        ("a//b", "invalid"),
        ("/a", "invalid"),
        ("a:", "tag"),
        ("a:b:c", "tag"),
        ("a:" + "x" * 129, "tag"),
        ("a@sha256:12", "digest"),
        ("../../etc/passwd", "not a registry"),
        ("a\nb", "invalid"),
        ("a" * 300, "at most 255"),
        ("-.com/a", "registry"),
        ("ä", "invalid"),
    ],
)
def test_parse_a_wrong_name_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as caught:
        candidates(text, "spec.containers[0].image")
    assert str(caught.value).startswith("spec.containers[0].image: ")
    assert "\n" not in str(caught.value)


def test_normalise_a_digest_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="not a digest"):
        normalise(f"a@{DIGEST}")


def test_parse_a_port_is_not_taken_for_a_tag() -> None:
    reference = parse_reference("host:5000/a/b")
    assert (reference.registry, reference.path, reference.tag) == ("host:5000", "a/b", "latest")


def test_id_prefix_takes_only_hex() -> None:
    assert id_prefix("sha256:" + "0f" * 32) == "0f" * 32
    assert id_prefix("beef") == "beef"
    assert id_prefix("busybox") is None
    assert id_prefix("0" * 65) is None
