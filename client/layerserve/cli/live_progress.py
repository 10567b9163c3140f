"""Live progress of a training run on the terminal: a bar with losses, steps and the remaining time."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from layerserve import TrainingRun
from layerserve.training.events import (
    CheckpointKept,
    EpochEnd,
    LogLine,
    RunCancelled,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StepProgress,
    TrainingEvent,
)
from layerserve.training.progress import PlainProgress, format_logs

#: Minimum width of a terminal for a long bar, in columns.
WIDE = 120


def show_run(run: TrainingRun, done: int = 0) -> RunCancelled | None:
    """Shows a run's progress to its end on standard error, as plain lines if that isn't a terminal.

    The first `done` epochs get no lines.

    Returns the last event if the run was cancelled, else None. Raises TrainingFailed.
    """
    event: TrainingEvent | None = None
    if not sys.stderr.isatty():
        plain = PlainProgress(done=done)
        for event in run:
            plain.show(event)
    else:
        with LiveProgress(run.model) as live:
            for event in run:
                live.show(event)
    return event if isinstance(event, RunCancelled) else None


class LiveProgress:
    """A bar over all steps of all epochs. A context manager."""

    def __init__(self, model: str, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(40 if console.width >= WIDE else 10),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            # The only column that may wrap; otherwise it would hide the others on a narrow terminal.
            TextColumn("{task.fields[logs]}", table_column=Column(no_wrap=False, ratio=1)),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task(escape(model), total=None, logs="waiting")

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: TrainingEvent) -> None:
        if isinstance(event, RunQueued):
            self._update(logs=f"waiting for {event.ahead} other runs" if event.ahead else "waiting")
        elif isinstance(event, RunStarted):
            self._update(total=event.epochs * event.steps_per_epoch, logs="starting")
        elif isinstance(event, StepProgress):
            self._update(
                description=f"epoch {event.epoch}/{event.epochs}",
                total=event.epochs * event.steps_per_epoch,
                completed=(event.epoch - 1) * event.steps_per_epoch + event.step,
                logs=escape(format_logs(event.logs)),
            )
        elif isinstance(event, EpochEnd):
            self._update(description=f"epoch {event.epoch}/{event.epochs}", logs=escape(format_logs(event.logs)))
        elif isinstance(event, RunPaused):
            self._update(logs=f"paused: {escape(event.reason)}" if event.reason else "paused")
        elif isinstance(event, RunResumed):
            self._update(logs="resumed from its checkpoint" if event.epoch else "restarted from the beginning")
        elif isinstance(event, CheckpointKept):
            self._progress.console.print(f"checkpoint {event.checkpoint} is kept", markup=False, highlight=False)
        elif isinstance(event, LogLine):
            self._progress.console.print(event.text, markup=False, highlight=False)

    def _update(self, **fields: object) -> None:
        self._progress.update(self._task, **fields)  # type: ignore[arg-type]
