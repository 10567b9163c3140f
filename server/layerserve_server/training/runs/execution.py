"""The execution of a run: its process is started and watched until it ends."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerserve_server.errors import ServerError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training import budget, events
from layerserve_server.training.events import Failed
from layerserve_server.training.program import main
from layerserve_server.training.run_folder.result import INTERRUPT
from layerserve_server.training.run_limits import RunLimits
from layerserve_server.training.runs.ending import RunEndings
from layerserve_server.training.runs.run import Run
from layerserve_server.training.runs.table import RunTable

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics
    from layerserve_server.training.runs.tracer import Tracer

logger = logging.getLogger(__name__)

#: Command of a run's process; the run's folder is appended.
TRAINER = (sys.executable, "-m", main.__name__)


class RunExecution:
    """Executes runs, each in a process. Called in a thread of each run."""

    def __init__(
        self,
        table: RunTable,
        endings: RunEndings,
        limits: RunLimits,
        observer: Metrics,
        tracer: Tracer | None,
        command: Sequence[str],
        jobs: Jobs | None,
    ) -> None:
        """`command` executes the run whose folder is appended; with `jobs`, runs are forked instead."""
        self._table = table
        self._endings = endings
        self._limits = limits
        self._observer = observer
        self._tracer = tracer
        self._command = command
        self._jobs = jobs

    def execute(self, run: Run, *, launch: bool) -> None:
        """Executes a run to its end. Without `launch` its process has been started by an earlier server."""
        try:
            again = launch
            while True:
                if again:
                    self._launch(run)
                if not self._watch(run):
                    self._endings.leave(run)
                    return
                again = self._endings.conclude(run)
                if not again:
                    return
        except ServerError as error:
            self._endings.end(run, Failed(str(error), *run.position, resumable=True))
        except Exception:
            logger.exception("the run failed with an internal error", extra={"run": run.id})
            run.process.signal(signal.SIGKILL)
            self._endings.end(run, Failed("internal error; see the server's log", *run.position))

    def _launch(self, run: Run) -> None:
        # Not forked on a GPU: CUDA can't be initialized again after a fork.
        jobs = self._jobs if run.request.device == "cpu" else None
        variables = self._tracer.run_variables(run.folder) if self._tracer is not None else {}
        if run.kind.program:
            variables[main.PROGRAM] = run.kind.program
        run.process.start(self._command, run.request.threads, jobs, variables)
        with self._table.changed:
            if run.cancelled_at is not None:
                run.process.signal(signal.SIGTERM)
            elif self._table.stopping and not run.process.survives_stop:
                run.process.signal(INTERRUPT)

    def _watch(self, run: Run) -> bool:
        """Follows a run's process until it ends. Kills it if it doesn't stop in time, or takes too much memory or disk.

        Returns False if the process goes on although the server stops.
        """
        watch = budget.Watch(run.request.budget, run.folder, self._limits.max_written)
        trained = TrainingTime(run)
        stopping_at: float | None = None
        while True:
            alive = run.process.wait()
            self._follow(run)
            self._endings.publish_meanwhile(run)
            if not alive:
                return True
            if self._table.stopping and run.process.survives_stop:
                return False
            if self._table.stopping and stopping_at is None:
                stopping_at = time.monotonic()
            stops = [at for at in (run.cancelled_at, stopping_at) if at is not None]
            if stops and time.monotonic() - min(stops) > self._limits.cancel_grace_seconds:
                run.process.signal(signal.SIGKILL)
            seconds = run.request.budget.max_seconds
            if seconds and trained.seconds > seconds:
                self._stop(run, f"its budget of {seconds:g} seconds is spent")
            if not run.overspent:
                run.overspent = watch.overspent(run.process.pid)
                if run.overspent:
                    run.process.signal(signal.SIGKILL)

    def _stop(self, run: Run, reason: str) -> None:
        """Has a run end early with its result so far, as a call can."""
        # If the folder can't be written, the next look tries again.
        with self._table.changed, contextlib.suppress(OSError):
            if not run.control.stop:
                run.set(stop=True, why_stopped=reason)

    def _follow(self, run: Run) -> None:
        for event in run.log.refresh():
            if isinstance(event.what, events.Started):
                self._table.report()
            if isinstance(event.what, (events.Step, events.Epoch)):
                step = event.what.step if isinstance(event.what, events.Step) else 0
                loss = event.what.logs.get("loss")
                self._observer.run_progressed(run.request.model, event.what.epoch, step, loss)


class TrainingTime:
    """The training time of a run whose process is watched. Setting the system's clock doesn't change it.

    The times of its events are by that clock.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._before = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """The time in seconds; 0 until the process has started to train."""
        if self._since is None:
            if not self._run.trains:
                return 0.0
            self._before, self._since = self._run.seconds, time.monotonic()
        return self._before + time.monotonic() - self._since
