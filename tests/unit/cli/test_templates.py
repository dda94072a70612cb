from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podrt.cli.output import open_format
from podrt.cli.reports import Report
from podrt.cli.template_run import FUNCTIONS, execute
from podrt.cli.template_values import Struct
from podrt.cli.templates import MAX_DEPTH, parse
from podrt.errors import InvalidConfig, PodrtError, Unsupported

# Each a template, and what Go 1.19's text/template makes of it: its output or its error.
TABLE = json.loads((Path(__file__).parent / "template_table.json").read_text("utf-8"))
DATA = {
    "Name": "web",
    "N": 3,
    "F": 1.5,
    "T": True,
    "L": ["a", "b c"],
    "E": [],
    "M": {"k": "v", "a": "b"},
    "S": 'x"y\n<>&',
}
POD = {
    "Id": "0123456789abcdef",
    "Created": "2026-11-22T01:51:11.500000000Z",
    "Labels": {"app": "shop", "a.b": "c"},
    "State": {"Pid": 7, "Status": "running"},
    "Containers": [{"Name": "a"}, {"Name": "b"}],
    "cpu_quota": 5,
    "InfraID": "",
}


def run(text: str, data: Any = DATA) -> str:
    return execute(parse("ps", text, FUNCTIONS), data)


@pytest.mark.parametrize(("text", "output", "error"), TABLE)
def test_template_gives_what_go_gives(text: str, output: str, error: str) -> None:
    if not error:
        assert run(text) == output
        return
    with pytest.raises(InvalidConfig) as caught:
        run(text)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("{{.ID}} {{.Id}}", "0123456789abcdef 0123456789abcdef"),
        ("{{.State.Pid}} {{.State}}", "7 {7 running}"),
        ("{{.Labels.app}} {{.Labels.none}}", "shop <no value>"),
        ('{{index .Labels "a.b"}} {{.Labels}}', "c map[a.b:c app:shop]"),
        ("{{.Created}}", "2026-11-22 01:51:11.5 +0000 UTC"),
        ("{{json .Created}} {{json .Labels}}", '"2026-11-22T01:51:11.500000000Z" '
         '{"a.b":"c","app":"shop"}'),
        ("{{range .Containers}}{{.Name}},{{end}}", "a,b,"),
        ("{{.CPUQuota}}", "5"),
        ("{{if .InfraID}}infra{{else}}none{{end}}", "none"),
    ],
)  # fmt: skip
def test_fields_have_podmans_names(text: str, output: str) -> None:
    assert run(text, Struct(POD, "pod")) == output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{.Nope}}", "at <.Nope>: can't evaluate field Nope in type pod"),
        ("{{.State.Nope}}", "at <.State.Nope>: can't evaluate field Nope in type State"),
        ("{{.id}}", "can't evaluate field id in type pod"),
        ("{{.Created.Year}}", "can't evaluate field Year in type time.Time"),
    ],
)
def test_unknown_field_is_named(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        run(text, Struct(POD, "pod"))
    assert reason in str(caught.value)


def printed(text: str, capsys: pytest.CaptureFixture[str], heads: dict[str, str] | None) -> str:
    rows = [{"ID": "0123456789ab", "Name": "a", "RunningFor": "x"}, {"ID": "f", "Name": "long" * 4}]
    Report("ps", text, kind="pod", is_list=True).print_rows(rows, heads)
    return capsys.readouterr().out


def test_table_has_headings_and_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(r"table {{.Name}} {{.ID}}\tx", capsys, {"ID": "POD ID"})
    assert out == (
        "NAME              POD ID        x\n"
        "a                 0123456789ab  x\n"
        "longlonglonglong  f             x\n"
    )
    assert printed("table {{.ID}}", capsys, None) == "0123456789ab\nf\n"


def test_rows_are_lines_and_escapes_are_signs(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(r"{{.ID}}\t{{.Name}}", capsys, {}) == ("0123456789ab\ta\nf\tlonglonglonglong\n")
    assert printed("{{range .}}{{.ID}} {{end}}", capsys, {}) == "0123456789ab f \n"
    assert printed(r"{{.ID}}\n", capsys, {}) == "0123456789ab\nf\n"


def test_heading_of_a_table_without_rows_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("ps", "table {{.RunningFor}} {{.Labels.app}}", kind="pod", is_list=True)
    report.print_rows([], {})
    assert capsys.readouterr().out == "RUNNING FOR  APP\n"


def test_format_is_json_a_template_or_nothing() -> None:
    for word in ("json", "{{json .}}", "{{ json . }}"):
        assert open_format(word, "ps", kind="pod") == (True, None)
    for nothing in (None, "", "table"):
        assert open_format(nothing, "ps", kind="pod") == (False, None)
    assert open_format("{{.ID}}", "ps", kind="pod").report is not None
    with pytest.raises(Unsupported, match="define"):
        open_format('{{define "x"}}', "ps", kind="pod")


def test_nesting_too_deep_is_refused() -> None:
    deep = "{{" + "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1) + "}}"
    blocks = "{{if 1}}" * 5000 + "{{end}}" * 5000
    for text in (deep, blocks):
        with pytest.raises(InvalidConfig, match="nested too deeply"):
            run(text)


_PIECES = [
    "{{", "}}", "{{-", "-}}", " ", ".", ".Name", ".L", ".M.k", "$", "$x", ":=", "=", "|", "(", ")",
    ",", "if", "else", "end", "range", "with", "break", "nil", "true", "1", "-3", "1e9", '"a"',
    '"%5d %q %*d"', "`r`", "'c'", "/*", "*/", "\n", "x", "\\", "99999999999", "0x", "%",
    *sorted(FUNCTIONS),
]  # fmt: skip
_TEXTS = st.one_of(st.lists(st.sampled_from(_PIECES), max_size=30).map("".join), st.text())


def check_bounded(text: str) -> None:
    begin_s = time.process_time()
    try:
        assert isinstance(run(text), str)
    except PodrtError as exc:
        assert str(exc).startswith(("template: ps:", "{{"))
    assert time.process_time() - begin_s < 1


def test_any_text_is_a_template_or_a_podrt_error(rounds: Any) -> None:
    @settings(max_examples=rounds(400, 20_000), deadline=None)
    @given(_TEXTS)
    def check(text: str) -> None:
        check_bounded(text)
        check_bounded("{{" + text.replace("{", "").replace("}", "") + "}}")

    check()
