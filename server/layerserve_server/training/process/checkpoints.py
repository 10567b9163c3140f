"""Checkpoints of a run: at regular intervals, when it is interrupted, and those that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.training.checkpoint import Checkpoints, read_whole

from layerserve_server.training.process.checkpoint_retention import CheckpointRetention
from layerserve_server.training.run_folder.result import Interruption


class RunCheckpoints(Checkpoints):
    """Writes the checkpoint in a run's folder, at intervals of at least `seconds`, and when one is to be kept.

    `start` is the file of a checkpoint of another run, which this run goes on with exactly; None if there is none.
    """

    def __init__(
        self, folder: Path, seconds: float, retention: CheckpointRetention | None = None, start: Path | None = None
    ) -> None:
        super().__init__(folder, every_seconds=seconds)
        self._retention = retention
        self._start = start
        self._interrupted = False
        #: Numbers of completed steps and epochs.
        self._all_steps = self._epochs = 0
        #: Whether the next checkpoint is due to resume from, not only to be kept.
        self._resumes = False

    def interrupt(self) -> None:
        """Requests a checkpoint after the current batch, after which training ends. Safe in a signal handler."""
        self._interrupted = True
        self.ask()

    def read(self) -> dict[str, Any] | None:
        """Returns the state to go on with; None at the start. Raises CorruptFileError."""
        state = super().read()
        if state is not None and self._retention is not None:
            self._retention.keep_missed(state, self.path)
        if state is None and self._start is not None:
            # If a callback had ended that run there, this one would end at once.
            state = {**read_whole(self._start), "stopped": False}
        if state is not None:
            self._all_steps, self._epochs = state.get("steps", 0), state["epoch"]
        return state

    def due_after_batch(self) -> bool:
        self._all_steps += 1
        self._resumes = super().due_after_batch()
        kept = self._retention is not None and self._retention.is_due_after_step(self._all_steps)
        return self._resumes or kept

    def due_after_epoch(self, logs: Mapping[str, Any] | None = None) -> bool:
        self._epochs += 1
        self._resumes = super().due_after_epoch(logs)
        kept = self._retention is not None and self._retention.is_due_after_epoch(self._epochs, logs or {})
        return self._resumes or kept

    def write(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, and keeps it if that is due. Raises Interruption afterwards if `interrupt` was called.

        Raises OSError if it can't be written and the run can't go on without it.
        """
        try:
            super().write(state)
        except OSError as error:
            if self._resumes or self._retention is None or self._retention.needed:
                raise
            self._retention.refuse(state, error)
            return
        if self._retention is not None:
            self._retention.keep(state, self.path)
        if self._interrupted:
            raise Interruption
