"""The server's handle of the process that tunes models."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergraph.execution.engines.table import DEFAULT_ENGINES

from layerserve_server.errors import safe_text
from layerserve_server.forking.fork_server import START_SECONDS, ForkServer
from layerserve_server.kept.folders import StoppedError
from layerserve_server.tuning.program import MAX_BUSY_SECONDS, WALL_SECONDS

#: Module of the process's program.
PROGRAM = "layerserve_server.tuning.program"
#: Time without a model after which the process ends, in seconds.
IDLE_SECONDS = 10.0
#: Time between two checks whether tuning was stopped, in seconds.
CHECK_SECONDS = 0.1
#: Maximum length of a message, in bytes.
MAX_MESSAGE = 1 << 16


class TuningError(Exception):
    """A model can't be tuned; the message has the reason."""


class NoTimeError(TuningError):
    """The time was too short to try any engine, as on a busy machine."""


@dataclass(frozen=True, slots=True)
class Job:
    """A model file, the folder for what is chosen, the approximate time in seconds, and the threads per engine."""

    file: Path
    folder: Path
    seconds: float
    threads: int


class TuningProcess(ForkServer):
    """Has models tuned by another process, a child of it for each. Thread-safe."""

    def __init__(self, imports: Path | None, spare: Path | None, runs: Path) -> None:
        """`imports` and `spare` are the folders of read model files (see Imports), `runs` is that of runs."""
        super().__init__(PROGRAM, [str(IDLE_SECONDS)])
        folders = {"imports": imports, "spare": spare, "runs": runs}
        self._folders = {name: None if folder is None else str(folder) for name, folder in folders.items()}

    def tune(self, job: Job, stopped: Callable[[], bool]) -> dict[str, str]:
        """Tunes a model, and writes what is chosen (see `layergraph.execution.tuning.engine_folder`).

        An engine that crashes is left out. Returns the engines that were dropped, with the reasons. Raises TuningError,
        NoTimeError, and StoppedError once `stopped` returns True.
        """
        crashed: dict[str, str] = {}
        while True:
            engines = [name for name in DEFAULT_ENGINES if name not in crashed]
            tried, reply = self._ask(job, engines, stopped)
            if "died" not in reply:
                break
            if reply.get("late") or tried not in engines:
                raise TuningError(_death(reply))
            crashed[tried] = _death(reply)
        if "error" in reply:
            kind = NoTimeError if reply.get("late") else TuningError
            raise kind(safe_text(str(reply["error"]), 300))
        return {**dict(reply["dropped"]), **crashed}

    def _ask(self, job: Job, engines: list[str], stopped: Callable[[], bool]) -> tuple[str, dict[str, Any]]:
        """Returns the name of the engine that was tried last, without its variant, and the last message."""
        message = {
            "file": str(job.file.absolute()),
            "folder": str(job.folder),
            "seconds": job.seconds,
            "threads": job.threads,
            "engines": engines,
            **self._folders,
        }
        tried = ""
        try:
            with self.connection(WALL_SECONDS + MAX_BUSY_SECONDS) as channel:
                channel.sendall(json.dumps(message).encode() + b"\n")
                lines = _Lines(channel)
                while "trying" in (reply := lines.next(stopped)):
                    tried = str(reply["trying"]).partition("-")[0]
        except (OSError, ValueError, TypeError) as wrong:
            raise TuningError(f"the process that tunes sent no reply: {safe_text(str(wrong), 200)}") from wrong
        return tried, reply


class _Lines:
    """The messages of the process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._seconds = START_SECONDS + WALL_SECONDS + MAX_BUSY_SECONDS
        self._received = b""
        channel.settimeout(CHECK_SECONDS)

    def next(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Raises StoppedError, OSError if the process has ended, and ValueError or TypeError for other content."""
        while b"\n" not in self._received:
            if stopped():
                raise StoppedError
            try:
                part = self._channel.recv(1 << 12)
            except TimeoutError:
                self._seconds -= CHECK_SECONDS
                if self._seconds < 0:
                    raise
                continue
            self._received += part
            if not part or len(self._received) > MAX_MESSAGE:
                raise OSError("it has ended")
        line, _, self._received = self._received.partition(b"\n")
        return dict(json.loads(line))


def _death(reply: dict[str, Any]) -> str:
    if reply.get("late"):
        return f"takes longer than {WALL_SECONDS + MAX_BUSY_SECONDS:.0f} s"
    number = reply["died"]
    return f"crashes ({signal.Signals(number).name})" if number else "ends the process"
