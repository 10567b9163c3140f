"""The time that a run still takes, by what it has done so far."""

from __future__ import annotations

from layerserve_server.training import events
from layerserve_server.training.runs.run import Run


def remaining_seconds(run: Run) -> float | None:
    """Returns the remaining time of a run under way, in seconds; None if it isn't known, as before its first step."""
    started = run.log.newest(events.Started)
    if started is None or run.log.ended or not started.steps_per_epoch or not started.epochs:
        return None
    done = (run.epochs_done + run.position[1] / started.steps_per_epoch) / started.epochs
    return run.seconds * (1 - done) / done if 0 < done <= 1 else None
