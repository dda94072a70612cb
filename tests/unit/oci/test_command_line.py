from __future__ import annotations

import subprocess
import sys

import pytest

from podrt.cli.errors import UsageError
from podrt.cli.oci_flags import COMMANDS, help_of, overview, parse_command


def test_global_options_stand_before_the_verb_and_its_own_behind() -> None:
    line = "--root /r --log=/l --log-format json --debug create --bundle b --pid-file=p one"
    verb, before, options = parse_command(line.split())
    assert verb == "create"
    assert (before.text("root"), before.text("log"), before.is_on("debug")) == ("/r", "/l", True)
    assert (options.text("bundle"), options.text("pid-file")) == ("b", "p")
    assert options.words == ("one",)


def test_defaults_count_where_nothing_is_given() -> None:
    _, before, options = parse_command(["create", "one"])
    assert before.text("root") == "/run/podrt-oci"
    assert before.text("log-format") == "text"
    assert options.text("bundle") == "."
    assert not options.is_on("no-new-keyring")


@pytest.mark.parametrize(
    ("words", "is_on"),
    [("-f one", True), ("one --force", True), ("--force=false one", False), ("-force one", True)],
)
def test_switches_take_gos_spellings(words: str, is_on: bool) -> None:
    assert parse_command(["delete", *words.split()])[2].is_on("force") is is_on


def test_words_behind_the_container_of_exec_are_the_commands_own() -> None:
    _, _, options = parse_command(
        ["exec", "-e", "A=1", "--env=B=2", "one", "ls", "-l", "--tty", "--", "x"]
    )
    assert options.many("env") == ("A=1", "B=2")
    assert options.words == ("one", "ls", "-l", "--tty", "--", "x")
    assert not options.is_on("tty")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("frobnicate", "unrecognized command"),
        ("create", "usage: "),
        ("state one two", "usage: "),
        ("create --nope one", "unknown flag: --nope"),
        ("create one --pid-file", "needs an argument"),
        ("delete --force=perhaps one", "neither true nor false"),
        ("--root", "needs an argument"),
    ],
)
def test_wrong_command_lines_say_what_is_wrong(line: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_command(line.split())


def test_help_names_every_command_and_option() -> None:
    text = overview()
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in text
        for flag in command.flags:
            assert flag.names[0] in help_of(name)


def test_no_verb_loads_trio_and_state_loads_no_cgroup_manager() -> None:
    program = (
        "import sys, podrt.cli.oci, podrt.oci.lifecycle\n"
        "assert not [name for name in sys.modules if name.startswith('podrt.cgroups')]\n"
        "import podrt.oci.creation, podrt.oci.execs, podrt.oci.updates, podrt.oci.template\n"
        "assert not {'trio', 'asyncio', 'argparse', 'subprocess'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
