"""The runs of a server: what can be asked of them, and the threads that execute them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerserve_server.errors import NotTrainableError
from layerserve_server.jobs.channel import never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.repository import Repository
from layerserve_server.training.base_version import BaseVersion
from layerserve_server.training.checks.problems import Notes
from layerserve_server.training.checks.run_checks import RunChecks
from layerserve_server.training.events import Failed
from layerserve_server.training.from_checkpoint import Start
from layerserve_server.training.process.run_process import MakeProcess
from layerserve_server.training.process.training_process import TrainingProcess
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.result import INTERRUPT, RunResult
from layerserve_server.training.run_kind import RunKind, RunKinds, core_kinds
from layerserve_server.training.run_limits import RunLimits
from layerserve_server.training.runs.ending import SERVER_STOPPED, RunEndings
from layerserve_server.training.runs.execution import TRAINER, RunExecution
from layerserve_server.training.runs.queue import RunQueue
from layerserve_server.training.runs.run import Phase, Run, RunState
from layerserve_server.training.runs.steering import RunSteering
from layerserve_server.training.runs.table import RunTable

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics
    from layerserve_server.training.runs.tracer import Tracer

logger = logging.getLogger(__name__)

#: Number of automatic resumes without progress after which a run fails: it might be what kills the server.
MAX_FUTILE = 3


class Runs:
    """The runs in a folder. Each slot of a kind is a thread that executes one run after another in a process.

    Several servers may share the folder; each run is owned by the server that holds its lock. Thread-safe.
    """

    def __init__(
        self,
        folder: Path,
        repository: Repository,
        jobs: Jobs,
        limits: RunLimits,
        observer: Metrics,
        command: Sequence[str],
        tracer: Tracer | None = None,
        make_process: MakeProcess = TrainingProcess,
        kinds: Iterable[RunKind] = (),
    ) -> None:
        """`command` executes the run whose folder is appended. That of `execution.TRAINER` is forked instead.

        `tracer` exports the spans of runs. `make_process` returns the handle of a run's process. `kinds` are those of
        extensions.
        """
        self._repository = repository
        self._checks = RunChecks(jobs, repository, limits, folder)
        self._limits = limits
        self._kinds = RunKinds((*core_kinds(limits), *kinds))
        #: The runs: finds, lists and scans them.
        self.table = RunTable(folder, limits.max_kept, observer, self._kinds, make_process)
        self.table.adopt = self._adopt
        self._queue = RunQueue(self.table, limits)
        self._endings = RunEndings(
            self.table, self._queue, repository, observer, tracer, auto_resume=limits.auto_resume
        )
        #: Pauses, resumes, stops and changes runs.
        self.steering = RunSteering(self.table, self._queue, self._endings)
        self._execution = RunExecution(
            self.table, self._endings, limits, observer, tracer, command, jobs if command == TRAINER else None
        )
        self._threads: list[threading.Thread] = []

    # Lifecycle.

    def start(self) -> None:
        """Reads the runs in the folder, resumes interrupted ones, and starts the slots."""
        self.table.scan_first()
        for kind in self._kinds.values():
            for slot in range(kind.slots):
                self._spawn(f"{kind.name} {slot}", partial(self._work, kind))

    def stop(self) -> None:
        """Interrupts all runs. Running ones have `cancel_grace_seconds` to write a checkpoint.

        With `auto_resume` the next server resumes them; until then their state is still queued or running.
        """
        # Waits until no run is being taken over.
        with self.table.settled():
            self.table.stopping = True
            receiving, waiting = self.table.in_phase(Phase.RECEIVING), self.table.in_phase(Phase.WAITING)
            self._queue.clear()
            for run in self.table.in_phase(Phase.TRAINING):
                if not run.process.survives_stop:
                    run.process.signal(INTERRUPT)
            self.table.changed.notify_all()
        for run in receiving:
            self._endings.end(run, Failed(SERVER_STOPPED))
        for run in waiting:
            self._endings.interrupt(run)
        for thread in self._threads:
            thread.join()
        with self.table.changed:
            # Paused for the next server, too.
            for run in self.table.in_phase(Phase.PAUSED):
                run.phase = Phase.ENDED
                run.disown()

    # Requests.

    def line(self, request: RunRequest) -> tuple[int, float | None]:
        """Returns how many runs a run would wait for, and for how many seconds, as `RunQueue.line` does."""
        with self.table.changed:
            return self._queue.line(self._kinds[request.kind], request.priority)

    def begin(
        self,
        request: RunRequest,
        base: BaseVersion,
        gone: Callable[[], bool] = never,
        start: Start | None = None,
    ) -> Run:
        """Validates a request against its base version and creates a run, in phase RECEIVING.

        With `start` the run begins with that checkpoint, and with the files of its run; `base` has the same inputs.

        Raises InvalidRequestError or a subclass if the request doesn't match the model, NotTrainableError if training
        is off or files can't be written, BusyError if the queue is full, TooLargeError if a limit is exceeded,
        ForbiddenPathError for a path outside of the data root, UnavailableError while starting or stopping,
        UnknownCheckpointError if `start` is gone, and CallCancelledError once `gone` returns True.
        """
        kind = self._kinds[request.kind]
        self.check_ready(kind.name)
        with self._queue.admitted(kind):
            if kind.checked:
                request = self._checked(request, base, gone, start)
            publishes = request.publish and kind.publisher is None and not request.part_of
            kept_back = self._repository.catalogue.kept_back(request.model) if publishes else ""
            run = self.table.create(request, base.found, start, kept_back)
        self.table.report()
        return run

    def check(self, request: RunRequest, base: BaseVersion, gone: Callable[[], bool] = never) -> RunRequest:
        """Validates a request without creating a run, and returns it completed. Raises as `begin` does."""
        self.check_ready(request.kind)
        return self._checked(request, base, gone)

    def problems(
        self, request: RunRequest, base: BaseVersion, notes: Notes, gone: Callable[[], bool] = never
    ) -> RunRequest | None:
        """Collects whatever `begin` would refuse. Returns the completed request; None if its data has a problem.

        Raises as `check_ready` does, UnavailableError and CallCancelledError.
        """
        self.check_ready(request.kind)
        return self._checks(request, base, gone, notes=notes)

    def _checked(
        self, request: RunRequest, base: BaseVersion, gone: Callable[[], bool], start: Start | None = None
    ) -> RunRequest:
        checked = self._checks(request, base, gone, start)
        assert checked is not None, "problems are raised"
        return checked

    def check_ready(self, name: str) -> None:
        """Raises NotTrainableError if runs of the kind of this name are off.

        Raises UnavailableError until the runs have been read at startup.
        """
        kind = self._kinds[name]
        if not kind.slots:
            raise NotTrainableError(kind.off)
        self.table.check_scanned()

    def enqueue(self, run: Run) -> None:
        """Adds a run to the queue after its upload is complete. Does nothing if it isn't receiving data any more."""
        with self.table.changed:
            if run.phase is not Phase.RECEIVING:
                return
            if run.control.pause:
                self._endings.pause(run)
            else:
                self._queue.add(run)
        self.table.report()

    def abandon(self, run: Run, reason: str) -> None:
        """Fails a run whose upload was aborted. Does nothing if it isn't receiving data any more."""
        self._endings.end(run, Failed(reason), only=Phase.RECEIVING)

    def delete(self, run_id: str) -> None:
        """Removes an ended run and its folder. Raises as `RunTable.get`, and NotTrainableError if it hasn't ended."""
        run = self.table.get(run_id)
        with self.table.changed:
            if run.phase is not Phase.ENDED or not run.log.ended:
                raise NotTrainableError(f"run '{run.id}' hasn't ended; cancel it first")
            # Another server may have resumed it.
            self.table.own(run)
        self.table.remove(run)

    def publish(self, run_id: str, label: str = "", expected: int = 0, who: str = "") -> Run:
        """Publishes the kept result of a run, and returns the run. Raises as `get` and `RunEndings.publish_kept`."""
        run = self.table.get(run_id)
        self._endings.publish_kept(run, label, expected, who)
        return run

    # Execution.

    def _adopt(self, run: Run) -> None:
        """Continues a run of an earlier server, whose process may be alive or have ended."""
        result = RunResult.read(run.folder)
        if run.request.kind not in self._kinds:
            self.table.set_aside(run, Failed(run.kind.off, *run.position, resumable=True))
        elif run.state is RunState.PAUSED:
            run.phase = Phase.PAUSED
        elif run.process.lives or (result is not None and not result.stopped):
            run.phase = Phase.TRAINING
            logger.info("attached to a run that an earlier server process started", extra={"run": run.id})
            self._spawn(f"run {run.id}", lambda: self._execution.execute(run, launch=False))
        elif not run.has_data:
            self._endings.end(run, Failed(f"{SERVER_STOPPED} before all data was received"))
        elif run.control.pause:
            self._endings.pause(run)
        elif not self._limits.auto_resume or not run.kind.slots:
            self._endings.end(run, Failed(SERVER_STOPPED, *run.position, resumable=True))
        elif run.futile >= MAX_FUTILE:
            reason = f"{SERVER_STOPPED}, {run.futile} times without progress of this run"
            self._endings.end(run, Failed(reason, *run.position, resumable=True))
        else:
            logger.info("resuming a run", extra={"run": run.id})
            with self.table.changed:
                self._queue.add_again(run)

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, kind: RunKind) -> None:
        """Executes runs of a kind, one after another, until the server stops."""
        while (run := self._queue.take(kind)) is not None:
            self.table.report()
            self._execution.execute(run, launch=True)
