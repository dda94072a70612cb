"""Reading logs in the k8s-file format."""

from __future__ import annotations

from pathlib import Path

from podrt.runtime.logs import LogReader, last_lines, parse_line

TIME = b"2026-11-21T21:05:00.123456789+00:00"


def line(text: bytes, kind: bytes = b"F", stream: bytes = b"stdout") -> bytes:
    return TIME + b" " + stream + b" " + kind + b" " + text + b"\n"


def test_parse_whole_and_part_keep_the_newline_of_the_whole_only() -> None:
    whole, part = parse_line(line(b"a b")[:-1]), parse_line(line(b"", b"P")[:-1])
    assert whole is not None and whole.text == b"a b\n"
    assert part is not None and part.text == b""


def test_parse_damaged_line_gives_none() -> None:
    assert parse_line(b"no log line") is None
    assert parse_line(TIME + b" stdout X text") is None


def test_read_line_written_in_two_halves_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    text = line(b"first") + line(b"second")
    path.write_bytes(text[:-9])
    reader = LogReader(str(path))
    assert [one.text for one in reader.read()] == [b"first\n"]
    with path.open("ab") as file:
        file.write(text[-9:])
    assert [one.text for one in reader.read()] == [b"second\n"]
    reader.close()


def test_read_after_rotation_goes_on_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "ctr.log"
    path.write_bytes(line(b"old"))
    reader = LogReader(str(path))
    assert [one.text for one in reader.read()] == [b"old\n"]
    path.rename(tmp_path / "ctr.log.1")
    path.write_bytes(line(b"new"))
    assert [one.text for one in reader.read()] == [b"new\n"]
    reader.close()


def test_read_before_the_log_exists_gives_nothing(tmp_path: Path) -> None:
    reader = LogReader(f"{tmp_path}/none")
    assert list(reader.read()) == []


def test_last_lines_keeps_the_parts_of_a_line_together() -> None:
    raw = [line(b"1"), line(b"2a", b"P"), line(b"2b"), line(b"3")]
    lines = [parsed for one in raw if (parsed := parse_line(one[:-1])) is not None]
    assert [one.text for one in last_lines(lines, 2)] == [b"2a", b"2b\n", b"3\n"]
    assert list(last_lines(lines, 0)) == []
    assert list(last_lines(lines, -1)) == lines
