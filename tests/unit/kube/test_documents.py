from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from podrt.errors import InvalidConfig, NotFound, PodrtError
from podrt.kube import documents
from podrt.kube.documents import MAX_FILE_BYTES, parse_documents, read_documents


def values(text: str) -> list[dict[str, object]]:
    return [document.value for document in parse_documents(text.encode(), "a.yaml")]


def refused(text: str | bytes) -> str:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InvalidConfig) as caught:
        parse_documents(data, "a.yaml")
    said = str(caught.value)
    assert said.startswith("a.yaml: ")
    assert "\n" not in said
    return said


def test_parse_every_kind_of_value_gives_jsons() -> None:
    text = """
    text: plain
    quoted: "1"
    number: 42
    octal: 0644
    float: 1.5
    exponent: 1e3
    yes: on
    no: false
    nothing: null
    tagged: !!str 12
    list: [a, {b: c}]
    block: |
      one
      two
    """
    (value,) = values(text.replace("yes:", '"yes":').replace("no:", '"no":'))
    assert value == {
        "text": "plain",
        "quoted": "1",
        "number": 42,
        "octal": 0o644,
        "float": 1.5,
        "exponent": 1000.0,
        "yes": True,
        "no": False,
        "tagged": "12",
        "list": ["a", {"b": "c"}],
        "block": "one\ntwo\n",
    }


def test_parse_several_documents_leaves_empty_ones_out() -> None:
    documents = parse_documents(b"---\na: 1\n---\n---\n# nothing\n---\nb: 2\n", "a.yaml")
    assert [(document.line, document.value) for document in documents] == [
        (2, {"a": 1}),
        (7, {"b": 2}),
    ]


def test_parse_anchors_and_merges_are_followed() -> None:
    text = "base: &b {x: 1, y: 2}\none:\n  <<: *b\n  y: 3\nlist: [*b]\n"
    (value,) = values(text)
    assert value["one"] == {"x": 1, "y": 3}
    assert value["list"] == [{"x": 1, "y": 2}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("# only a comment\n---\n", "the file is empty"),
        ("a: [1, 2\n", "line 2: not YAML"),
        ("a: b: c\n", "line 1: not YAML"),
        ("\tkey: value\n", "line 1: not YAML"),
        ("just words\n", "line 1: a Kubernetes object is a mapping"),
        ("- a\n- b\n", "line 1: a Kubernetes object is a mapping"),
        ("a: 1\nb: 2\na: 3\n", "line 3: duplicate key 'a'"),
        ("a:\n  b: {c: 1, c: 2}\n", "line 2: duplicate key 'c'"),
        ("a: *nowhere\n", "line 1: "),
        ("a: &x [*x]\n", "alias *x contains itself"),
        ("1: a\n", "a key must be a string"),
        ("? [a]\n: b\n", "a key must be a string"),
        ("a: !!python/object/apply:os.system [id]\n", "unknown tag"),
        ("a: !!int x\n", "unknown tag"),
        ("<<: 1\n", "only mappings can be merged"),
        (b"\xff\xfe\x00", "line 1: not UTF-8 text"),
        (b"a: \x01\n", "not YAML"),
        (b"x" * (MAX_FILE_BYTES + 1), "larger than 4 MiB"),
        ("[" * 100, "nested deeper than"),
        # Newer libraries have a limit of their own, further away than ours.
        ("[" * 5000, "nest"),
        ("a:\n" + "".join(" " * at + "- \n" for at in range(1, 90)), "nested deeper than"),
    ],
)
def test_parse_what_is_wrong_names_file_and_line(text: str | bytes, words: str) -> None:
    assert words in refused(text)


def bomb(leaf: str, use: str, levels: int = 30) -> str:
    lines = [f"a0: &a0 {leaf}"]
    for level in range(1, levels):
        used = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + use % used)
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x]", "[%s]"),
        bomb("{k: v}", "{<<: [%s]}"),
        "a: [" + "1," * 300_000 + "1]",
        "a: {" + ",".join(f"k{at}: 1" for at in range(200_000)) + "}",
    ],
)
def test_parse_a_bomb_ends_soon_in_little_memory(text: str) -> None:
    tracemalloc.start()
    try:
        assert "expands to more than" in refused(text)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_bomb_without_our_limits_grows_past_all_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    text = bomb("[twenty characters ok]", "[%s]", levels=8)
    assert "expands to more than" in refused(text)
    for limit in ("MAX_NODES", "MAX_TEXT"):
        monkeypatch.setattr(documents, limit, 1 << 60)
    (value,) = values(text)
    assert len(msgspec.json.encode(value["a7"])) > 64 << 20


def test_parse_an_alias_of_much_text_ends_soon() -> None:
    text = f"a: &a {'x' * 1_000_000}\nb: [{', '.join(['*a'] * 1000)}]\n"
    assert "expands to more than 8 MiB" in refused(text)


def test_read_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.yaml: no such file"):
        read_documents(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(InvalidConfig, match="Is a directory"):
        read_documents(str(tmp_path))


@given(st.binary(max_size=400))
def test_parse_any_bytes_ends_in_values_or_an_error(data: bytes) -> None:
    began = time.monotonic()
    try:
        parse_documents(data, "a.yaml")
    except PodrtError as error:
        assert "\n" not in str(error)
    assert time.monotonic() - began < 10


# Words that YAML 1.1 may read in two ways ("0E0", a next-line character) are left out.
_WORDS = st.text("abcxyzüß:#-{}[]'\"&*!|>%@, \n\t", max_size=20)
_KEYS = st.text("abcxyzüß:#-{}[]'\"&*!|>%@, ", max_size=20)
_JSON = st.recursive(
    st.booleans() | st.integers(-(10**30), 10**30) | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner),
    max_leaves=20,
)


@given(st.dictionaries(_KEYS, _JSON, min_size=1))
def test_parse_what_pyyaml_dumped_gives_it_back(value: dict[str, object]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    assert parse_documents(text.encode(), "a.yaml")[0].value == value
