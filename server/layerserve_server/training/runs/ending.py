"""The end of a run: publication of its result, or the record of why there is none."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path

from layerserve_server.errors import ServerError, safe_text
from layerserve_server.repository.repository import Repository
from layerserve_server.training import events
from layerserve_server.training.events import Cancelled, Failed, What
from layerserve_server.training.request import Kind
from layerserve_server.training.result import RunResult
from layerserve_server.training.runs import trace
from layerserve_server.training.runs.folder import BASE, BEST, CHECKPOINTS, PUBLISH, RESULT, STEPS, result_file
from layerserve_server.training.runs.observer import RunObserver
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.training.runs.table import RunTable
from layerserve_server.training.runs.trace import RunTracer
from layerserve_server.training.upload import DATA

logger = logging.getLogger(__name__)

SERVER_STOPPED = "the server was stopped"
#: Folders that a run needs only while it can be resumed; removed at its end.
RESUME_FOLDERS = (DATA, BASE, CHECKPOINTS, BEST, STEPS, PUBLISH)
#: Maximum delay between the signals of a shutdown to a training process and to the server, in seconds.
STOP_SECONDS = 0.5


class RunEndings:
    """Ends runs. With `auto_resume`, a run that is interrupted as the server stops is left to the next server."""

    def __init__(
        self,
        table: RunTable,
        repository: Repository,
        observer: RunObserver,
        tracer: RunTracer | None,
        *,
        auto_resume: bool,
    ) -> None:
        """`tracer` exports the spans of runs."""
        self._table = table
        self._repository = repository
        self._observer = observer
        self._tracer = tracer
        self._auto_resume = auto_resume

    def conclude(self, run: Run) -> None:
        """Ends a run whose process has ended: publishes its result, or records why there is none."""
        result = RunResult.read(run.folder)
        if run.cancelled_at is not None:
            self.end(run, Cancelled(run.position[0]))
        elif run.overspent:
            self.end(run, Failed(f"the run was ended: {run.overspent}", *run.position))
        elif result is None or result.stopped:
            if self._stops_soon():
                self.interrupt(run)
                return
            signalled = "the training process was stopped by a signal that the server didn't send"
            interrupted = result is not None or not run.process.ended_by_itself
            self.end(run, Failed(signalled if result else run.process.death, *run.position, resumable=interrupted))
        elif result.kind == "failed":
            self.end(run, Failed(safe_text(result.reason), result.epoch, result.step, result.resumable))
        else:
            self._finish(run, result)

    def _stops_soon(self) -> bool:
        """Whether the server is stopping, now or within STOP_SECONDS.

        If a whole process group is signalled, the training process may receive the signal first.
        """
        with self._table.changed:
            return self._table.changed.wait_for(lambda: self._table.stopping, STOP_SECONDS)

    def interrupt(self, run: Run) -> None:
        """Leaves a run to the next server, or fails it without `auto_resume`: this server is stopping."""
        if not self._auto_resume:
            self.end(run, Failed(SERVER_STOPPED, *run.position, resumable=True))
            return
        with self._table.changed:
            run.phase = Phase.ENDED
        run.disown()

    def publish_versions(self, run: Run) -> None:
        """Publishes what a session has written to be published."""
        run.publications.publish(partial(self._publish_version, run))

    def _publish_version(self, run: Run, file: Path, step: int) -> int:
        request = run.request
        return self._repository.publish_once(
            request.model,
            file,
            run=run.id,
            base_version=request.version,
            label=request.publish_label or "",
            # By which a version that was published before a kill is found again.
            checkpoint=f"step-{step}",
        )

    def _finish_session(self, run: Run, result: RunResult) -> None:
        outcomes = run.publications.outcomes(0)
        if outcomes and outcomes[-1].error is not None:
            # The session can be resumed, and ended again.
            reason = safe_text(str(outcomes[-1].error))
            self.end(run, Failed(reason, result.epoch, result.step, resumable=True))
            return
        last = run.publications.last
        self.end(run, events.Finished(last.version if last else 0, result.logs, run.seconds))

    def _finish(self, run: Run, result: RunResult) -> None:
        request = run.request
        if request.kind is Kind.ONLINE:
            self._finish_session(run, result)
            return
        version = 0
        if request.publish and not result.withheld and request.kind is Kind.TRAINING:
            try:
                version = self._repository.publish_once(
                    request.model,
                    result_file(run.folder),
                    run=run.id,
                    base_version=request.version,
                    label=request.publish_label or "",
                )
            except ServerError as error:
                self.end(run, Failed(str(error), result.epoch))
                return
        seconds = run.seconds if run.resumed else result.seconds
        self.end(run, events.Finished(version, result.logs, seconds, safe_text(result.withheld)))

    def end(self, run: Run, what: What) -> None:
        """Ends a run with this event and removes what isn't needed any more. Does nothing if it has ended."""
        with self._table.changed:
            if run.phase is Phase.ENDED:
                return
            run.phase = Phase.ENDED
        state = type(what).__name__.lower()
        self._observer.run_ended(run.request.model, state)
        self._table.report()
        reason = {"reason": what.reason} if isinstance(what, Failed) else {}
        logger.info("a run ended", extra={"run": run.id, "state": state, **reason})
        if not (isinstance(what, Failed) and what.resumable):
            published = isinstance(what, events.Finished) and what.version
            for name in (*RESUME_FOLDERS, RESULT) if published else RESUME_FOLDERS:
                shutil.rmtree(run.folder / name, ignore_errors=True)
        # The event comes last, so that files and versions are in place when clients receive it. Under the lock, so that
        # a request to resume or delete the run right afterwards doesn't find it still owned by this server.
        with self._table.changed:
            try:
                events.append(run.folder, what)
                run.log.refresh()
            except OSError as error:
                logger.error("can't write the last event of the run: %s", error.strerror, extra={"run": run.id})
                run.log.put(what)
            if self._tracer is not None:
                trace.export(self._tracer, run)
            run.disown()
        self._table.prune()
