"""Progress of a job on the terminal: a bar with rows a second and the remaining time, or plain lines."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: How often there is a plain line, in seconds.
_INTERVAL = 10.0


class ScoringBar:
    """Shows the number of rows on standard error. A context manager."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("scoring"),
            BarColumn(),
            TextColumn("{task.fields[rows]}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._is_terminal,
        )
        self._task = self._progress.add_task("scoring", total=None, rows="")
        self._start = self._line = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> ScoringBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, rows: int, total: int | None) -> None:
        """Shows the number of rows that were read, and of all rows; None while that is unknown."""
        now = time.monotonic()
        if self._first is None:
            # Those of an earlier run, when a job is resumed.
            self._first, self._start = rows, now
        speed = (rows - self._first) / max(now - self._start, 1e-9)
        text = f"{rows:,} of {total:,} rows" if total is not None else f"{rows:,} rows"
        if speed > 0 and now - self._start > 1:
            text += f", {speed:,.0f} rows/s"
        if self._is_terminal:
            fields: dict[str, Any] = {"completed": rows, "total": total, "rows": text}
            self._progress.update(self._task, **fields)
        elif now - self._line >= _INTERVAL:
            self._line = now
            left = (
                f", {timedelta(seconds=round((total - rows) / speed))} left" if total is not None and speed > 0 else ""
            )
            print(f"scoring: {text}{left}", file=sys.stderr, flush=True)
