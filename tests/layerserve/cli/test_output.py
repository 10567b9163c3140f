"""Output: what programs read is JSON of any values, what people read is plain text."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pytest
from layerserve.cli.output import plain, print_json, print_line, print_table
from layerserve.values.tables import Table, number_text, shape_text


@dataclass
class Info:
    name: str
    shape: tuple[int | None, ...]
    time: datetime


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            Info("m", (None, 3), datetime(2026, 11, 25, 13, 2, tzinfo=timezone.utc)),
            {"name": "m", "shape": [None, 3], "time": "2026-11-25T13:02:00+00:00"},
        ),
        ({1: (1, [2, {"a": None}])}, {"1": [1, [2, {"a": None}]]}),
        ([math.nan, math.inf, -math.inf, 1.5], ["NaN", "Infinity", "-Infinity", 1.5]),
        (np.array([0.1, np.nan], np.float32), [0.1, "NaN"]),
        (np.array([0.1, 1e-7], np.float16), [0.1, 1e-07]),
        (np.array([[1, 2]], np.int64), [[1, 2]]),
        (np.array([b"a\xff"], object), ["a\\xff"]),
        (True, True),
    ],
)
def test_values_become_those_of_json(value, expected):
    assert plain(value) == expected


def test_a_class_is_no_value():
    assert plain(Info) is Info


def test_json_is_on_several_lines_or_on_one(capsys):
    print_json({"a": [math.nan]})
    print_json({"a": [1.0]}, indent=None)
    first, second = capsys.readouterr().out.split("}\n")[:2]
    assert first.count("\n") > 2
    assert json.loads(first + "}") == {"a": ["NaN"]}
    assert second == '{"a": [1.0]'


def test_text_is_not_markup_and_not_cut(capsys):
    print_line("[bold]" + "x" * 300)
    assert capsys.readouterr().out == "[bold]" + "x" * 300 + "\n"


def test_a_table_has_its_numbers_on_the_right_and_its_text_as_it_is(capsys):
    print_table(Table("[red]t", ["name", "#rows"], [("[b]m", "5"), ("other", "1234")]))
    lines = [line.strip(" │┃") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "[red]t"
    assert any(line.startswith("name") and line.endswith("rows") for line in lines)
    assert any(line.startswith("[b]m") and line.endswith("   5") for line in lines)
    assert any(line.startswith("other") and line.endswith("1234") for line in lines)


def test_shapes_and_numbers_are_kerass():
    assert (shape_text([None, 3]), shape_text((5,))) == ("(None, 3)", "(5,)")
    assert [number_text(value) for value in (0.123456, 12345.678, 1e-9)] == ["0.1235", "1.235e+04", "1e-09"]
