"""Logs of several runs as series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from layerserve.flow import Flow, call
from layerserve.methods import GET_RUN_SERIES
from layerserve.tensors import Array
from layerserve.v1.training_pb2 import GetRunSeriesRequest


@dataclass(frozen=True, slots=True, eq=False)
class RunSeries:
    """The values of a log of a run, as arrays of the same length.

    `positions` are epochs or steps, counted from 1 since the beginning of the run; `seconds` are times since its start.
    """

    positions: Array
    values: Array
    seconds: Array


def run_series(
    runs: Sequence[str], names: Sequence[str], max_points: int, by: Literal["epoch", "step"]
) -> Flow[dict[str, dict[str, RunSeries]]]:
    """Flow that returns series by run and log."""
    if by not in ("epoch", "step"):
        raise ValueError(f"by: got {by!r}, expected 'epoch' or 'step'")
    request = GetRunSeriesRequest(run_ids=runs, names=names, max_points=max_points, by_step=by == "step")
    reply = yield from call(GET_RUN_SERIES, request)
    found: dict[str, dict[str, RunSeries]] = {run: {} for run in runs}
    for one in reply.series:
        positions, values = np.array(one.positions, np.int64), np.array(one.values, np.float64)
        found[one.run_id][one.name] = RunSeries(positions, values, np.array(one.seconds, np.float64))
    return found
