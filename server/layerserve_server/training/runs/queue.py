"""The queue of runs: admission, order, and the slots that take runs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from layerserve_server.errors import STOPPING, BusyError, UnavailableError
from layerserve_server.training import events
from layerserve_server.training.request import Kind, RunRequest
from layerserve_server.training.run_folder.layout import OUTCOME
from layerserve_server.training.run_limits import RunLimits
from layerserve_server.training.runs.remaining import remaining_seconds
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.training.runs.table import RunTable


class RunQueue:
    """The waiting runs, by priority and then in order of arrival. Evaluations have a slot of their own.

    So they don't wait for hours of training. Everything happens under the lock of the table.
    """

    def __init__(self, table: RunTable, limits: RunLimits) -> None:
        self._table = table
        self._limits = limits
        self._waiting: list[Run] = []
        #: Number of runs that are being begun, by whether they are sessions.
        self._beginning = Counter[bool]()

    @contextmanager
    def admitted(self, kind: Kind) -> Iterator[None]:
        """Keeps a place for the run that is begun within the block. Raises as `check_room` does."""
        online = kind is Kind.ONLINE
        with self._table.changed:
            self.check_room(kind)
            self._beginning[online] += 1
        try:
            yield
        finally:
            with self._table.changed:
                self._beginning[online] -= 1

    def check_room(self, kind: Kind) -> None:
        """Raises BusyError if the queue is full, UnavailableError if the server is stopping. Called with the lock held.

        Runs that are still receiving data don't count, so a client that sends nothing doesn't block others.
        """
        if self._table.stopping:
            raise UnavailableError(STOPPING)
        online = kind is Kind.ONLINE
        kinds = [run.request.kind is Kind.ONLINE for run in self._table.in_phase(Phase.WAITING, Phase.TRAINING)]
        active = self._beginning[online] + kinds.count(online)
        if online:
            # Its caller waits for it, so it isn't queued.
            if active >= self._limits.sessions:
                raise BusyError(f"{active} sessions of online training are open, the maximum", retry_after=10.0)
        elif active >= self._limits.slots + self._limits.max_queued:
            raise BusyError(f"{active} training runs are queued or running, the maximum", retry_after=10.0)

    def check_room_to_pause(self) -> None:
        """Raises BusyError if as many runs are paused, or about to be, as may wait. Called with the lock held.

        A paused run keeps its data and checkpoints on disk.
        """
        open_phases = (Phase.RECEIVING, Phase.TRAINING, Phase.PAUSED)
        paused = sum(run.phase is Phase.PAUSED or run.control.pause for run in self._table.in_phase(*open_phases))
        most = self._limits.slots + self._limits.max_queued
        if paused >= most:
            raise BusyError(f"{paused} training runs are paused, the maximum; resume or cancel one", retry_after=10.0)

    def add(self, run: Run) -> None:
        """Inserts a run after the queued runs of the same or a higher priority. Called with the lock held."""
        events.append(run.folder, events.Queued(self.line(run.request, run.priority)[0]))
        run.log.refresh()
        run.phase = Phase.WAITING
        later = (index for index, one in enumerate(self._waiting) if _later(one, run.priority))
        behind = next(later, len(self._waiting))
        self._waiting.insert(behind, run)
        # All threads, since only those of its kind can take it.
        self._table.changed.notify_all()

    def line(self, request: RunRequest, priority: int) -> tuple[int, float | None]:
        """Returns how many runs would be before a run that is added now, and the seconds until it leaves the queue.

        None if the time isn't known: other runs wait, too, or one under way has made no step yet. Called with the lock
        held.
        """
        kind = request.kind
        training = [run for run in self._table.in_phase(Phase.TRAINING) if run.request.kind is kind]
        waiting = [run for run in self._waiting if run.request.kind is kind and not _later(run, priority)]
        slots = {Kind.TRAINING: self._limits.slots, Kind.ONLINE: self._limits.sessions}.get(kind, 1)
        ahead = max(0, len(training) + len(waiting) - slots + 1)
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

    def take(self, kind: Kind) -> Run | None:
        """Waits for a run of a kind and takes it from the queue. Returns None once the server is stopping."""
        with self._table.changed:
            while not self._table.stopping:
                run = next((run for run in self._waiting if run.request.kind is kind), None)
                if run is not None:
                    self._waiting.remove(run)
                    run.phase = Phase.TRAINING
                    return run
                self._table.changed.wait()
            return None


def _later(run: Run, priority: int) -> bool:
    """Whether a queued run is executed after one of this priority, which is queued later."""
    return run.priority < priority
