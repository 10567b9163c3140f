"""Checkpoints of a run's process: as often as it was told, and one more when it is interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.training.checkpoint import Checkpoints

from layerserve_server.training.result import Interruption


class RunCheckpoints(Checkpoints):
    """The checkpoint in a run's folder, written every so many seconds at the most."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(folder, every_seconds=seconds)
        self._interrupted = False

    def interrupt(self) -> None:
        """Asks for a checkpoint after the current batch, with which training ends. Safe in a signal handler."""
        self._interrupted = True
        self.ask()

    def write(self, state: Mapping[str, Any]) -> None:
        """Raises Interruption where it was asked for, when the checkpoint is on the disk."""
        super().write(state)
        if self._interrupted:
            raise Interruption
