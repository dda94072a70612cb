"""The table of podman's options, held against the verbs' own `--help`."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from podrt.cli.flags import Parser
from podrt.cli.main import main
from podrt.cli.options import NOT_OURS, OPTIONS
from podrt.cli.verbs import VERBS

PRESENT = [verb for verb in OPTIONS if verb in VERBS]
MISSING = [
    (verb, name)
    for verb in PRESENT
    for name in (*OPTIONS[verb].not_yet.split(), *OPTIONS[verb].not_ours.split())
]


def in_help(verb: str) -> set[str]:
    parser = Parser(f"podrt {verb}", "")
    module = import_module(f"podrt.cli.{VERBS[verb].module}")
    getattr(module, f"{VERBS[verb].function}_flags")(parser)
    return set(re.findall(r"(?<![\w-])--([a-z0-9-]+)", parser.format_help())) - {"help"}


@pytest.mark.parametrize("verb", PRESENT)
def test_option_that_works_is_in_the_help_and_no_other(verb: str) -> None:
    assert set(OPTIONS[verb].works.split()) == in_help(verb)


@pytest.mark.parametrize(("verb", "name"), MISSING)
def test_option_that_is_missing_answers_so(
    verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), f"--{name}=x", "one", "two"]) == 125
    error = capsys.readouterr().err
    assert error.startswith(f"Error: --{name} is not supported: "), error
    assert error.count("\n") == 1


def test_option_that_nobody_has_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pod", "start", "--nobody", "one"]) == 125
    assert "unknown flag: --nobody" in capsys.readouterr().err


def test_states_of_options_exclude_each_other_and_have_their_reason() -> None:
    for verb, options in OPTIONS.items():
        names = [name for state in options for name in state.split()]
        assert len(names) == len(set(names)), verb
        assert set(options.not_ours.split()) <= NOT_OURS.keys(), verb
        assert verb in VERBS or not options.works, verb
    assert {name for one in OPTIONS.values() for name in one.not_ours.split()} == NOT_OURS.keys()
