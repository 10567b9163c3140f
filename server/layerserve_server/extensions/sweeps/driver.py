"""Drives a sweep: starts its trials as runs, and publishes the best."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from layerserve_server.errors import (
    BusyError,
    ModelGoneError,
    NotTrainableError,
    ServerError,
    UnavailableError,
    UnknownRunError,
    VersionConflictError,
    safe_text,
)
from layerserve_server.extensions.sweeps.base_copy import Base
from layerserve_server.extensions.sweeps.space import with_settings
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState, Trial, TrialState
from layerserve_server.extensions.sweeps.trial_settings import settings_of
from layerserve_server.repository.repository import Repository
from layerserve_server.training import events
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import RESULT, result_file
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run

logger = logging.getLogger(__name__)

#: Time between two looks at the runs of a sweep, in seconds.
LOOK_SECONDS = 0.2
#: Time between two tries to start a run that the queue has refused, in seconds.
RETRY_SECONDS = 2.0
#: Number of times that a trial's run is resumed after an interruption.
MAX_RESUMED = 3


class Driver:
    """Drives one sweep in the calling thread."""

    def __init__(self, sweep: Sweep, runs: Runs, repository: Repository, stopping: Callable[[], bool]) -> None:
        """`stopping` returns whether the server stops; the sweep is then left as it is, for the next server."""
        self._sweep = sweep
        self._runs = runs
        self._repository = repository
        self._stopping = stopping
        self._retry_at = -math.inf

    def run(self) -> None:
        """Drives the sweep to its end, or until the server stops. Raises OSError if its folder can't be written."""
        sweep = self._sweep
        base = Base.read(sweep.folder)
        started = self._started()
        while not self._stopping():
            for trial in [trial for trial in sweep.trials if not trial.ended]:
                self._follow(trial, base, started)
            if self._stopping():
                return
            running = sum(not trial.ended for trial in sweep.trials)
            if not running and (sweep.cancelled or len(sweep.trials) >= sweep.plan.trials):
                self._end()
                return
            if not sweep.cancelled and running < sweep.plan.parallel and len(sweep.trials) < sweep.plan.trials:
                number = len(sweep.trials)
                sweep.trials.append(Trial(number, settings_of(sweep.plan, number)))
                sweep.save()
                continue
            sweep.wake.wait(LOOK_SECONDS)
            sweep.wake.clear()

    def _started(self) -> dict[int, str]:
        """Returns the ids of the sweep's runs, by number of the trial."""
        runs = self._runs.table.list(self._sweep.request.model)
        return {run.request.part: run.id for run in runs if run.request.part_of == self._sweep.id}

    def _follow(self, trial: Trial, base: Base, started: dict[int, str]) -> None:
        """Starts a trial's run, or notes what has happened in it."""
        sweep = self._sweep
        if not trial.run_id:
            # A server that was killed may have started it without noting its id.
            trial.run_id = started.get(trial.number, "")
        if not trial.run_id:
            if sweep.cancelled:
                self._conclude(trial, TrialState.CANCELLED)
            elif time.monotonic() >= self._retry_at:
                self._start(trial, base)
            return
        try:
            run = self._runs.table.get(trial.run_id)
        except UnknownRunError:
            self._conclude(trial, TrialState.FAILED, "its run was removed")
            return
        except ServerError:
            return  # another server owns it, and ends it
        ended = run.log.ended  # before the events are read, since the last one may be added meanwhile
        self._read_epochs(trial, run)
        if ended:
            self._end_trial(trial, run)
        elif sweep.cancelled:
            self._runs.steering.cancel(run.id)

    def _start(self, trial: Trial, base: Base) -> None:
        sweep = self._sweep
        try:
            request = trial_request(sweep, trial)
            run = self._runs.begin(request, base, self._stopping)
            self._runs.enqueue(run)
        except (BusyError, UnavailableError):
            self._retry_at = time.monotonic() + RETRY_SECONDS
        except ServerError as error:
            self._conclude(trial, TrialState.FAILED, str(error))
        else:
            trial.run_id = run.id
            sweep.save()

    def _read_epochs(self, trial: Trial, run: Run) -> None:
        """Notes the epochs that have ended since the last call."""
        sweep = self._sweep
        best = sweep.request.publish == "best"
        while new := run.log.since(trial.next_event):
            for event in new:
                trial.next_event = event.sequence + 1
                if not isinstance(event.what, events.Epoch):
                    continue
                value = event.what.logs.get(sweep.plan.monitor, math.nan)
                if not math.isnan(value):
                    trial.add(event.what.epoch, value)
                    if not best or trial.value is None or sweep.plan.is_better(value, trial.value):
                        trial.value = value
                elif not best:
                    # The weights of this epoch are those that would be published.
                    trial.value = None

    def _end_trial(self, trial: Trial, run: Run) -> None:
        last = run.log.last
        trial.seconds = run.seconds
        if isinstance(last, events.Finished):
            trial.withheld = last.withheld
            if trial.value is None:
                reason = f"its run has no number for log '{self._sweep.plan.monitor}'"
                self._conclude(trial, TrialState.FAILED, reason)
            elif last.withheld and not result_file(run.folder).is_file():
                self._conclude(trial, TrialState.FAILED, last.withheld)
            else:
                self._conclude(trial, TrialState.FINISHED, run=run)
        elif isinstance(last, events.Cancelled):
            self._conclude(trial, TrialState.CANCELLED)
        elif isinstance(last, events.Failed):
            # A run that was killed has resumed itself.
            again = last.resumable and not run.control.killed and trial.resumed < MAX_RESUMED
            if again and not self._sweep.cancelled:
                with contextlib.suppress(BusyError, UnavailableError, NotTrainableError):
                    self._runs.steering.resume(run.id)
                    trial.resumed += 1
                return
            self._conclude(trial, TrialState.FAILED, last.reason)

    def _conclude(self, trial: Trial, state: TrialState, reason: str = "", run: Run | None = None) -> None:
        """Ends a trial. The model of `run` is kept if it is the best so far."""
        sweep = self._sweep
        trial.state, trial.reason = state, safe_text(reason)
        if run is not None and trial.value is not None and sweep.is_better(trial.value):
            sweep.keep_best(trial, result_file(run.folder))
        else:
            sweep.save()
        if run is not None:
            # Last, so that a server that is killed meanwhile finds it again.
            shutil.rmtree(run.folder / RESULT, ignore_errors=True)

    def _end(self) -> None:
        """Ends the sweep: publishes the best trial's model, if that was asked for."""
        sweep = self._sweep
        state, reason = SweepState.FINISHED, ""
        best = sweep.trial(sweep.best)
        if sweep.cancelled:
            state = SweepState.CANCELLED
        elif best is None:
            reasons = {trial.reason for trial in sweep.trials if trial.state is TrialState.FAILED}
            state, reason = SweepState.FAILED, f"no trial has given a result: {'; '.join(sorted(reasons))}"
        elif sweep.request.publish and best.withheld:
            reason = best.withheld
        elif sweep.request.publish:
            try:
                sweep.published = self._publish(sweep.best_file(sweep.best))
            except (VersionConflictError, ModelGoneError) as error:
                reason = str(error)
            except ServerError as error:
                state, reason = SweepState.FAILED, str(error)
        sweep.state, sweep.reason, sweep.ended_time = state, safe_text(reason), time.time()
        sweep.save()
        logger.info("a sweep ended", extra={"sweep": sweep.id, "state": state.value, "version": sweep.published})

    def _publish(self, file: Path) -> int:
        request = self._sweep.request
        return self._repository.publisher.publish_once(
            request.model,
            file,
            run=self._sweep.id,
            base_version=request.version,
            label=request.publish_label or "",
            expected=request.expected_base_version or 0,
        )


def trial_request(sweep: Sweep, trial: Trial) -> RunRequest:
    """Returns the request of a trial's run. Raises InvalidRequestError if a setting is invalid."""
    request = with_settings(sweep.request, trial.settings)
    # A call with the key of the sweep doesn't find one of its runs.
    return replace(request, part_of=sweep.id, part=trial.number, idempotency_key=None)
