"""Callbacks of `fit` by Keras's names (keras.callbacks)."""

from layergraph.training.averaging import SwapEMAWeights
from layergraph.training.callbacks import Callback, History
from layergraph.training.monitors import EarlyStopping, LearningRateScheduler, ReduceLROnPlateau, TerminateOnNaN
from layergraph.training.recording import BackupAndRestore, CSVLogger, JSONLogger, ModelCheckpoint, TensorBoard

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "JSONLogger",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
