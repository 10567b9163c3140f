"""Progress of a run on the terminal, in Keras's format."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from layergraph.training.callbacks.callback import Callback, Logs

#: Minimum seconds between two redraws of the bar.
INTERVAL = 0.1
WIDTH = 20


class Progress(Callback):
    """Shows progress: with verbose 1 a moving bar and the running logs, with verbose 2 one line per epoch."""

    def __init__(self, verbose: int, stream: TextIO | None = None) -> None:
        super().__init__()
        self._verbose = verbose
        self._stream = stream
        self._training = False
        self._start = self._drawn = -math.inf
        self._width = 0
        #: Steps done in the epoch, for data whose number of steps isn't known.
        self._done = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._training = False

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._write(f"Epoch {epoch + 1}/{self.params['epochs']}\n")
        self._restart()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._draw(batch + 1, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._finish(logs or {})

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if not self._training:
            self._restart()

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not self._training:
            self._draw(batch + 1, logs or {})

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._training:
            self._finish(logs or {})

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._restart()

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._draw(batch + 1, {})

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._finish({})

    def _restart(self) -> None:
        self._start = self._drawn = time.monotonic()
        self._width = 0

    def _draw(self, done: int, logs: Mapping[str, Any]) -> None:
        self._done = done
        now = time.monotonic()
        if self._verbose != 1 or now - self._drawn < INTERVAL:
            return
        self._drawn = now
        each = (now - self._start) / done
        steps = self.params["steps"]
        left = "" if steps is None else f" {clock(each * (steps - done))}"
        self._rewrite(f"{self._bar(done)}{left} {duration(each)}/step{described(logs)}")

    def _finish(self, logs: Mapping[str, Any]) -> None:
        steps = self._done if self.params["steps"] is None else self.params["steps"]
        spent = time.monotonic() - self._start
        each = duration(spent / max(1, steps))
        if self._verbose == 1:
            self._rewrite(f"{self._bar(steps)} {spent:.0f}s {each}/step{described(logs)}")
            self._write("\n")
        else:
            self._write(f"{steps}/{steps} - {spent:.0f}s - {each}/step{described(logs)}\n")

    def _bar(self, done: int) -> str:
        steps = self.params["steps"]
        if steps is None:
            return f"{done}/Unknown"
        filled = WIDTH * done // max(1, steps)
        return f"{done:{len(str(steps))}d}/{steps} {'━' * filled}{'─' * (WIDTH - filled)}"

    def _rewrite(self, line: str) -> None:
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)

    def _write(self, text: str) -> None:
        stream = self._stream or sys.stdout
        stream.write(text)
        stream.flush()


def clock(seconds: float) -> str:
    """A duration as `59s`, `1:05` or `1:01:05`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}" if whole > 60 else f"{whole}s"


def duration(seconds: float) -> str:
    """A duration in seconds, milliseconds or microseconds, whichever is readable."""
    if seconds >= 1:
        return f"{seconds:.0f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us"


def described(logs: Mapping[str, Any]) -> str:
    """Logs as ` - accuracy: 0.9000 - loss: 3.1000e-04`."""
    return "".join(f" - {name}: {number(value)}" for name, value in sorted(logs.items()))


def number(value: Any) -> str:
    """A number with four decimals; small ones in scientific notation."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"
