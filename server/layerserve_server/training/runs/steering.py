"""What calls change of runs that have begun: they pause, go on, end early, or get another place in the queue."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from layerserve_server.errors import STOPPING, NotTrainableError, UnavailableError
from layerserve_server.training.checks import request_checks
from layerserve_server.training.events import Cancelled
from layerserve_server.training.runs.ending import RunEndings
from layerserve_server.training.runs.queue import RunQueue
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.training.runs.table import RunTable

logger = logging.getLogger(__name__)


class RunSteering:
    """Changes the course of runs. All methods take the id of a run and return the run; they raise as `RunTable.get`.

    `pause` and `stop` are written to the run's folder first, where the run's process reads them: so they hold even if
    the server or the process is killed meanwhile.
    """

    def __init__(self, table: RunTable, queue: RunQueue, endings: RunEndings) -> None:
        self._table = table
        self._queue = queue
        self._endings = endings

    def cancel(self, run_id: str) -> Run:
        """Cancels a run. Does nothing if it has ended."""
        run = self._table.get(run_id)
        with self._table.changed:
            if run.phase is Phase.TRAINING and run.cancelled_at is None:
                run.cancelled_at = time.monotonic()
                run.process.signal(signal.SIGTERM)
            if run.phase not in (Phase.RECEIVING, Phase.WAITING, Phase.PAUSED):
                return run
            self._queue.remove(run)
        self._endings.end(run, Cancelled(run.position[0]))
        return run

    def pause(self, run_id: str) -> Run:
        """Pauses a run: at once if it waits, after the current batch if it trains, else when its data has come.

        Does nothing if it is paused. Raises NotTrainableError for a kind that doesn't pause, a run that has ended, and
        one whose folder can't be written, and BusyError if too many runs are paused.
        """
        run = self._table.get(run_id)
        if not run.kind.pauses:
            raise NotTrainableError(f"run '{run.id}' is of kind {run.kind.name}, which can't be paused")
        with self._table.changed:
            self._check_under_way(run, "paused")
            if run.phase is Phase.PAUSED or run.control.pause:
                return run
            self._queue.check_room_to_pause(run.request.caller)
            if run.phase is not Phase.WAITING:
                self._set(run, pause=True)
                return run
            self._queue.remove(run)
            self._endings.pause(run)
        return run

    def resume(self, run_id: str) -> Run:
        """Resumes a run that is paused or was interrupted. Does nothing if it is queued or running.

        Raises NotTrainableError if the run can't be resumed, BusyError if the queue is full.
        """
        run = self._table.get(run_id)
        with self._table.changed:
            if run.phase is Phase.PAUSED:
                self._queue.check_room(run.kind)
                self._set(run, pause=False)
                self._requeue(run)
            elif run.phase is not Phase.ENDED:
                if run.control.pause:
                    self._set(run, pause=False)
                    # Its process may have read the file already.
                    run.goes_on = True
                return run
            else:
                if not run.resumable:
                    raise NotTrainableError(
                        f"run '{run.id}' can't be resumed: it wasn't interrupted, its state is {run.state.value}"
                    )
                self._queue.check_room(run.kind)
                self._table.own(run)
                try:
                    self._requeue(run)
                except BaseException:
                    run.disown()
                    raise
        self._table.report()
        return run

    def stop(self, run_id: str) -> Run:
        """Ends the training of a run early: its result so far is published. One that hasn't begun is cancelled.

        Does nothing if the run has ended. Raises NotTrainableError for a kind that doesn't end early, and a run whose
        folder can't be written, and BusyError for a paused run if the queue is full.
        """
        run = self._table.get(run_id)
        if not run.kind.ends_early:
            raise NotTrainableError(
                f"run '{run.id}' is of kind {run.kind.name}, which can't be stopped early; cancel it instead"
            )
        with self._table.changed:
            if run.phase is Phase.ENDED:
                return run
            if run.phase is Phase.TRAINING or (run.phase is not Phase.RECEIVING and run.has_checkpoint):
                paused = run.phase is Phase.PAUSED
                if paused:
                    self._queue.check_room(run.kind)
                self._set(run, stop=True, pause=False)
                if paused:
                    self._requeue(run)
                begun = True
            else:
                begun = False
        if begun:
            self._table.report()
            return run
        return self.cancel(run_id)

    def update(
        self,
        run_id: str,
        *,
        priority: int | None = None,
        description: str | None = None,
        metadata: Mapping[str, str] | None = None,
        removed: Sequence[str] = (),
    ) -> Run:
        """Changes the priority, the description and the metadata of a run; None leaves a value as it is.

        Raises InvalidRequestError if a value exceeds its limits, NotTrainableError for the priority of a run that has
        ended, and for a run whose folder can't be written.
        """
        run = self._table.get(run_id)
        values: dict[str, Any] = {}
        with self._table.changed:
            if priority is not None:
                if run.log.ended:
                    raise NotTrainableError(f"run '{run.id}' has ended: its priority can't be changed")
                values["priority"] = priority
            if description is not None:
                request_checks.check_description(description)
                values["description"] = description
            if metadata or removed:
                kept = {key: value for key, value in run.metadata.items() if key not in removed}
                values["metadata"] = request_checks.checked_metadata({**kept, **(metadata or {})})
            if not values:
                return run
            if run.phase is Phase.ENDED:
                self._table.own(run)
                try:
                    self._set(run, **values)
                finally:
                    run.disown()
                return run
            self._set(run, **values)
            if run.phase is Phase.WAITING and priority is not None:
                self._queue.remove(run)
                self._queue.add(run)
        return run

    def _check_under_way(self, run: Run, what: str) -> None:
        if run.phase is not Phase.ENDED:
            return
        if self._table.stopping:
            raise UnavailableError(STOPPING)
        raise NotTrainableError(f"run '{run.id}' can't be {what}: it has ended, its state is {run.state.value}")

    def _requeue(self, run: Run) -> None:
        try:
            self._queue.add_again(run)
        except OSError as error:
            raise _unwritable(run, error) from error

    def _set(self, run: Run, **values: Any) -> None:
        try:
            run.set(**values)
        except OSError as error:
            raise _unwritable(run, error) from error


def _unwritable(run: Run, error: OSError) -> NotTrainableError:
    return NotTrainableError(f"run '{run.id}': its folder can't be written: {error.strerror}")
