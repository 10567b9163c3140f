"""Estimates of runs: their problems, or else their steps, time, memory, disk space and what they would publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerserve_server.extensions.estimates import costs
from layerserve_server.extensions.estimates.costs import Seconds, Trial
from layerserve_server.extensions.estimates.steps import Steps, steps_of
from layerserve_server.jobs.channel import never
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.training.checks.problems import Notes
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.registry import Runs

if TYPE_CHECKING:
    from layerserve_server.extensions.estimates.measured_run import MeasuredRuns


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run takes: numbers of parameters, bytes, and times in seconds."""

    trainable: int
    non_trainable: int
    memory: int
    disk: int
    seconds: Seconds


@dataclass(frozen=True, slots=True)
class Publication:
    """What a run would publish: the version's number, and the size of its file in bytes."""

    version: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of a run. `request` is complete, unless its data has problems; then there are no `steps`.

    `wait` is the time in the queue in seconds, None if it isn't known; `ahead` is the number of runs before this one.
    """

    request: RunRequest
    problems: tuple[str, ...]
    steps: Steps | None
    costs: Costs | None
    publication: Publication | None
    ahead: int
    wait: float | None


class Estimator:
    """Estimates runs. Thread-safe."""

    def __init__(self, runs: Runs, repository: Repository, trial: MeasuredRuns) -> None:
        self._runs = runs
        self._repository = repository
        self._trial = trial

    def __call__(self, request: RunRequest, base: LoadedVersion, gone: Callable[[], bool] = never) -> Estimate:
        """Returns the estimate of a run from a base version. Whatever `Runs.begin` would refuse is among its problems.

        Raises NotTrainableError if training is off, BusyError if another run is being estimated, UnavailableError while
        starting or stopping, and CallCancelledError once `gone` returns True.
        """
        notes = Notes()
        filled = self._runs.problems(request, base, notes, gone)
        steps = steps_of(filled) if filled is not None and request.batch_size >= 1 and request.epochs >= 0 else None
        measured: tuple[Trial, Costs] | None = None
        if filled is not None and steps is not None and not notes.texts:
            with notes:
                trial = self._trial(filled, base.found, gone)
                measured = trial, _costs(filled, steps, trial, base)
        request = filled or request
        publication = None
        if measured is not None and request.publish and request.trains:
            publication = Publication(self._repository.publisher.highest(request.model) + 1, measured[0].result)
        ahead, wait = self._runs.line(request)
        found = None if measured is None else measured[1]
        return Estimate(request, tuple(notes.texts), steps, found, publication, ahead, wait)


def _costs(request: RunRequest, steps: Steps, trial: Trial, base: LoadedVersion) -> Costs:
    seconds = costs.seconds(request, steps, trial)
    return Costs(
        trial.trainable,
        trial.non_trainable,
        costs.memory(request, steps, trial),
        costs.disk(request, steps, trial, base.found.size, seconds.total),
        seconds,
    )
