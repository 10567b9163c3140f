"""The end of a run: publication of its result, or the record of why there is none."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from layerserve_server.errors import (
    ModelGoneError,
    NotTrainableError,
    ServerError,
    VersionConflictError,
    error_text,
    safe_text,
)
from layerserve_server.records import DAMAGED
from layerserve_server.repository.repository import Repository
from layerserve_server.training import events
from layerserve_server.training.events import Cancelled, Failed, What
from layerserve_server.training.run_folder.checkpoints import KeptCheckpoints
from layerserve_server.training.run_folder.data import DATA
from layerserve_server.training.run_folder.layout import (
    BASE,
    BEST,
    CACHE,
    CHECKPOINTS,
    KEPT,
    OF_KIND,
    OUTCOME,
    RESULT,
    RIVAL,
    START,
    result_file,
)
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.runs.queue import RunQueue
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.training.runs.table import RunTable, copy_version

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics
    from layerserve_server.training.runs.tracer import Tracer

logger = logging.getLogger(__name__)

SERVER_STOPPED = "the server was stopped"
#: Folders that a run needs only while it can be resumed; removed at its end.
RESUME_FOLDERS = (DATA, CHECKPOINTS, BEST, START, RIVAL, CACHE, OF_KIND)
#: Maximum number of versions that a result is compared with, one after another, before it is withheld.
MAX_COMPARISONS = 5
#: Maximum time until this server has read a version that another server has published, in seconds.
RIVAL_SECONDS = 30.0
#: Why a run is paused that no call has paused, or an evaluation has failed.
FULL = "there is no space left on the server's disk; resume the run when there is"
#: Maximum delay between the signals of a shutdown to a training process and to the server, in seconds.
STOP_SECONDS = 0.5


class RunEndings:
    """Ends runs. With `auto_resume`, a run that is interrupted as the server stops is left to the next server."""

    def __init__(
        self,
        table: RunTable,
        queue: RunQueue,
        repository: Repository,
        observer: Metrics,
        tracer: Tracer | None,
        *,
        auto_resume: bool,
    ) -> None:
        """`tracer` exports the spans of runs."""
        self._table = table
        self._queue = queue
        self._repository = repository
        self._observer = observer
        self._tracer = tracer
        self._auto_resume = auto_resume

    def conclude(self, run: Run) -> bool:
        """Ends or pauses a run whose process has ended: publishes its result, or records why there is none.

        Returns True if the process is to be started again at once, to compare the result with a newer version.
        """
        result = RunResult.read(run.folder)
        # An interactive run is resumed by its client.
        pauses = run.kind.pauses and not run.kind.interactive
        if run.cancelled_at is not None:
            self.end(run, Cancelled(run.position[0]))
        elif run.overspent:
            self.end(run, Failed(f"the run was ended: {run.overspent}", *run.position))
        elif result is None and run.process.out_of_space and pauses:
            self.pause(run, FULL)
        elif result is None and run.process.out_of_space:
            self.end(run, Failed(FULL, *run.position, resumable=True))
        elif result is None or result.stopped:
            self._conclude_interrupted(run, result)
        elif result.kind == "failed" and result.out_of_space and pauses:
            self.pause(run, FULL)
        elif result.kind == "failed":
            self.end(run, Failed(safe_text(result.reason), result.epoch, result.step, result.resumable))
        else:
            return self._finish(run, result)
        return False

    def _conclude_interrupted(self, run: Run, result: RunResult | None) -> None:
        # A process without a result was killed, or has failed by itself; then it would fail again.
        killed = not run.process.ended_by_itself if result is None else result.kind == "killed"
        if result is None:
            reason = run.process.death
        else:
            reason = result.reason or "the training process was stopped by a signal that the server didn't send"
        if run.control.pause and (killed or result is not None):
            self.pause(run, reason if killed else "", result)
        elif self._stops_soon():
            self.interrupt(run)
        elif run.goes_on and result is not None:
            with self._table.changed:
                self._queue.add_again(run)
            self._table.report()
        elif killed and self._auto_resume and not run.kind.interactive and not run.control.killed:
            self._resume_once(run, reason)
        else:
            again = ", for the second time" if killed and run.control.killed else ""
            resumable = killed or result is not None
            self.end(run, Failed(safe_text(reason + again), *run.position, resumable=resumable))

    def _resume_once(self, run: Run, reason: str) -> None:
        """Queues a run again whose process was killed. If that happens again, it fails: it may take too much memory."""
        try:
            # First, so that a run which has the server killed, too, isn't resumed for ever.
            run.set(killed=True)
            with self._table.changed:
                self._write(run, events.Log(safe_text(f"interrupted: {reason}; the run is resumed once")))
                self._queue.add_again(run)
        except DAMAGED as error:
            text = f"{reason}; the run can't be resumed: {error_text(error)}"
            self.end(run, Failed(safe_text(text), *run.position, resumable=True))
        else:
            logger.warning("a run is resumed once, since it was interrupted", extra={"run": run.id, "reason": reason})
            self._table.report()

    def pause(self, run: Run, reason: str = "", result: RunResult | None = None) -> None:
        """Pauses a run that has no process any more; `result` is the one with which its process ended.

        `reason` is for people, if no call asked for it. Its data and checkpoints are kept, and the server stays its
        owner.
        """
        at = (result.epoch, result.step) if result is not None and result.step else run.position
        with self._table.changed:
            if run.phase is Phase.ENDED:
                return
            run.phase = Phase.PAUSED
            run.process.forget()
            self._write(run, events.Paused(*at, safe_text(reason)))
        self._table.report()
        logger.info("a run was paused", extra={"run": run.id, **({"reason": reason} if reason else {})})

    def _stops_soon(self, seconds: float = STOP_SECONDS) -> bool:
        """Whether the server is stopping, now or within some seconds.

        If a whole process group is signalled, the training process may receive the signal first.
        """
        with self._table.changed:
            return self._table.changed.wait_for(lambda: self._table.stopping, seconds)

    def interrupt(self, run: Run) -> None:
        """Leaves a run to the next server, or fails it without `auto_resume`: this server is stopping."""
        if not self._auto_resume:
            self.end(run, Failed(SERVER_STOPPED, *run.position, resumable=True))
            return
        self.leave(run)

    def leave(self, run: Run) -> None:
        """Leaves a run to the next server as it is."""
        with self._table.changed:
            run.phase = Phase.ENDED
        run.disown()

    def publish_meanwhile(self, run: Run) -> None:
        """Publishes what a run under way has written to be published, if its kind publishes then."""
        if run.publisher is not None:
            run.publisher.publish(self._repository)

    def _finish(self, run: Run, result: RunResult) -> bool:
        """Publishes a result, if the run is to. Returns whether it is to be compared with a newer version first."""
        request = run.request
        if run.publisher is not None:
            self.end(run, run.publisher.last_event(result, run.seconds))
            return False
        version, withheld = 0, result.withheld
        if request.publish and not withheld and request.trains and not request.part_of:
            # The version that it was compared with last is one that it may replace.
            expected = max(request.expected_base_version, result.compared) if request.expected_base_version else 0
            try:
                version = self._publish(run, request.publish_label or "", expected)
            except VersionConflictError as error:
                if self._stops_soon(0.0):
                    self.interrupt(run)
                    return False
                withheld = self._bring_rival(run, result, error) if request.on_conflict == "rebase" else str(error)
                if not withheld:
                    return True
            except ModelGoneError as error:
                withheld = str(error)
            except ServerError as error:
                self.end(run, Failed(str(error), result.epoch))
                return False
        kept_back = self._repository.catalogue.kept_back(request.model, version) if version else ""
        self.end(run, events.Finished(version, result.logs, _seconds(run, result), safe_text(withheld), kept_back))
        return False

    def _publish(self, run: Run, label: str, expected: int, who: str = "") -> int:
        request = run.request
        file, base = result_file(run.folder), request.version
        return self._repository.publisher.publish_once(
            request.model, file, run=run.id, base_version=base, label=label, expected=expected, who=who
        )

    def _bring_rival(self, run: Run, result: RunResult, conflict: VersionConflictError) -> str:
        """Copies the newest version to the run's folder, where the run's process compares the result with it.

        Returns why that isn't possible; empty if it is. Should the server be killed, it all begins again.
        """
        if result.comparisons >= MAX_COMPARISONS:
            return f"{conflict}; the result was compared with {result.comparisons} newer versions one after another"
        model, newest = run.request.model, conflict.newest
        part, rival = run.folder / (RIVAL + ".part"), run.folder / RIVAL
        # Another server may have published it a moment ago.
        self._repository.scan(model)
        until = time.monotonic() + RIVAL_SECONDS
        while self._repository.publisher.newest(model) < newest and time.monotonic() < until and not self._stops_soon():
            self._repository.scan(model)
        try:
            with self._repository.leases.lease(model, newest) as version:
                for folder in (part, rival):
                    shutil.rmtree(folder, ignore_errors=True)
                copy_version(version.found, part)
            replace(result, compared=newest, comparisons=result.comparisons + 1).write(part)
            os.replace(part, rival)
            (run.folder / OUTCOME).unlink(missing_ok=True)
        except (ServerError, OSError) as error:
            text = error_text(error)
            return f"version {newest} was published meanwhile, and can't be compared with the result: {text}"
        run.process.forget()
        return ""

    def publish_kept(self, run: Run, label: str, expected: int, who: str) -> None:
        """Publishes the result of a run that has ended without publishing it. `who` is the caller, for the audit log.

        Raises NotTrainableError if there is none, or the repository can't be written, VersionConflictError if another
        version than `expected` (0: any) is the newest, VersionFailedError if the version can't be loaded, and as
        `RunTable.own`.
        """
        with self._table.changed:
            if not run.publishable:
                last = run.log.last
                reason = getattr(last, "reason", "") or getattr(last, "withheld", "")
                state = f"its state is {run.state.value}" + f": {reason}" * bool(reason)
                raise NotTrainableError(f"run '{run.id}' has no result that could be published: {state}")
            self._table.own(run)
        try:
            result = RunResult.read(run.folder) or RunResult("trained")
            version = self._publish(run, label, expected, who)
            shutil.rmtree(run.folder / RESULT, ignore_errors=True)
            with self._table.changed:
                kept_back = self._repository.catalogue.kept_back(run.request.model, version)
                self._write(run, events.Finished(version, result.logs, _seconds(run, result), kept_back=kept_back))
        finally:
            run.disown()

    def end(self, run: Run, what: What, *, only: Phase | None = None) -> None:
        """Ends a run with this event and removes what isn't needed any more. Does nothing if it has ended.

        With `only`, also does nothing if it isn't in this phase.
        """
        with self._table.changed:
            if run.phase is Phase.ENDED or (only is not None and run.phase is not only):
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
            drop_unused_base(run)
        # The event comes last, so that files and versions are in place when clients receive it. Under the lock, so that
        # a request to resume or delete the run right afterwards doesn't find it still owned by this server.
        with self._table.changed:
            self._write(run, what)
            run.disown()
            if self._tracer is not None:
                self._tracer.run_ended(run)
        self._table.prune()

    @staticmethod
    def _write(run: Run, what: What) -> None:
        """Appends an event. One that can't be written reaches those who watch now, but no later server."""
        try:
            run.log.write(what)
        except DAMAGED as error:
            logger.error(
                "can't write an event of the run: %s", safe_text(error_text(error), 200), extra={"run": run.id}
            )
            run.log.put(what)


def _seconds(run: Run, result: RunResult) -> float:
    """Returns the training time, in seconds."""
    return run.seconds if run.resumed else result.seconds


def drop_unused_base(run: Run) -> None:
    """Removes the files of the version that an ended run started from, unless it keeps checkpoints, which need them."""
    if not KeptCheckpoints(run.folder / KEPT).list():
        shutil.rmtree(run.folder / BASE, ignore_errors=True)
