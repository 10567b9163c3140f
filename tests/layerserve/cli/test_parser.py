"""The commands of other packages have typer's look: usage, sections, defaults, errors."""

from __future__ import annotations

import argparse
import re

import pytest
from layerserve.cli.parser import Parser, with_default


@pytest.fixture
def parser(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = Parser(prog="tool do", description="Do it.\n\nIt takes a while, " + "word " * 20)
    parser.add_argument("file", metavar="FILE", help="A file.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=with_default("Names.", "all"))
    parser.add_argument("--seed", metavar="N", default=0, type=int, help=with_default("Seed.", 0))
    parser.add_argument("--force", action="store_true", help="Replace.")
    parser.add_argument("--a-flag-with-a-long-name", action=argparse.BooleanOptionalAction, help="Long. " * 20)
    return parser


def test_the_help_is_laid_out_as_typer_does(parser):
    lines = parser.format_help().splitlines()
    assert lines[:4] == ["Usage: tool do [OPTIONS] FILE [NAME]...", "", "  Do it.", ""]
    assert "  FILE       A file." in lines
    assert "  [NAME]...  Names.  [default: all]" in lines
    place = lines.index("Options:")
    assert lines[place + 1 : place + 4] == [
        f"  {'--seed N':30}  Seed.  [default: 0]",
        f"  {'--force':30}  Replace.",
        "  --a-flag-with-a-long-name / --no-a-flag-with-a-long-name",
    ]
    assert lines[-1] == f"  {'-h, --help':30}  Show this message and exit."
    assert max(map(len, lines)) <= 78


def test_an_error_is_told_as_typer_does(parser, capsys):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["f", "--sed"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "Usage: tool do [OPTIONS] FILE [NAME]...\nTry 'tool do --help' for help.\n\n"
        "Error: unrecognized arguments: --sed; did you mean --seed?\n"
    )


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["f", "--sed=3", "--fore"], "--sed=3 --fore; did you mean --seed or --force?"),
        (["f", "--a_flag_with_a_long_name"], "--a_flag_with_a_long_name; did you mean --a-flag-with-a-long-name"),
        (["f", "--zzz"], "--zzz\n"),
    ],
)
def test_near_options_are_named(parser, capsys, line, hint):
    with pytest.raises(SystemExit):
        parser.parse_args(line)
    assert f"Error: unrecognized arguments: {hint}" in capsys.readouterr().err


def test_commands_below_a_command_are_listed(capsys):
    parser = Parser(prog="tool", description="Does things.")
    parser.add_subparsers(metavar="COMMAND").add_parser("go", help="Go.", description="Go.", prog="tool go")
    assert parser.format_usage() == "Usage: tool [OPTIONS] COMMAND [ARGS]...\n"
    assert "Commands:\n  go  Go.\n" in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["go", "-h"])
    assert capsys.readouterr().out.startswith("Usage: tool go [OPTIONS]\n\n  Go.\n")


def test_groups_are_sections_and_advanced_options_are_shown_on_request(parser, capsys):
    group = parser.add_argument_group("Speed")
    group.add_argument("--fast", action="store_true", help="Be fast.")
    parser.advanced.append(group.add_argument("--gears", metavar="N", help="Number of gears."))
    parser.advanced.append(parser.add_argument_group("Noise").add_argument("--loud", metavar="X", help="Loudness."))
    parser.add_help_all("Show more.")
    text = parser.format_help()
    assert "\n\nSpeed:\n  --fast  Be fast.\n\nOptions:\n  --seed N" in text
    assert "gears" not in text
    assert "Noise" not in text
    assert text.endswith("Show more.\n")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--help-all"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "\nSpeed:\n  --fast     Be fast.\n  --gears N  Number of gears.\n\nNoise:\n  --loud X  Loudness.\n" in out
    assert parser.parse_args(["f", "--gears", "5"]).gears == "5"
    assert "help_all" not in vars(parser.parse_args(["f"]))


@pytest.mark.parametrize(
    "line",
    [
        "models",
        "codegen",
        "wait",
        "predict",
        "train",
        "run",
        "run list",
        "run show",
        "run watch",
        "run files",
        "serve",
        "inspect",
        "convert",
        "token",
        "token create",
        "zoo",
        "zoo list",
        "zoo build",
    ],
)
def test_every_help_has_one_look(line, capsys):
    """Whichever package it is of: sentences, each with a full stop, and one way to show defaults and placeholders."""
    from layerserve.cli import main

    try:
        status = main([*line.split(), "--help"])
    except SystemExit as ended:
        status = ended.code
    text = capsys.readouterr().out
    assert status == 0
    assert re.match(rf"Usage: layerserve {line} \[OPTIONS\]", text)
    assert re.search(r"\n  -h, --help +Show this message and exit\.\n", text)
    assert "(default" not in text
    assert "Default:" not in text
    description = re.search(r"\n\n  ([A-Z].*?)\n\n", text, re.DOTALL)[1]
    assert description.rstrip().endswith((".", "}", ")")), description
