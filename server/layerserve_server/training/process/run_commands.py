"""What calls have set for a run while it trains: to pause, or to end early."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph import Model
from layergraph.training.callbacks.callback import Callback

from layerserve_server.training.process.checkpoints import RunCheckpoints
from layerserve_server.training.run_folder.control import ControlFile

#: Minimum time between two looks at the file, in seconds.
LOOK_SECONDS = 0.05


class RunCommands(Callback):
    """Follows the file with what calls have set. The first of several workers does it for all.

    Not by signals: they would be lost, or end the process, before it trains, and with the server that sends them.
    """

    model: Model

    def __init__(self, folder: Path, checkpoints: RunCheckpoints) -> None:
        super().__init__()
        self._file = ControlFile(folder)
        self._checkpoints = checkpoints
        self._looked = -math.inf

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: `restore` is only called if there is one."""
        return {"follows": True}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Ends a run at once that is to end with the weights of its checkpoint."""
        self._look()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._look()

    def _look(self) -> None:
        control = self._file.read()
        if control.stop:
            self.model.stop_training = True
        if control.pause:
            self._checkpoints.interrupt()
