"""Has the engines of models chosen in child processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerserve_server.engines.tuning_job import MAX_BUSY_SECONDS
from layerserve_server.errors import safe_text
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits

#: Maximum elapsed time for a model, in seconds.
WALL_SECONDS = 1800.0


class TuningError(Exception):
    """A model can't be tuned; the message has the reason."""


class NoTimeError(TuningError):
    """The time was too short to try any engine, as on a busy machine."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model file, the folder for what is chosen, the approximate time in seconds, and the threads per engine.

    If it isn't the file's own model, `derived` is what makes the model of that one, as "module:function".
    """

    file: Path
    folder: Path
    seconds: float
    threads: int
    derived: str = ""


class TuningProcess:
    """Has models tuned, each in a child process. Thread-safe."""

    def __init__(self, jobs: Jobs, imports: Path | None, spare: Path | None, runs: Path) -> None:
        """`imports` and `spare` are the folders of read model files (see Imports), `runs` is that of runs."""
        self._jobs = jobs
        folders = {"imports": imports, "spare": spare, "runs": runs}
        self._folders = {name: None if folder is None else str(folder) for name, folder in folders.items()}

    def tune(self, wanted: Wanted, stopped: Callable[[], bool]) -> dict[str, str]:
        """Tunes a model, and writes what is chosen (see `layergraph.execution.tuning.engine_folder`).

        An engine that crashes is left out. Returns the engines that were dropped, with the reasons. Raises TuningError,
        NoTimeError, and CallCancelledError once `stopped` returns True.
        """
        # Imported here, since it imports torch.
        from layergraph.execution.engines.table import DEFAULT_ENGINES

        crashed: dict[str, str] = {}
        while True:
            engines = [name for name in DEFAULT_ENGINES if name not in crashed]
            tried, reply = self._ask(wanted, engines, stopped)
            if not isinstance(reply, JobDiedError):
                break
            if reply.late or tried not in engines:
                raise TuningError(_death(reply))
            crashed[tried] = _death(reply)
        if "error" in reply:
            kind = NoTimeError if reply.get("late") else TuningError
            raise kind(safe_text(str(reply["error"]), 300))
        return {**dict(reply["dropped"]), **crashed}

    def _ask(
        self, wanted: Wanted, engines: list[str], stopped: Callable[[], bool]
    ) -> tuple[str, dict[str, Any] | JobDiedError]:
        """Returns the name of the engine that was tried last, without its variant, and the reply, or how it died."""
        arguments = {
            "file": str(wanted.file.absolute()),
            "folder": str(wanted.folder),
            "seconds": wanted.seconds,
            "threads": wanted.threads,
            "engines": engines,
            "derived": wanted.derived,
            **self._folders,
        }
        most = WALL_SECONDS + MAX_BUSY_SECONDS
        limits = JobLimits(most, None, threads=os.cpu_count() or 1, wall_seconds=most)
        tried = ""
        try:
            with self._jobs.connection(table.CHOOSE_ENGINES, arguments, limits, most, stopped) as channel:
                while "trying" in (reply := channel.receive(stopped)):
                    tried = str(reply["trying"]).partition("-")[0]
        except JobDiedError as died:
            return tried, died
        except OSError as wrong:
            raise TuningError(f"the process that tunes sent no reply: {safe_text(str(wrong), 200)}") from wrong
        if "failed" in reply:
            raise TuningError(f"the process that tunes failed: {safe_text(str(reply['failed']), 200)}")
        return tried, reply


def _death(died: JobDiedError) -> str:
    if died.late:
        return f"takes longer than {WALL_SECONDS + MAX_BUSY_SECONDS:.0f} s"
    return f"crashes ({died.signal_name})" if died.signal else "ends the process"
