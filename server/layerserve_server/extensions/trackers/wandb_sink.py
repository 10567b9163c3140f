"""Copies of runs in Weights & Biases: runs of a project. Offline if WANDB_MODE is "offline"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from layerserve_server.extensions.trackers.sink import Point, parameters, tags
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import RunState

#: Default name of the project.
PROJECT = "layerserve"


class WandbSink:
    """Copies runs to a project, by the package of Weights & Biases, which sends them in the background."""

    def __init__(self, project: str, folder: Path) -> None:
        """`project` is NAME or ENTITY/NAME; `folder` is where files of runs are kept until they are sent."""
        entity, _, name = project.rpartition("/")
        self._where: dict[str, Any] = {"entity": entity or None, "project": name or PROJECT, "dir": str(folder)}
        self._open: dict[str, Any] = {}

    def begin(self, run_id: str, request: RunRequest, known: str) -> str:
        """Creates the copy of a run; its id is the run's."""
        if run_id not in self._open:
            run = wandb.init(
                **self._where,
                id=run_id,
                name=run_id,
                group=request.model,
                job_type=request.kind,
                config={**parameters(request), **tags(run_id, request)},
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, disable_git=True, console="off"),
            )
            for by in ("epoch", "step"):
                run.define_metric(by)
            run.define_metric("step_*", step_metric="step")
            run.define_metric("*", step_metric="epoch")
            self._open[run_id] = run
        return run_id

    def add(self, id: str, points: list[Point]) -> None:
        """Adds logs: those of epochs under their names, those of steps as "step_NAME"."""
        for point in points:
            prefix = "step_" if point.by == "step" else ""
            self._open[id].log({point.by: point.position, **{prefix + name: one for name, one in point.logs.items()}})

    def end(self, id: str, state: RunState, tags: Mapping[str, str]) -> None:
        """Ends a copy."""
        run = self._open[id]
        run.summary.update({**tags, "layerserve.state": state.value})
        run.finish(exit_code=0 if state is RunState.FINISHED else 1)
        del self._open[id]
