"""Callbacks of `fit` by Keras's names (keras.callbacks)."""

from layergraph.training.callbacks.averaging import SwapEMAWeights
from layergraph.training.callbacks.callback import Callback, History, LambdaCallback
from layergraph.training.callbacks.monitors import (
    EarlyStopping,
    LearningRateScheduler,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from layergraph.training.callbacks.recording import (
    BackupAndRestore,
    CSVLogger,
    JSONLogger,
    ModelCheckpoint,
    TensorBoard,
)

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "JSONLogger",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
