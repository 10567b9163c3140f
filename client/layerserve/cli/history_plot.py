"""Plots of a run's history, in the terminal or as a PNG file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve.cli.output import print_table
from layerserve.errors import InvalidArgument
from layerserve.run_series import RunSeries
from layerserve.tables import Table, number_text

if TYPE_CHECKING:
    from layerserve.sweeps import SweepInfo

#: Bars from low to high.
BARS = "▁▂▃▄▅▆▇█"
#: Maximum number of bars in a line. In a longer history each bar is the mean of several epochs.
WIDTH = 40
#: Maximum number of points of a line that are marked.
MARKED_POINTS = 60


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


def print_series(found: Mapping[str, Mapping[str, RunSeries]], by: str) -> None:
    """Prints a line per log and run: bars scaled to the log's range in all runs, first, lowest, highest, last value."""
    rows = []
    for name in _names(found):
        lines = {run: series[name].values.tolist() for run, series in found.items() if name in series}
        bounds = [value for values in lines.values() for value in values if math.isfinite(value)]
        for run, values in lines.items():
            bars = sparkline(values, bounds=bounds)
            rows.append((name, run, bars, *map(number_text, (values[0], min(values), max(values), values[-1]))))
    print_table(Table("", ("Log", "Run", f"By {by}", "#First", "#Lowest", "#Highest", "#Last"), rows))


def save_series(path: Path, found: Mapping[str, Mapping[str, RunSeries]], by: str) -> None:
    """Writes a PNG file with a panel per log, and a line in it for each run."""
    from matplotlib.figure import Figure

    names = _names(found)
    figure = Figure(figsize=(6.4, 2.4 * len(names) + 0.6), layout="constrained")
    panels = figure.subplots(len(names), squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        for run, series in found.items():
            if name in series:
                marker = "." if len(series[name].values) <= MARKED_POINTS else ""
                panel.plot(series[name].positions, series[name].values, marker=marker, label=run)
        panel.set_ylabel(name)
        panel.legend(fontsize="small")
    panels[-1].set_xlabel(by)
    figure.savefig(path, dpi=120)


def _names(found: Mapping[str, Mapping[str, RunSeries]]) -> list[str]:
    """Returns the names of all logs, each before its validation log."""
    names = {name for series in found.values() for name in series}
    return sorted(names, key=lambda name: (name.removeprefix("val_"), name.startswith("val_")))


def check_plot(path: Path | None, option: str = "--plot") -> None:
    """Raises InvalidArgument if a plot can't be written. Called before a run, so as not to fail after it."""
    if path is None:
        return
    if path.suffix != ".png":
        raise InvalidArgument(f"{option}: got {path}, expected a name that ends in .png")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InvalidArgument(
            f"{option}: requires matplotlib; install it with: pip install 'layerserve[plot]'"
        ) from None


def save_plot(path: Path, title: str, history: Mapping[str, Sequence[float]]) -> None:
    """Writes a PNG file with a panel per log, with its validation log as a second line."""
    from matplotlib.figure import Figure

    names = [name for name in history if not (name.startswith("val_") and name.removeprefix("val_") in history)]
    figure = Figure(figsize=(6.4, 2.4 * max(1, len(names)) + 0.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(max(1, len(names)), squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=False):
        for log, label in ((name, "training"), (f"val_{name}", "validation")):
            if log in history:
                panel.plot(range(1, len(history[log]) + 1), history[log], marker=".", label=label)
        panel.set_ylabel(name)
        panel.legend()
    panels[-1].set_xlabel("epoch")
    figure.savefig(path, dpi=120)


def save_trials(path: Path, info: SweepInfo) -> None:
    """Writes a PNG file with the monitored log of all trials of a sweep by epoch, the best one emphasized."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    panel.set_title(f"{info.model}, sweep {info.id}")
    for trial in info.trials:
        if trial.history:
            best = trial.number == info.best
            style: dict[str, Any] = {"color": "C3", "linewidth": 2.0} if best else {"color": "0.6", "linewidth": 0.8}
            label = f"trial {trial.number} (best)" if best else None
            panel.plot(list(trial.history), list(trial.history.values()), marker=".", label=label, **style)
    panel.set_xlabel("epoch")
    panel.set_ylabel(info.monitor)
    if info.best is not None:
        panel.legend()
    figure.savefig(path, dpi=120)
