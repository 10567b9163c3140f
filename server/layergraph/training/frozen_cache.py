"""The outputs of a model's frozen trunk, computed once for each row and kept for all epochs.

Rows are computed in their own order, in batches of the run's size, whatever the order of an epoch: so what is kept for
a row depends on nothing but the data, and a resumed run gets the same. Kernels may round a row differently in other
batches, by float32's last bits. Without shuffling the batches are those of an epoch, and nothing differs.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layergraph.config.training_rules import TrainingRules
from layergraph.errors import ConfigError
from layergraph.functional.call_context import CallContext
from layergraph.functional.execution_plan import ExecutionPlan, FrozenSplit
from layergraph.functional.weight import Weight
from layergraph.training.columns import Rows
from layergraph.training.data import Data
from layergraph.training.mapped_rows import MappedRows

Array = np.ndarray[Any, Any]
Tensor = torch.Tensor

#: Number of rows on which the calls of a model are tried.
TRIED_ROWS = 2
#: Share of a file after which the number of its computed rows is noted, so that a killed run goes on there.
NOTED_SHARE = 0.05
#: Torch's dtypes are kept as NumPy's integers of their size, as NumPy lacks some of them.
_INTEGERS: Mapping[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class FrozenCache:
    """How `fit` keeps the outputs of frozen layers.

    folder      where they are kept, in memory-mapped files that a resumed run uses again; None for memory
    max_bytes   most that they may take; None for no limit
    required    whether `fit` raises ConfigError where they can't be kept, rather than computing them in each step
    log         called with a line about what is kept, or why nothing is
    pause       called after each batch that is computed
    """

    folder: Path | None = None
    max_bytes: int | None = None
    required: bool = False
    log: Callable[[str], None] = lambda text: None
    pause: Callable[[], None] = lambda: None


class NotKeptError(Exception):
    """The outputs can't be kept; the text is the reason."""


def _split(
    plan: ExecutionPlan, trained: Collection[Weight], data: Data, rules: TrainingRules, required: bool
) -> FrozenSplit:
    """Splits a plan into its frozen trunk and the rest.

    Raises NotKeptError if keeping the trunk's outputs is no use or, with `required`, if more layers are frozen.
    """
    rows = min(TRIED_ROWS, data.rows)
    split = plan.frozen_split(trained, data.batch(slice(0, rows), rows).inputs, rules)
    if split.obstacles and (required or not split.worthwhile):
        raise NotKeptError(f"{split.obstacles[0]}, and frozen layers depend on it")
    if not split.worthwhile:
        raise NotKeptError("no frozen layer with a matrix of weights comes before all trained ones")
    return split


class KeptColumn:
    """Rows of one tensor, in memory or in a file."""

    def __init__(self, array: Array, dtype: torch.dtype, device: torch.device) -> None:
        self.array = array
        self._rows = MappedRows(array)
        self._dtype = dtype
        self._device = device

    def put(self, rows: slice, values: Tensor) -> None:
        """Keeps the values of rows. Raises NotKeptError for another shape."""
        if values.shape[1:] != self.array.shape[1:]:
            raise NotKeptError("outputs of frozen layers have other lengths in other batches")
        self.array[rows] = values.contiguous().view(_INTEGERS[self.array.dtype.itemsize]).cpu().numpy()

    def take(self, rows: Rows) -> Tensor:
        """Returns rows."""
        return torch.from_numpy(self._rows.take(rows)).view(self._dtype).to(self._device)


class KeptRows:
    """The trunk's outputs for all rows of some data, and the data that the rest of the model still needs."""

    def __init__(self, split: FrozenSplit, data: Data, size: int, *, training: bool) -> None:
        """Rows are computed in batches of `size`. Computes the first row's outputs, to learn their shapes."""
        self._split = split
        self._data = data
        self._size = size
        self._training = training
        values, masks = self._computed(slice(0, 1))
        #: For each mask that the rest reads, whether there is one.
        self.masked = [mask is not None for mask in masks]
        self._first = _present(values, masks)
        self._described = {
            "size": size,
            "rows": data.rows,
            "tensors": [[list(tensor.shape[1:]), str(tensor.dtype)] for tensor in self._first],
        }
        for tensor in self._first:
            if tensor.shape[:1] != (1,) or tensor.element_size() not in _INTEGERS:
                raise NotKeptError(f"an output of shape {tuple(tensor.shape)} and dtype {tensor.dtype} can't be kept")

    @property
    def bytes(self) -> int:
        """What all rows take."""
        return sum(tensor.nbytes for tensor in self._first) * self._data.rows

    def compute(self, folder: Path | None, name: str, pause: Callable[[], None], interrupt: Callable[[], None]) -> Data:
        """Computes all rows but those that files in `folder` have already. Returns them as data.

        `interrupt` may raise after any batch. Raises NotKeptError if shapes differ between batches or the disk is full.
        """
        rows = self._data.rows
        note = None if folder is None else folder / f"{name}.json"
        done = noted = 0 if note is None else self._noted(note)
        columns = [self._column(first, folder, f"{name}.{i}", done > 0) for i, first in enumerate(self._first)]
        for start in range(done, rows, self._size):
            chosen = slice(start, min(start + self._size, rows))
            for column, values in zip(columns, _present(*self._computed(chosen)), strict=True):
                column.put(chosen, values)
            pause()
            if note is not None and (chosen.stop == rows or chosen.stop - noted > NOTED_SHARE * rows):
                noted = chosen.stop
                self._note(note, columns, noted)
            interrupt()
        inputs = [self._data.inputs[place] for place in self._split.inputs]
        return Data(rows, [*inputs, *columns], self._data.labels, self._data.weights)

    def _computed(self, rows: slice) -> tuple[list[Tensor], list[Tensor | None]]:
        context = CallContext(training=self._training, losses=None)
        inputs = self._data.batch(rows, rows.stop - rows.start).inputs
        # As in the steps of training, which record gradients of other weights: kernels may differ without.
        with torch.set_grad_enabled(self._training):
            return self._split.trunk(context, inputs)

    def _column(self, first: Tensor, folder: Path | None, name: str, exists: bool) -> KeptColumn:
        shape, kind = (self._data.rows, *first.shape[1:]), _kept_as(first)
        if folder is None or not math.prod(shape):
            return KeptColumn(np.empty(shape, kind), first.dtype, first.device)
        path = folder / name
        if not exists:
            _reserve(path, math.prod(shape) * kind.itemsize)
        return KeptColumn(np.memmap(path, kind, "r+", shape=shape), first.dtype, first.device)

    def _noted(self, note: Path) -> int:
        """The number of rows that files of this form have."""
        try:
            found = json.loads(note.read_text("utf-8"))
            done = found.pop("done")
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return 0
        return done if type(done) is int and 0 <= done <= self._data.rows and found == self._described else 0

    def _note(self, note: Path, columns: Sequence[KeptColumn], done: int) -> None:
        for column in columns:
            if isinstance(column.array, np.memmap):
                column.array.flush()
        part = note.with_suffix(".part")
        part.write_text(json.dumps({**self._described, "done": done}), "utf-8")
        os.replace(part, note)


def _kept_as(tensor: Tensor) -> np.dtype[Any]:
    """NumPy's integers of the size of a tensor's elements."""
    return np.dtype(str(_INTEGERS[tensor.element_size()]).removeprefix("torch."))


def _present(values: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor.detach() for tensor in (*values, *masks) if tensor is not None]


def _reserve(path: Path, size: int) -> None:
    """Creates a file with room on the disk: writing to a mapped file on a full disk would kill the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as full:
        path.unlink(missing_ok=True)
        raise NotKeptError(f"{size} bytes for outputs of frozen layers can't be reserved: {full.strerror}") from full


class HeadPlan:
    """The rest of a split model, with the method of a plan that the training loop calls."""

    def __init__(self, split: FrozenSplit, masked: Sequence[bool]) -> None:
        """`masked` has, for each mask that the rest reads, whether it is there, at the end of a batch's inputs."""
        self._split = split
        self._masked = masked

    def forward(self, context: CallContext, tensors: Sequence[Any]) -> tuple[list[Tensor], list[Tensor | None]]:
        """Returns outputs and masks."""
        values = len(tensors) - sum(self._masked)
        masks = iter(tensors[values:])
        return self._split.forward(
            context, tensors[:values], [next(masks) if there else None for there in self._masked]
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run computes with once the trunk's outputs are kept: plans, and data for training and validation."""

    plan: HeadPlan
    training: Data
    #: None if validation has no arrays, and so goes on with the whole plan.
    validation: Data | None


def keep_outputs(
    cache: FrozenCache,
    plan: ExecutionPlan,
    trained: Collection[Weight],
    training: tuple[Data, int],
    validation: tuple[Data, int] | None,
    interrupt: Callable[[], None],
    rules: TrainingRules,
) -> Kept | None:
    """Computes the outputs of the frozen trunk for data, in batches of the number of rows beside them, by `rules`.

    None if they can't be kept, or that is no use. Raises ConfigError then if the cache is `required`.
    """
    try:
        split = _split(plan, trained, training[0], rules, cache.required)
        groups = {"training": KeptRows(split, *training, training=True)}
        if validation is not None:
            groups["validation"] = KeptRows(split, *validation, training=False)
        size = sum(group.bytes for group in groups.values())
        if cache.max_bytes is not None and size > cache.max_bytes:
            raise NotKeptError(f"they take {size} bytes, expected at most {cache.max_bytes}")
        cache.log(f"outputs of {len(split.layers)} frozen layers are computed once and kept: {size} bytes")
        made = {n: group.compute(cache.folder, n, cache.pause, interrupt) for n, group in groups.items()}
    except NotKeptError as reason:
        refuse(cache, str(reason))
        return None
    return Kept(HeadPlan(split, groups["training"].masked), made["training"], made.get("validation"))


def refuse(cache: FrozenCache, reason: str) -> None:
    """Notes that nothing is kept. Raises ConfigError if that is required."""
    if cache.required:
        raise ConfigError(f"cache_frozen: {reason}")
    cache.log(f"outputs of frozen layers aren't kept: {reason}")
