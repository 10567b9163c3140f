"""Program that chooses the settings of a sweep's trials with Optuna: `python -m ....sweeps.study FOLDER`.

It is a process of its own, since importing Optuna takes a second in which a serving process would answer more slowly.
It reads requests as lines of JSON from its standard input and writes a reply for each. What it has decided is in a
journal in the sweep's folder: a new process continues where a killed one has stopped.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from layerserve_server.extensions.sweeps.plan import JOURNAL, Method, Plan
from layerserve_server.extensions.sweeps.space import Dimension

STUDY = "sweep"
STATES = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL}


class Study:
    """The study of a sweep, in its journal."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._plan = plan
        self._distributions = {dimension.name: _distribution(dimension, plan) for dimension in plan.dimensions}
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=STUDY,
            direction="maximize" if plan.larger_is_better else "minimize",
            load_if_exists=True,
        )

    def ask(self) -> dict[str, Any]:
        """Returns the number and settings of the next trial."""
        self._study.sampler = self._sampler(len(self._study.get_trials(deepcopy=False)))
        trial = self._study.ask(self._distributions)
        return {"trial": trial.number, "settings": self._settings(trial.params)}

    def asked(self) -> dict[str, Any]:
        """Returns all trials that the journal has."""
        trials = self._study.get_trials(deepcopy=False)
        return {"trials": [{"trial": one.number, "settings": self._settings(one.params)} for one in trials]}

    def end(self, trial: int, state: str, value: float | None) -> dict[str, Any]:
        """Ends a trial."""
        known = STATES[state] if value is not None and math.isfinite(value) else TrialState.FAIL
        value = value if known is TrialState.COMPLETE else None
        # At the end of a grid its sampler would stop Optuna's own loop, which isn't used here.
        self._study.sampler = RandomSampler()
        self._study.tell(trial, value, state=known, skip_if_finished=True)
        return {}

    def _settings(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {
            dimension.name: _value(dimension, parameters[dimension.name], self._plan)
            for dimension in self._plan.dimensions
        }

    def _sampler(self, trial: int) -> BaseSampler:
        """Returns what draws the settings of a trial: of each the same, however often the process is restarted."""
        if self._plan.method is Method.GRID:
            # One seed for all trials: it orders the combinations, of which the journal has the numbers.
            grid = {one.name: list(range(one.grid_size)) for one in self._plan.dimensions}
            return GridSampler(grid, seed=self._plan.seed % 2**32)
        return RandomSampler(seed=int(np.random.SeedSequence([self._plan.seed, trial]).generate_state(1)[0]))


def _distribution(dimension: Dimension, plan: Plan) -> BaseDistribution:
    """Returns Optuna's form of a dimension. Values are chosen by their index: Optuna has no lists and objects."""
    if plan.method is Method.GRID:
        return CategoricalDistribution(list(range(dimension.grid_size)))
    if dimension.values:
        return CategoricalDistribution(list(range(len(dimension.values))))
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), dimension.log, int(dimension.step) or 1)
    return FloatDistribution(dimension.low, dimension.high, dimension.log, dimension.step or None)


def _value(dimension: Dimension, parameter: Any, plan: Plan) -> Any:
    if plan.method is Method.GRID:
        return dimension.grid[parameter]
    return dimension.values[parameter] if dimension.values else parameter


def main(folder: Path) -> None:
    study = Study(folder, Plan.read(folder))
    for line in sys.stdin:
        request = json.loads(line)
        reply = getattr(study, request.pop("do"))(**request)
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    # The server may end between a request and its reply.
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main(Path(sys.argv[1]))
