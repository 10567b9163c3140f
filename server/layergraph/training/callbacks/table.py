"""Callbacks by Keras's names, as a run's configuration gives them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.config.options import resolve
from layergraph.training.callbacks.callback import Callback
from layergraph.training.callbacks.monitors import (
    EarlyStopping,
    LearningRateScheduler,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from layergraph.training.optimizers.averaging import SwapEMAWeights
from layergraph.training.recording import (
    BackupAndRestore,
    CSVLogger,
    FileCallback,
    JSONLogger,
    ModelCheckpoint,
    TensorBoard,
)

CALLBACKS: Mapping[str, type[Callback]] = {
    "EarlyStopping": EarlyStopping,
    "ReduceLROnPlateau": ReduceLROnPlateau,
    "LearningRateScheduler": LearningRateScheduler,
    "TerminateOnNaN": TerminateOnNaN,
    "ModelCheckpoint": ModelCheckpoint,
    "BackupAndRestore": BackupAndRestore,
    "CSVLogger": CSVLogger,
    "JSONLogger": JSONLogger,
    "TensorBoard": TensorBoard,
    "SwapEMAWeights": SwapEMAWeights,
}


def callback(value: Any, folder: Path | None = None) -> Callback:
    """A callback, its name, or {"class_name", "config"}. Raises ConfigError.

    `folder` is the one that files are written to, for configurations that someone else has written: paths are inside of
    it, and those that lead out are refused.
    """
    if isinstance(value, Callback):
        return value
    made = resolve("callback", value, CALLBACKS)
    if folder is not None and isinstance(made, FileCallback):
        made.confine(folder)
    return made
