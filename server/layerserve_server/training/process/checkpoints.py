"""Checkpoints of a run: at regular intervals, and when it is interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.training.checkpoint import Checkpoints

from layerserve_server.training.result import Interruption


class RunCheckpoints(Checkpoints):
    """Writes the checkpoint in a run's folder, at intervals of at least `seconds`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder, every_seconds=seconds)
        self._interrupted = False

    def interrupt(self) -> None:
        """Requests a checkpoint after the current batch, after which training ends. Safe in a signal handler."""
        self._interrupted = True
        self.ask()

    def write(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint. Raises Interruption afterwards if `interrupt` was called."""
        super().write(state)
        if self._interrupted:
            raise Interruption
