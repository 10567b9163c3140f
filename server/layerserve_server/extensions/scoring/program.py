"""The program of a run of scoring. Interrupted at any moment, it goes on behind the parts that are done."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from layerserve.errors import Aborted

from layerserve_server.errors import safe_text
from layerserve_server.extensions.scoring.kind import ScoringOptions
from layerserve_server.extensions.scoring.scoring_job import scoring_job, server_errors
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from layerserve_server.training.process.cpu_usage import SERVER
from layerserve_server.training.process.priority import lower_priority
from layerserve_server.training.process.reporting import LATER_STEP_SECONDS, LIVELY_SECONDS, STEP_SECONDS, Position
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.computing import computing
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.layout import FILES, UNFINISHED_FILES
from layerserve_server.training.run_folder.result import INTERRUPT, Interruption, RunResult

if TYPE_CHECKING:
    # It needs pyarrow, which a process that forks doesn't import.
    from layerserve.scoring.files.job import Job


def execute(folder: Path, request: RunRequest, position: Position) -> RunResult:
    """Scores the rows of the run's dataset that aren't scored yet. At the end the result becomes files of the run."""
    began = time.monotonic()
    options = ScoringOptions.of(request)
    unfinished, files = folder / UNFINISHED_FILES, folder / FILES
    if files.exists():
        # The process was killed before it could say that it was done.
        os.replace(files, unfinished)
    position.epoch = 1
    writer = EventWriter(folder)
    writer.write(events.Log(f"version {request.version}, processes {request.threads}"))
    job = scoring_job(folder, request)
    progress = _Progress(folder, job, options.rows, writer, position)
    signal.signal(INTERRUPT, progress.interrupt)
    # Also that of the processes that compute.
    lower_priority(request.nice)
    # On the machine of the server, which tunes engines when no run computes.
    marked = computing(folder.parent) if SERVER in os.environ else nullcontext()
    with marked, server_errors(folder):
        try:
            done = job.run(workers=request.threads, resume=True, report=progress)
        except Aborted as error:
            # The system may have run out of memory, of which there may be more later.
            return RunResult("failed", safe_text(str(error)), 1, job.done_rows, resumable=True)
    os.replace(unfinished, files)
    progress.finish()
    rejected = f", and {done.rejected} rejected to {Path(done.rejected_to).name}" if done.rejected else ""
    writer.write(events.Log(f"{done.rows} rows to {options.to}{rejected}"))
    writer.close()
    logs = {"rows": float(done.rows), "rejected": float(done.rejected)}
    return RunResult("scored", epoch=1, seconds=time.monotonic() - began, logs=logs)


class _Progress:
    """Writes events about the rows that were read, and interrupts the job when the server or a call asks for it."""

    def __init__(self, folder: Path, job: Job, rows: int, writer: EventWriter, position: Position) -> None:
        """`rows` is the number of rows of the dataset, as far as it is known."""
        self._job = job
        self._total = rows if job.total is None else job.total
        self._writer = writer
        self._position = position
        self._control = ControlFile(folder)
        self._resumes = EventLog.read(folder).newest(events.Started) is not None
        self._interrupted = False
        self._began = time.monotonic()
        self._started, self._rows, self._reported, self._reported_at = False, 0, 0, -math.inf

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Has the job interrupted at its next call. In the middle of a file it would be too early."""
        self._interrupted = True

    def __call__(self, rows: int, total: int | None) -> None:
        """Takes the number of rows that were read. Raises Interruption."""
        self._position.step = self._job.done_rows
        if not self._started:
            self._started = True
            if self._resumes:
                self._writer.write(events.Resumed(1, rows))
            self._writer.write(events.Started(1, self._total, self._total))
        if self._interrupted or self._control.read().pause:
            raise Interruption
        self._rows, now = rows, time.monotonic()
        interval = STEP_SECONDS if now - self._began < LIVELY_SECONDS else LATER_STEP_SECONDS
        if rows != self._reported and now - self._reported_at >= interval:
            self._reported_at = now
            self._report()

    def finish(self) -> None:
        """Writes the last event about rows."""
        if self._rows != self._reported:
            self._report()

    def _report(self) -> None:
        self._reported = self._rows
        self._writer.write(events.Step(1, 1, self._rows, self._total, {}))
