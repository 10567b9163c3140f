"""Plots of a run's history in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from layerserve.cli.output import print_table
from layerserve.training.curves import checked_format
from layerserve.training.series import Best, SeriesByRun
from layerserve.values.tables import Table, number_text

#: Bars from low to high.
BARS = "▁▂▃▄▅▆▇█"
#: Maximum number of bars in a line. In a longer history each bar is the mean of several epochs.
WIDTH = 40


def sparkline(values: Sequence[float], width: int = WIDTH, bounds: Sequence[float] = ()) -> str:
    """Returns values as a line of bars, with "·" for values that aren't finite.

    They are scaled to the minimum and maximum of `bounds`; default: their own.
    """
    count = min(width, len(values))
    parts = [values[len(values) * index // count : len(values) * (index + 1) // count] for index in range(count)]
    means = [sum(part) / len(part) for part in parts]
    finite = bounds or [mean for mean in means if math.isfinite(mean)]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(_bar((mean - low) / span if span else 0.0) if math.isfinite(mean) else "·" for mean in means)


def _bar(share: float) -> str:
    return BARS[min(len(BARS) - 1, int(share * len(BARS)))]


def print_plot(history: Mapping[str, Sequence[float]]) -> None:
    """Prints a line per log: its bars, first, lowest, highest and last value. Prints nothing for a single epoch."""
    rows = [
        (name, sparkline(values), *map(number_text, (values[0], min(values), max(values), values[-1])))
        for name, values in history.items()
        if len(values) > 1
    ]
    if rows:
        print_table(Table("", ("Log", "By epoch", "#First", "#Lowest", "#Highest", "#Last"), rows))


def print_series(found: SeriesByRun, best: Mapping[str, Best]) -> None:
    """Prints a line per log and run: bars scaled to the log's range in all runs, first, lowest, highest, last value.

    `best` has the best value of a log by run, with its epoch.
    """
    rows = []
    for name in found.logs():
        lines = {run: series[name].values.tolist() for run, series in found.items() if name in series}
        bounds = [value for values in lines.values() for value in values if math.isfinite(value)]
        for run, values in lines.items():
            bars = sparkline(values, bounds=bounds)
            top = best.get(run)
            marked = f"{number_text(top.value)} in {top.epoch}" if top is not None and top.log == name else ""
            numbers = map(number_text, (values[0], min(values), max(values), values[-1]))
            rows.append((name, run, bars, *numbers, marked))
    print_table(Table("", ("Log", "Run", f"By {found.by}", "#First", "#Lowest", "#Highest", "#Last", "Best"), rows))


def check_plot(path: Path | None, option: str = "--plot") -> None:
    """Raises InvalidArgument if a plot can't be written. Called before a run, so as not to fail after it."""
    if path is not None:
        checked_format(path, option)
