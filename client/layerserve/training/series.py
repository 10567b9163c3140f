"""Logs of several runs as series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from layerserve.calls.flow import Flow, call
from layerserve.calls.methods import GET_RUN_SERIES
from layerserve.errors import DataLoss
from layerserve.training.curves import Curves, Line, Plotted, log_names
from layerserve.v1.training_pb2 import GetRunSeriesRequest
from layerserve.values.tables import Table, count_text, number_text
from layerserve.values.tensors import Array


@dataclass(frozen=True, slots=True, eq=False)
class RunSeries:
    """The values of a log of a run, as arrays of the same length.

    `positions` are epochs or steps, counted from 1 since the beginning of the run; `seconds` are times since its start.
    """

    positions: Array
    values: Array
    seconds: Array


class Best(NamedTuple):
    """The best value of a log of a run, and its epoch."""

    log: str
    epoch: int
    value: float


class SeriesByRun(dict[str, dict[str, RunSeries]], Plotted):
    """Series by run and log, which notebooks show as curves: a panel per log, a line per run."""

    def __init__(self, series: Mapping[str, dict[str, RunSeries]], by: Literal["epoch", "step"]) -> None:
        super().__init__(series)
        self.by = by

    def logs(self) -> list[str]:
        """Returns the names of all logs, each before its validation log."""
        return log_names(list({name for series in self.values() for name in series}))

    def curves(self, best: Mapping[str, Best] | None = None) -> Curves:
        """Returns the curves. `best` has the points to be marked, by run."""
        return Curves("", self.by, {name: self._lines(name, best or {}) for name in self.logs()})

    def table(self) -> Table:
        """Returns a table with a row per log and run."""
        rows = [
            (name, run, *map(number_text, (values[0], min(values), max(values), values[-1])))
            for name in self.logs()
            for run, values in ((run, series[name].values) for run, series in self.items() if name in series)
            if len(values)
        ]
        columns = ("Log", "Run", "#First", "#Lowest", "#Highest", "#Last")
        return Table(count_text(len(self), "run"), columns, rows)

    def _lines(self, name: str, best: Mapping[str, Best]) -> list[Line]:
        lines = []
        for run, series in self.items():
            if name in series:
                point = best.get(run)
                star = (point.epoch, point.value) if point is not None and point.log == name else None
                lines.append(Line(run, series[name].positions.tolist(), series[name].values.tolist(), star))
        return lines


def run_series(
    runs: Sequence[str], names: Sequence[str], max_points: int, by: Literal["epoch", "step"]
) -> Flow[SeriesByRun]:
    """Flow that returns series by run and log."""
    if by not in ("epoch", "step"):
        raise ValueError(f"by: got {by!r}, expected 'epoch' or 'step'")
    request = GetRunSeriesRequest(run_ids=runs, names=names, max_points=max_points, by_step=by == "step")
    reply = yield from call(GET_RUN_SERIES, request)
    found: dict[str, dict[str, RunSeries]] = {run: {} for run in runs}
    for one in reply.series:
        if one.run_id not in found:
            raise DataLoss(
                f"the server's reply: got a series of run {one.run_id!r}, expected those of {', '.join(runs)}"
            )
        positions, values = np.array(one.positions, np.int64), np.array(one.values, np.float64)
        found[one.run_id][one.name] = RunSeries(positions, values, np.array(one.seconds, np.float64))
    return SeriesByRun(found, by)
