"""Checkpoints: the complete state of a run in one file, which is replaced atomically."""

from __future__ import annotations

import os
import pickle
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from layergraph.archive.replacing import replacing
from layergraph.errors import CorruptFileError

#: Version of the file's layout, written into each checkpoint.
FORMAT = 1
NAME = "training.ckpt"
#: Marks NumPy arrays, since torch.load with weights_only reads only tensors.
_ARRAY = "__array__"


class Checkpoints:
    """The checkpoint of a run in `folder`, and when it is written; each one replaces the one before.

    every_steps      write after this number of batches, counted across epochs
    every_seconds    write after the first batch that ends this many seconds after the last checkpoint
    every_epoch      write at the end of each epoch; with `every_seconds` only if the last checkpoint is older than that
    remove           remove the checkpoint when the run has finished
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        every_epoch: bool = True,
        remove: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.every_epoch = every_epoch
        self.remove = remove
        self._asked = False
        self._steps = 0
        self._written = time.monotonic()

    @property
    def path(self) -> Path:
        """Path of the checkpoint's file."""
        return self.folder / NAME

    def ask(self) -> None:
        """Requests a checkpoint after the current batch. Safe to call from a signal handler."""
        self._asked = True

    @property
    def asked(self) -> bool:
        """Whether a checkpoint was requested and isn't written yet."""
        return self._asked

    def due_after_batch(self) -> bool:
        """Whether a checkpoint is due. Must be called exactly once after each batch."""
        self._steps += 1
        return self._asked or (self.every_steps is not None and self._steps >= self.every_steps) or self._is_old(False)

    def due_after_epoch(self, logs: Mapping[str, Any] | None = None) -> bool:
        """Whether a checkpoint is due. Must be called at the end of each epoch, with its logs."""
        return self._asked or (self.every_epoch and self._is_old(True))

    def _is_old(self, without_limit: bool) -> bool:
        if self.every_seconds is None:
            return without_limit
        return time.monotonic() - self._written >= self.every_seconds

    def write(self, state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint atomically: if the process is killed, the old or the new one is there, complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, {"format": FORMAT, **state})
        self._asked = False
        self._steps = 0
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The state in the checkpoint; None if there is none. Raises CorruptFileError if it can't be read."""
        for unfinished in self.folder.glob(f".{NAME}.*.tmp"):
            unfinished.unlink(missing_ok=True)
        return read_whole(self.path) if self.path.exists() else None

    def discard(self) -> None:
        """Removes the checkpoint."""
        self.path.unlink(missing_ok=True)


def read_whole(path: Path) -> dict[str, Any]:
    """The state in a checkpoint's file. Raises CorruptFileError if it can't be read, OSError if there is none."""
    with path.open("rb") as file:
        state = _unpickled(path, file)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CorruptFileError(path, f"is no checkpoint of format {FORMAT}")
    return state


def _unpickled(path: Path, file: BinaryIO) -> Any:
    try:
        # torch.load doesn't verify the checksums that torch.save writes.
        with zipfile.ZipFile(file) as members:
            if members.testzip() is not None:
                raise ValueError("a checksum is wrong")
        file.seek(0)
        # weights_only: nothing but tensors and plain values is unpickled.
        return _with_arrays(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, ValueError, EOFError, OSError, zipfile.BadZipFile, pickle.UnpicklingError) as wrong:
        raise CorruptFileError(path, "is no checkpoint, or is damaged") from wrong


def write_whole(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors, arrays and plain values to `path`, replacing it atomically once all is on the disk."""
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        torch.save(_without_arrays(state), file)


def _without_arrays(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.array(value))}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _without_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_arrays(item) for item in value)
    return value


def _with_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _with_arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_arrays(item) for item in value)
    return value
