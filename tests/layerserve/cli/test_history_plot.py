"""The history as a plot."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from layerserve.cli.history_plot import check_plot, print_series, sparkline
from layerserve.errors import InvalidArgument
from layerserve.training.series import Best, RunSeries, SeriesByRun


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


def test_the_best_epoch_of_each_run_is_printed(capsys):
    def series(*values):
        return RunSeries(np.arange(1, len(values) + 1), np.array(values), np.zeros(len(values)))

    of_a = {"loss": series(1.0, 0.5), "val_loss": series(2.0, 3.0)}
    found = SeriesByRun({"a": of_a, "b": {"loss": series(3.0)}}, "epoch")
    print_series(found, {"a": Best("val_loss", 1, 2.0)})
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip(" │").endswith("2 in 1") for line in lines if "val_loss" in line] == [True]
    assert not any(" in " in line for line in lines if "val_loss" not in line)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InvalidArgument, match="requires matplotlib: pip install matplotlib"):
        check_plot(tmp_path / "history.png")
