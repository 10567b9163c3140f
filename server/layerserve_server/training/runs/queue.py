"""The queue of runs: admission, order, and the slots that take runs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from layerserve_server.errors import STOPPING, BusyError, NotTrainableError, UnavailableError
from layerserve_server.training import events
from layerserve_server.training.run_folder.layout import OUTCOME
from layerserve_server.training.run_kind import RunKind
from layerserve_server.training.run_limits import RunLimits
from layerserve_server.training.runs.remaining import remaining_seconds
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.training.runs.table import RunTable


class RunQueue:
    """The waiting runs, by priority and then in order of arrival. Each kind has slots of its own.

    Everything happens under the lock of the table.
    """

    def __init__(self, table: RunTable, limits: RunLimits) -> None:
        self._table = table
        self._limits = limits
        self._waiting: list[Run] = []
        #: Number of runs that are being begun, by kind.
        self._beginning = Counter[RunKind]()

    @contextmanager
    def admitted(self, kind: RunKind) -> Iterator[None]:
        """Keeps a place for the run that is begun within the block. Raises as `check_room` does."""
        with self._table.changed:
            self.check_room(kind)
            self._beginning[kind] += 1
        try:
            yield
        finally:
            with self._table.changed:
                self._beginning[kind] -= 1

    def check_room(self, kind: RunKind) -> None:
        """Raises BusyError if there is no room for another run of a kind, and NotTrainableError if such runs are off.

        Raises UnavailableError if the server is stopping. Called with the lock held. Runs that are still receiving data
        don't count, so a client that sends nothing doesn't block others.
        """
        if self._table.stopping:
            raise UnavailableError(STOPPING)
        if not kind.slots:
            raise NotTrainableError(kind.off)
        kinds = [run.kind for run in self._table.in_phase(Phase.WAITING, Phase.TRAINING)]
        kinds += self._beginning.elements()
        # Kinds that aren't interactive share the queue.
        active = sum(one == kind or not (one.interactive or kind.interactive) for one in kinds)
        if kind.interactive and active >= kind.slots:
            raise BusyError(f"{active} {kind.plural} are open, the maximum", retry_after=10.0)
        if not kind.interactive and active >= self._limits.slots + self._limits.max_queued:
            raise BusyError(f"{active} {kind.plural} are queued or running, the maximum", retry_after=10.0)

    def check_room_to_pause(self, caller: str) -> None:
        """Raises BusyError if as many runs of a caller are paused, or about to be, as may wait.

        Called with the lock held.

        A paused run keeps its data and checkpoints on disk.
        """
        open_phases = (Phase.RECEIVING, Phase.TRAINING, Phase.PAUSED)
        own = [run for run in self._table.in_phase(*open_phases) if run.request.caller == caller]
        paused = sum(run.phase is Phase.PAUSED or run.control.pause for run in own)
        most = self._limits.slots + self._limits.max_queued
        if paused >= most:
            raise BusyError(f"{paused} training runs are paused, the maximum; resume or cancel one", retry_after=10.0)

    def add(self, run: Run) -> None:
        """Inserts a run after the queued runs of the same or a higher priority. Called with the lock held."""
        run.log.write(events.Queued(self.line(run.kind, run.priority)[0]))
        run.phase = Phase.WAITING
        later = (index for index, one in enumerate(self._waiting) if _later(one, run.priority))
        behind = next(later, len(self._waiting))
        self._waiting.insert(behind, run)
        # All threads, since only those of its kind can take it.
        self._table.changed.notify_all()

    def line(self, kind: RunKind, priority: int) -> tuple[int, float | None]:
        """Returns how many runs would be before one of a kind that is added now, and the seconds until it is executed.

        None if the time isn't known: other runs wait, too, or one under way has made no step yet. Called with the lock
        held.
        """
        training = [run for run in self._table.in_phase(Phase.TRAINING) if run.kind == kind]
        waiting = [run for run in self._waiting if run.kind == kind and not _later(run, priority)]
        ahead = max(0, len(training) + len(waiting) - kind.slots + 1)
        if not ahead:
            return 0, 0.0
        known = [seconds for run in training if (seconds := remaining_seconds(run)) is not None]
        return ahead, min(known) if len(known) == len(training) and known and not waiting else None

    def add_again(self, run: Run) -> None:
        """Adds a paused or interrupted run to the queue again. Called with the lock held. Raises OSError."""
        (run.folder / OUTCOME).unlink(missing_ok=True)
        run.process.forget()
        run.cancelled_at, run.overspent, run.goes_on = None, "", False
        self.add(run)

    def remove(self, run: Run) -> None:
        """Removes a run if it is waiting. Called with the lock held."""
        if run in self._waiting:
            self._waiting.remove(run)

    def clear(self) -> None:
        """Removes all runs. Called with the lock held."""
        self._waiting.clear()

    def take(self, kind: RunKind) -> Run | None:
        """Waits for a run of a kind and takes it from the queue. Returns None once the server is stopping."""
        with self._table.changed:
            while not self._table.stopping:
                run = next((run for run in self._waiting if run.kind == kind), None)
                if run is not None:
                    self._waiting.remove(run)
                    run.phase = Phase.TRAINING
                    return run
                self._table.changed.wait()
            return None


def _later(run: Run, priority: int) -> bool:
    """Whether a queued run is executed after one of this priority, which is queued later."""
    return run.priority < priority
