"""Random rows for the trial of a run, of the declared shapes and dtypes, in files as those of uploaded data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from layerserve.training.options.contract import View
from layerserve.values.table_files.table import Selection

from layerserve_server.datasets.writer import TextWriter
from layerserve_server.extensions.estimates.steps import rows_of
from layerserve_server.training.model import PLACEHOLDER_TEXT
from layerserve_server.training.request import DataArray, Role, RunRequest
from layerserve_server.training.run_folder.data import array_file

if TYPE_CHECKING:
    from layergraph.models.model import Model

#: Maximum number of batches of a trial, in training and in validation.
MAX_BATCHES, MAX_VALIDATION_BATCHES = 64, 8
#: Size of the trial's data, in bytes, above which it has fewer batches, and minimum number of them.
MAX_BYTES, MIN_BATCHES = 128 << 20, 2
#: Size of the random numbers that are drawn for an array, in bytes; a larger array repeats them.
DRAWN_BYTES = 4 << 20
#: Upper bound of random integers.
FEW = 2


def trial_request(request: RunRequest) -> RunRequest:
    """Returns a request of the same kind for a few batches and epochs, with validation data of its own.

    The last batch has as many rows as that of the run.
    """
    rows, validation_rows = rows_of(request)
    size = request.batch_size
    row_bytes = sum(array.held_bytes // max(1, array.rows) for array in request.data)
    batches = max(MIN_BATCHES, min(MAX_BATCHES, MAX_BYTES // max(1, size * row_bytes)))
    if request.steps_per_epoch:
        batches = min(batches, request.steps_per_epoch)
    own = _fewer(rows, size, batches)
    validated = _fewer(validation_rows, size, min(batches, MAX_VALIDATION_BATCHES))
    arrays = []
    for array in request.data:
        arrays.append(_with_rows(array, validated if array.role.validation else own))
        if request.validation_split or (validation_rows and request.view.validate_on):
            arrays.append(_with_rows(replace(array, role=Role(f"validation_{array.role.value}")), validated))
    return replace(
        request,
        data=tuple(arrays),
        epochs=min(2, request.epochs),
        steps_per_epoch=None,
        validation_split=0.0,
        view=View(),
        on_nan="continue",
        budget=replace(request.budget, max_seconds=None, max_memory_bytes=None, max_disk_bytes=None),
    )


def _fewer(rows: int, size: int, batches: int) -> int:
    """Returns the number of rows of some batches, the last one with the rows that remain for the last one of `rows`."""
    return rows if rows <= size * batches else size * batches + rows % size


def _with_rows(array: DataArray, rows: int) -> DataArray:
    shape = (rows, *array.shape[1:])
    return replace(array, shape=shape, file=None, selection=Selection(), mapped=False)


def write_rows(folder: Path, request: RunRequest, bounds: Mapping[int, int]) -> None:
    """Writes random rows for the data of a trial to its folder. Integers are below `bounds`, by index of the array.

    With the bound 1, all numbers of an array are 0.
    """
    draw = np.random.default_rng(0)
    for index, array in enumerate(request.data):
        path = array_file(folder, index)
        path.parent.mkdir(exist_ok=True)
        if array.is_text:
            with closing(TextWriter(path, array.shape, array.label(), 1 << 40)) as writer:
                for _ in range(array.rows):
                    writer.write([PLACEHOLDER_TEXT] * math.prod(array.shape[1:]))
            continue
        held = np.lib.format.open_memmap(path, mode="w+", dtype=array.held_dtype, shape=array.shape)
        flat = held.reshape(-1)
        few = _drawn(draw, array, min(flat.size, DRAWN_BYTES // array.held_dtype.itemsize), bounds.get(index))
        for start in range(0, flat.size, max(1, few.size)):
            part = flat[start : start + few.size]
            part[:] = few[: part.size]


def _drawn(draw: np.random.Generator, array: DataArray, count: int, bound: int | None) -> Any:
    if bound is not None:
        return draw.integers(0, bound, count).astype(array.held_dtype)
    if array.role.use is Role.SAMPLE_WEIGHT:
        return np.ones(count, array.held_dtype)
    if array.held_dtype.kind == "f":
        return draw.random(count, np.float32).astype(array.held_dtype)
    return draw.integers(0, FEW, count).astype(array.held_dtype)


def class_bounds(model: Model, data: Sequence[DataArray]) -> dict[int, int]:
    """Returns the numbers of classes of the arrays that hold class indices, by index, for a compiled model."""
    from layergraph.errors import DataError
    from layergraph.layers.core.basic import Embedding

    ids: dict[str, int] = {}
    for layer in model.layers:
        if isinstance(layer, Embedding):
            for name, tensor in zip(model.input_names, model.inputs, strict=True):
                if any(tensor is given for node in layer.inbound_nodes for given in node.input_tensors):
                    ids[name] = min(ids.get(name, layer.input_dim), layer.input_dim)
    compiled = model.compilation
    classes: dict[str, int] = {}
    for index, (name, output) in enumerate(zip(model.output_names, model.outputs, strict=True)):
        try:
            loss = None if compiled is None else compiled.loss(index)
        except DataError:  # resolved by the labels' shape
            continue
        if loss is not None and loss.labels_are_classes:
            classes[name] = output.shape[-1] or FEW
    found = {}
    for index, array in enumerate(data):
        known = ids if array.role.use is Role.X else classes if array.role.use is Role.Y else {}
        if array.name in known and not array.is_text:
            found[index] = known[array.name]
    return found
