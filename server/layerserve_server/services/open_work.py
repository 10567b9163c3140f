"""Runs and sweeps that haven't ended: of a model, with a dataset, or of a caller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from layerserve_server.access.caller import Caller
from layerserve_server.extensions.sweeps.registry import Sweeps
from layerserve_server.services.dataset_arrays import datasets_of
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run

T = TypeVar("T")


class OpenWork:
    """What runs and sweeps on disk say, also those that other servers own. All methods raise UnavailableError."""

    def __init__(self, runs: Runs, sweeps: Sweeps) -> None:
        self._runs = runs
        self._sweeps = sweeps

    def of_model(self, model: str) -> list[str]:
        """Returns the sweeps and runs of a model, in words: "run 'X'"."""
        self._runs.scan()
        sweeps = [f"sweep '{sweep.id}'" for sweep in self._sweeps.list(model) if not sweep.ended]
        return sweeps + [f"run '{run.id}'" for run in self._all_runs(model) if not _is_trial(run) and not run.log.ended]

    def using(self, dataset: str) -> str:
        """Returns the run or sweep that needs a dataset, in words; "" if there is none.

        A run needs it until it has ended, and afterwards as long as it can be resumed.
        """
        self._runs.scan()
        for sweep in self._sweeps.list():
            if dataset in datasets_of(sweep.request) and not sweep.ended:
                return f"sweep '{sweep.id}'"
        for run in self._all_runs():
            if dataset in datasets_of(run.request) and (not run.log.ended or run.resumable):
                return f"run '{run.id}'"
        return ""

    def begin(self, caller: Caller, begin: Callable[[], T], again: Run | None = None) -> T:
        """Begins or resumes a run or sweep, if the caller may have one more. A sweep with its trials counts once.

        `again` is the run that is resumed. It counts already if it is paused. Raises as `Quota.run` and `begin` do.
        """
        if caller.quota is None or (again is not None and not again.log.ended):
            return begin()
        return caller.quota.run(begin, lambda: self._count(caller.owner))

    def _count(self, owner: str) -> int:
        requests: list[RunRequest] = [sweep.request for sweep in self._sweeps.list() if not sweep.ended]
        requests += [run.request for run in self._all_runs() if not _is_trial(run) and not run.log.ended]
        return sum(request.caller == owner for request in requests)

    def _all_runs(self, model: str = "") -> Iterable[Run]:
        # In this order: a run that is taken over in between is in both lists, rather than in neither.
        elsewhere = {run.id: run for run in self._runs.list_elsewhere(model)}
        return (elsewhere | {run.id: run for run in self._runs.list(model)}).values()


def _is_trial(run: Run) -> bool:
    return bool(run.request.sweep)
