"""What is counted of runs."""

from __future__ import annotations

from typing import Protocol


class RunObserver(Protocol):
    """Receives the numbers and the progress of runs, for metrics."""

    def runs_changed(self, queued: int, running: int, paused: int) -> None:
        """Called with the numbers of queued, of running and of paused runs after a change."""

    def run_progressed(self, model: str, epoch: int, step: int, loss: float | None) -> None:
        """Called after a step or an epoch of a run; epoch and step count from 1."""

    def run_ended(self, model: str, state: str) -> None:
        """Called after a run of a model ended in this state."""
