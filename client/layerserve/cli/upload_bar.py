"""Progress of an upload on the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class UploadBar:
    """Shows the progress of an upload on standard error, if that is a terminal. A context manager."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("sending", total=None)

    def __enter__(self) -> UploadBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Shows the phase, and the number of bytes done and in total; 0 while that is unknown."""
        self._progress.update(self._task, description=phase, completed=done, total=total or None)
