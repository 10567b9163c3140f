"""Training progress as plain text for terminals and logs, without further packages."""

from __future__ import annotations

import math
import sys
import time
from typing import TextIO

from layerserve.training.events import (
    EpochEnd,
    Logs,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunPaused,
    RunResumed,
    StepProgress,
    TrainingEvent,
)

#: Minimum time between two updates of the live line, in seconds.
REDRAW_SECONDS = 0.1


def format_logs(logs: Logs) -> str:
    """Formats logs with four digits, as Keras does: "loss: 0.6931 - accuracy: 0.5"."""
    return " - ".join(f"{name}: {value:.4g}" for name, value in logs.items())


def format_seconds(seconds: float) -> str:
    """Formats a duration as "1.2 s" or, below a second, as "38 ms"."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    milliseconds = 1000 * seconds
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"


class PlainProgress:
    """Writes a line per epoch after the first `done` ones; on a terminal also a live line during the epoch."""

    def __init__(self, stream: TextIO | None = None, done: int = 0) -> None:
        self._done = done
        #: Whether the run has epochs, as one that trains: only such a run publishes.
        self._has_epochs = False
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._drawn = -math.inf
        self._width = 0

    def show(self, event: TrainingEvent) -> None:
        if isinstance(event, StepProgress):
            if self._live and time.monotonic() - self._drawn >= REDRAW_SECONDS:
                self._drawn = time.monotonic()
                position = f"epoch {event.epoch}/{event.epochs} - step {event.step}/{event.steps_per_epoch}"
                self._write(f"{position} - {format_logs(event.logs)}", "")
        elif isinstance(event, EpochEnd):
            self._has_epochs = True
            if event.epoch > self._done:
                self._write(
                    f"epoch {event.epoch}/{event.epochs} - {format_seconds(event.seconds)} - {format_logs(event.logs)}"
                )
        elif isinstance(event, RunFinished):
            ending = f"finished in {format_seconds(event.seconds)}"
            if event.version is not None:
                ending += f", published version {event.version}"
            elif self._has_epochs or event.withheld:
                ending += ", nothing published"
            ending += f": {event.withheld}" if event.withheld else ""
            ending += f"; {event.kept_back}" if event.kept_back else ""
            self._write(ending)
        elif isinstance(event, RunResumed):
            self._write(
                f"resumed in epoch {event.epoch}, after step {event.step}"
                if event.epoch
                else "restarted from the beginning"
            )
        elif isinstance(event, RunPaused):
            at = f"paused in epoch {event.epoch}, after step {event.step}" if event.epoch else "paused"
            self._write(f"{at}: {event.reason}" if event.reason else at)
        elif isinstance(event, RunFailed):
            self._write(f"failed: {event.reason}")
        elif isinstance(event, RunCancelled):
            self._write("cancelled")

    def _write(self, text: str, end: str = "\n") -> None:
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = 0 if end else len(text)
        else:
            self._stream.write(text)
        self._stream.write(end)
        self._stream.flush()
