"""Copies of runs in MLflow: an experiment for each model, a run for each run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from layerserve_server.extensions.trackers.sink import Point, parameters, tags
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import RunState

#: MLflow's names of the states of ended runs.
STATES = {RunState.FINISHED: "FINISHED", RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED"}
#: Maximum numbers of metrics and of parameters in a call of MLflow.
MAX_METRICS, MAX_PARAMETERS = 1000, 100
#: Maximum length of a name, in characters.
MAX_KEY = 250
#: Beginning of the names of metrics, by what they were logged after.
_PREFIX = {"epoch": "", "step": "step_"}


class MlflowSink:
    """Copies runs to a tracking server or store, by MLflow's own client."""

    def __init__(self, uri: str, folder: Path) -> None:
        """`uri` is MLflow's tracking URI."""
        self._client = MlflowClient(tracking_uri=uri)

    def begin(self, run_id: str, request: RunRequest, known: str) -> str:
        """Creates the copy of a run, or reopens the known one."""
        if known:
            self._client.update_run(known, status="RUNNING")
            return known
        experiment = self._client.get_experiment_by_name(request.model)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(request.model)
        named = {_key(name): value for name, value in tags(run_id, request).items()}
        run = self._client.create_run(experiment_id, run_name=run_id, tags=named)
        given = [Param(_key(name), value) for name, value in parameters(request).items()]
        for start in range(0, len(given), MAX_PARAMETERS):
            self._client.log_batch(run.info.run_id, params=given[start : start + MAX_PARAMETERS])
        return str(run.info.run_id)

    def add(self, id: str, points: list[Point]) -> None:
        """Adds logs: those of epochs under their names, those of steps as "step_NAME"."""
        metrics = [
            Metric(_key(_PREFIX[point.by] + name), value, int(1000 * point.time), point.position)
            for point in points
            for name, value in point.logs.items()
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(id, metrics=metrics[start : start + MAX_METRICS])

    def end(self, id: str, state: RunState, tags: Mapping[str, str]) -> None:
        """Ends a copy."""
        self._client.log_batch(id, tags=[RunTag(_key(name), value) for name, value in tags.items()])
        self._client.set_terminated(id, STATES.get(state, "FAILED"))


def _key(name: str) -> str:
    """Returns a name that MLflow takes: "recall[0]", of a metric with several values, becomes "recall.0"."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("[", ".").replace("]", ""))[:MAX_KEY]
