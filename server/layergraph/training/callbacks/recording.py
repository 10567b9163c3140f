"""Callbacks that write files: models, backups, and logs as CSV, JSON lines or TensorBoard events."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from layergraph.config.options import (
    Configurable,
    Expected,
    boolean,
    nonnegative_int,
    one_of,
    option,
    optional,
    positive_int,
    short_repr,
)
from layergraph.errors import ConfigError
from layergraph.training.callbacks.callback import Callback, Logs
from layergraph.training.callbacks.monitors import Monitor
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.options import number, text


def _path(value: Any) -> str:
    """Validator: a path, returned as a string, so that it can be part of a config."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise Expected("a path")
    return text(value)


def _separator(value: Any) -> str:
    """Validator: a delimiter that Python's csv module accepts."""
    if len(text(value)) != 1 or value in '\r\n\0"':
        raise Expected("one character between cells, such as ','")
    return str(value)


def _frequency(value: Any) -> str | int:
    return "epoch" if value == "epoch" else positive_int(value)


class FileCallback(Configurable, Callback):
    """Base of callbacks that write files."""

    #: Names of the options that are paths.
    paths: ClassVar[tuple[str, ...]] = ()

    def setup(self) -> None:
        self.params = {}

    def confine(self, folder: Path) -> None:
        """Makes paths relative to `folder`. Raises ConfigError for absolute paths and for paths with '..'."""
        for name in self.paths:
            given = Path(getattr(self, name))
            if given.is_absolute() or ".." in given.parts:
                raise ConfigError(f"{type(self).__name__}: option '{name}' is '{given}', expected a relative path")
            setattr(self, name, str(folder / given))


#: Accepted format specs of logs in file names. Width and precision have at most two digits, which limits the padding.
_FORMAT = re.compile(r"(.?[<>=^])?[-+ ]?#?0?[0-9]{0,2}[,_]?(\.[0-9]{1,2})?[a-zA-Z%]?")


def _check_pattern(what: str, pattern: str) -> None:
    """Raises ConfigError for a file name with fields other than logs such as `{loss:.2f}`. Nothing is expanded."""
    try:
        fields = [(field, form or "") for _, field, form, _ in string.Formatter().parse(pattern) if field is not None]
    except ValueError as wrong:
        raise ConfigError(f"{what} is {short_repr(pattern)}: {wrong}") from None
    for field, form in fields:
        if not field.isidentifier():
            raise ConfigError(f"{what} names {short_repr(field)}, expected the name of a log")
        if not _FORMAT.fullmatch(form):
            raise ConfigError(
                f"{what} has the format {short_repr(form)}, expected one such as '.2f', of at most 99 digits"
            )


class ModelCheckpoint(Monitor, FileCallback):
    """Saves the model after epochs, or after a number of batches (keras.callbacks.ModelCheckpoint).

    filepath                  may contain logs: `best-{epoch:02d}-{val_loss:.2f}.keras`; epochs and batches count from 1
    save_best_only            save only if the monitored log improves
    save_weights_only         save only the weights, to a path that ends in `.weights.h5`
    save_freq                 'epoch', or a number of batches
    initial_value_threshold   value that the log must improve on first; a later `fit` continues with the best so far
    """

    paths = ("filepath",)
    filepath: str = option(_path)  # type: ignore[misc]
    monitor: str = option(text, default="val_loss")
    verbose: int = option(nonnegative_int, default=0)
    save_best_only: bool = option(boolean, default=False)
    save_weights_only: bool = option(boolean, default=False)
    mode: str = option(one_of("auto", "min", "max"), default="auto")
    save_freq: str | int = option(_frequency, default="epoch")
    initial_value_threshold: float | None = option(optional(number), default=None)

    state_names = ("best", "batches")

    def setup(self) -> None:
        super().setup()
        # In Keras, `best` and `batches` persist across calls of fit.
        self.best = self.initial_value_threshold
        #: Batches since the last save.
        self.batches = 0
        self._epoch = 0
        endings = (".weights.h5",) if self.save_weights_only else (".keras", ".h5")
        if not self.filepath.endswith(endings):
            raise ConfigError(
                f"ModelCheckpoint: option 'filepath' is '{self.filepath}', expected an ending of {' or '.join(endings)}"
            )
        _check_pattern("ModelCheckpoint: option 'filepath'", self.filepath)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        best = self.best
        if self.save_best_only:
            super().on_train_begin(logs)
        self.best = best

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            return
        self.batches += 1
        if self.batches >= int(self.save_freq):
            self.batches = 0
            self._save(logs or {}, batch=batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(logs or {})

    def _save(self, logs: Logs, **place: int) -> None:
        if self.save_best_only:
            value = logs.get(self.monitor)
            # As in Keras: if the log is missing, as for batches without validation, the model is saved.
            if value is not None and np.ndim(value) == 0:
                if not self.improves(value, self.best):
                    return
                self.best = value
        try:
            path = Path(self.filepath.format(**{**logs, "epoch": self._epoch + 1, **place}))
        except (KeyError, ValueError, TypeError) as wrong:
            raise ConfigError(f"ModelCheckpoint: option 'filepath' is '{self.filepath}': {wrong} is no log") from None
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            print(f"Epoch {self._epoch + 1}: model saved to {path}")


class BackupAndRestore(FileCallback):
    """Saves the state of a run in `backup_dir`, from which `fit` resumes (keras.callbacks.BackupAndRestore).

    Unlike Keras's, it also saves the position in the epoch, the order of rows and the random state: an interrupted run
    ends with the same weights as an uninterrupted one. `double_checkpoint` has no effect, since files are replaced
    atomically.

    save_freq           'epoch', or a number of batches
    delete_checkpoint   remove the backup when the run has finished
    """

    paths = ("backup_dir",)
    backup_dir: str = option(_path)
    save_freq: str | int = option(_frequency, default="epoch")
    double_checkpoint: bool = option(boolean, default=False)
    delete_checkpoint: bool = option(boolean, default=True)

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints that `fit` uses."""
        steps = None if self.save_freq == "epoch" else int(self.save_freq)
        return Checkpoints(self.backup_dir, every_steps=steps, every_epoch=steps is None, remove=self.delete_checkpoint)


class _LineLogger(FileCallback):
    """Base of callbacks that append a line per epoch. A resumed run drops the lines after its checkpoint."""

    paths = ("filename",)
    filename: str
    append: bool

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.filename)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.append and not self.params.get("resumed"):
            self.path.write_bytes(b"")

    def size(self) -> int:
        """Size of the file in bytes; 0 if there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, text: str) -> None:
        """Appends complete lines."""
        # newline="": the csv module writes line ends itself.
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)

    def state(self) -> dict[str, Any]:
        return {"size": self.size()}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.size() > state["size"]:
            os.truncate(self.path, state["size"])


class CSVLogger(_LineLogger):
    """Logs of epochs as CSV (keras.callbacks.CSVLogger): `epoch` from 0, then the first epoch's logs by name."""

    filename: str = option(_path)
    separator: str = option(_separator, default=",")
    append: bool = option(boolean, default=False)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._names: list[str] | None = None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "names": self._names}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._names = state["names"]

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self._names is None:
            self._names = sorted(logs)
            if not any(name.startswith("val_") for name in self._names):
                # Validation may only run in later epochs.
                self._names += [f"val_{name}" for name in self._names]
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, delimiter=self.separator)
        if self.size() == 0:
            writer.writerow(["epoch", *self._names])
        writer.writerow([epoch, *(_cell(logs.get(name, "NA")) for name in self._names)])
        self.write(lines.getvalue())


def _cell(value: Any) -> Any:
    """Several numbers in one cell, in Keras's format."""
    return f'"[{", ".join(map(str, value))}]"' if np.ndim(value) else value


class JSONLogger(_LineLogger):
    """Logs of epochs as lines of JSON: {"epoch": 0, "loss": ...}. NaN and infinities are null."""

    filename: str = option(_path)
    append: bool = option(boolean, default=False)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.write(json.dumps({"epoch": epoch, **{name: _plain(value) for name, value in (logs or {}).items()}}) + "\n")


def _plain(value: Any) -> Any:
    if np.ndim(value):
        return [_plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else None


class TensorBoard(FileCallback):
    """Logs as TensorBoard events (keras.callbacks.TensorBoard) in `log_dir`/train and `log_dir`/validation.

    Tags are Keras's: `epoch_loss`, `epoch_accuracy`, `epoch_learning_rate`, and `batch_loss` if `update_freq` is
    'batch' or a number of batches. Histograms, graphs and profiles are not written. Raises ConfigError if the package
    tensorboard isn't installed.
    """

    paths = ("log_dir",)
    log_dir: str = option(_path, default="logs")
    update_freq: str | int = option(
        lambda value: value if value in ("epoch", "batch") else positive_int(value), default="epoch"
    )

    def setup(self) -> None:
        super().setup()
        self._writers: dict[str, Any] = {}
        self._steps = 0

    def state(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._steps = state["steps"]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._steps = 0
        self._writer("train")

    def _writer(self, kind: str) -> Any:
        if kind not in self._writers:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ConfigError("TensorBoard: requires tensorboard: pip install tensorboard") from None
            self._writers[kind] = SummaryWriter(str(Path(self.log_dir) / kind))
        return self._writers[kind]

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._steps += 1
        if self.update_freq == "epoch":
            return
        every = 1 if self.update_freq == "batch" else int(self.update_freq)
        if self._steps % every == 0:
            self._write("train", "batch", self._steps, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        rate = self.model.optimizer.rate() if self.model.optimizer is not None else None
        trained = {name: value for name, value in logs.items() if not name.startswith("val_")}
        self._write("train", "epoch", epoch, {**trained, **({} if rate is None else {"learning_rate": rate})})
        validated = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        if validated:
            self._write("validation", "epoch", epoch, validated)

    def _write(self, kind: str, prefix: str, step: int, logs: Logs) -> None:
        writer = self._writer(kind)
        for name, value in logs.items():
            if np.ndim(value) == 0:
                writer.add_scalar(f"{prefix}_{name}", float(value), step)
        writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
