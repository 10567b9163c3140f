"""Handler of GetRunSeries of layerserve.v1.TrainingService: logs of several runs as series."""

from __future__ import annotations

import threading

from layerserve.v1 import training_pb2 as pb

from layerserve_server.access.ownership import Access
from layerserve_server.errors import BusyError, InvalidRequestError
from layerserve_server.services.messages import parse
from layerserve_server.services.run_access import find_run
from layerserve_server.services.training import SERVICE
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.series import SeriesReader
from layerserve_server.transport.call import Call, Routes

#: Maximum numbers of runs and of names.
MAX_RUNS, MAX_NAMES = 100, 100
#: Default, minimum and maximum number of points.
POINTS, MIN_POINTS, MAX_POINTS = 1000, 2, 10_000
#: Maximum number of concurrent calls: each reads whole files of events.
MAX_READERS = 2
#: Time after which a refused client may retry, in seconds.
RETRY_SECONDS = 1.0


class RunSeries:
    """The handler of GetRunSeries."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._readers = threading.BoundedSemaphore(MAX_READERS)

    def routes(self) -> Routes:
        """Returns the handler."""
        return Routes(unary={SERVICE + "GetRunSeries": self.get_run_series})

    def get_run_series(self, call: Call) -> None:
        """Handles GetRunSeries. Raises as `find_run` and `SeriesReader.read` do, and BusyError if others are read."""
        request = parse(pb.GetRunSeriesRequest, call.request)
        _check("run_ids", len(request.run_ids), 1, MAX_RUNS)
        _check("names", len(request.names), 0, MAX_NAMES)
        count = request.max_points or POINTS
        _check("max_points", count, MIN_POINTS, MAX_POINTS)
        # All of them first: a run that doesn't exist is no reason to read others.
        runs = [find_run(self._runs, call.caller, Access.READ, run_id) for run_id in dict.fromkeys(request.run_ids)]
        if not self._readers.acquire(blocking=False):
            raise BusyError("other series are being read", retry_after=RETRY_SECONDS)
        try:
            reader = SeriesReader(request.names, count, by_step=request.by_step)
            reply = pb.GetRunSeriesResponse()
            for run in runs:
                for name, series in reader.read(run.log).items():
                    positions, values, seconds = zip(*series.chosen(), strict=True)
                    one = pb.RunSeries(run_id=run.id, name=name, positions=positions, values=values, seconds=seconds)
                    reply.series.append(one)
        finally:
            self._readers.release()
        call.answer(reply.SerializeToString())


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidRequestError(f"{name}: got {value}, expected {least} to {most}")
