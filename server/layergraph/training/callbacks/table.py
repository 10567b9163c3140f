"""Callbacks by Keras's names, for the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergraph.config.options import resolve
from layergraph.training.callbacks.averaging import SwapEMAWeights
from layergraph.training.callbacks.callback import Callback
from layergraph.training.callbacks.monitors import (
    EarlyStopping,
    LearningRateScheduler,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from layergraph.training.callbacks.recording import (
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
    """Returns a callback for an object, a name, or {"class_name", "config"}. Raises ConfigError for unknown ones.

    `folder` confines the paths of untrusted configurations: they are relative to it, and paths that lead out of it
    raise ConfigError.
    """
    if isinstance(value, Callback):
        return value
    made = resolve("callback", value, CALLBACKS)
    if folder is not None and isinstance(made, FileCallback):
        made.confine(folder)
    return made
