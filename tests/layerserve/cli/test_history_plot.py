"""The history as a plot."""

from __future__ import annotations

import math
import sys

import pytest
from layerserve.cli.history_plot import check_plot, save_plot, sparkline
from layerserve.errors import InvalidArgument


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([1.0, 2.0, 3.0], "▁▅█"),
        ([3.0, 1.0], "█▁"),
        ([2.0, 2.0], "▁▁"),
        ([1.0, math.nan, math.inf, 2.0], "▁··█"),
        ([math.nan], "·"),
        ([], ""),
    ],
)
def test_values_become_bars(values, line):
    assert sparkline(values) == line


def test_a_long_history_is_drawn_by_means():
    assert sparkline([0.0] * 50 + [1.0] * 50, width=4) == "▁▁██"


def test_validation_is_a_second_line_of_its_panel(tmp_path):
    path = tmp_path / "history.png"
    check_plot(path)
    save_plot(path, "title", {"loss": [1.0, 0.5], "val_loss": [2.0, 1.5], "accuracy": [0.1, 0.2]})
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidArgument, match=r"layerserve\[plot\]"):
        check_plot(tmp_path / "history.png")
