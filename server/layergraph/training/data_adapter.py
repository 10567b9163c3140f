"""Matches the data of `fit` to a model: arrays for its inputs, labels and sample weights by output, all checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from layergraph.errors import ConfigError, DataError, ShapeError
from layergraph.functional.functional import Functional
from layergraph.functional.tensor import Shape
from layergraph.training import data
from layergraph.training.columns import NumberColumn, Numbers
from layergraph.training.compile import Compiled, at_path, is_flat, labels_at
from layergraph.training.data import Array, Data
from layergraph.training.labels import checked_labels
from layergraph.training.losses import Loss
from layergraph.training.row_groups import GroupedArray


def model_device(model: Functional) -> torch.device:
    """The device of the model's weights."""
    weights = model.weights
    return weights[0].value.device if weights else torch.device("cpu")


def adapt_inputs(model: Functional, x: Any) -> Data:
    """Returns checked columns for a model's inputs alone; there may be no rows. Raises DataError if they don't fit."""
    arrays = data.input_arrays(x, model.input_specs)
    rows = data.same_rows({f"input '{s.name}'": a for s, a in zip(model.input_specs, arrays, strict=True)})
    groups = next((array.groups for array in arrays if isinstance(array, GroupedArray)), None)
    return Data(rows, data.input_columns(arrays, model.input_specs, model_device(model)), [], [], groups)


def adapt_data(
    model: Functional,
    compiled: Compiled,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
) -> Data:
    """Returns checked columns for a model. Resolves by their shapes what depends on shapes in `compiled`.

    Raises DataError if shapes, rows, names or labels don't fit; ConfigError for class_weight that can't be used.
    """
    with compiled.undecided_on_error():
        return _adapt_data(model, compiled, x, y, sample_weight, class_weight)


def _adapt_data(
    model: Functional,
    compiled: Compiled,
    x: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Mapping[int, float] | None,
) -> Data:
    names = model.output_names
    inputs = data.input_arrays(x, model.input_specs)
    labels = _label_arrays(y, compiled)
    # As in Keras, a fixed number of rows applies to batches.
    shapes: list[Shape] = [(None, *spec.shape[1:]) for spec in model.output_specs]
    compiled.resolve([None if a is None else a.shape for a in labels], shapes)
    if class_weight is not None:
        sample_weight = _from_classes(labels, class_weight, sample_weight, compiled)
    nested = isinstance(sample_weight, (Mapping, list, tuple)) and not is_flat(sample_weight, len(names))
    if compiled.paths is not None and nested:
        sample_weight = [at_path("sample_weight", sample_weight, path) for path in compiled.paths]
    weights = _weight_arrays(sample_weight, names)
    device = model_device(model)
    label_columns: list[Numbers | None] = []
    for index, array in enumerate(labels):
        loss = compiled.loss(index)
        if array is not None and loss is not None:
            array = checked_labels(names[index], array, shapes[index], loss)
        label_columns.append(None if array is None else NumberColumn(array, _label_dtype(array, loss), device))
    for index, name in enumerate(names):
        _check_weights(name, weights[index], shapes[index], compiled.loss(index))
    rows = data.check_rows(
        {
            **{f"input '{s.name}'": a for s, a in zip(model.input_specs, inputs, strict=True)},
            **{f"labels of output '{n}'": a for n, a in zip(names, labels, strict=True)},
            **{f"sample_weight of output '{n}'": a for n, a in zip(names, weights, strict=True)},
        }
    )
    return Data(
        rows,
        data.input_columns(inputs, model.input_specs, device),
        label_columns,
        [None if a is None else NumberColumn(a, torch.float32, device) for a in weights],
        # If arrays are of several files, by the first one's groups.
        next((a.groups for a in (*inputs, *labels, *weights) if isinstance(a, GroupedArray)), None),
    )


def split_rows(
    model: Functional, x: Any, y: Any, weight: Any, share: float
) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """x, y and weights of the rows to train on, and of the last rows, for validation. Raises DataError."""
    arrays = data.input_arrays(x, model.input_specs)
    rows = data.check_rows({"x": arrays[0]})
    at = int(np.floor(rows * (1.0 - share)))
    if not 0 < share < 1 or at in (0, rows):
        raise DataError(f"validation_split is {share}, expected a fraction that leaves rows on both sides of {rows}")
    halves = [data.split(part, at) for part in (arrays, y, weight)]
    return (halves[0][0], halves[1][0], halves[2][0]), (halves[0][1], halves[1][1], halves[2][1])


def _label_arrays(y: Any, compiled: Compiled) -> list[Array | GroupedArray | None]:
    """Labels by output. As in Keras, a list may leave out outputs without a loss."""
    names = compiled.output_names
    wanted = [name for index, name in enumerate(names) if compiled.needs_labels(index)]
    if y is None:
        given: dict[str, Any] = {}
    elif compiled.paths is not None and isinstance(y, (Mapping, list, tuple)):
        found = y if is_flat(y, len(names)) else [labels_at(y, path) for path in compiled.paths]
        given = dict(zip(names, found, strict=True))
    elif isinstance(y, Mapping):
        given = dict(zip(names, data.matched("labels", y, names), strict=True))
    else:
        count = len(y) if isinstance(y, (list, tuple)) else 1
        taken = wanted if count == len(wanted) else list(names)
        given = dict(zip(taken, data.matched("labels", y, taken), strict=True))
    for name in wanted:
        if given.get(name) is None:
            raise DataError(f"labels of output '{name}' are missing")
    return [
        None if given.get(name) is None else data.as_array(f"labels of output '{name}'", given[name]) for name in names
    ]


def _from_classes(
    labels: Sequence[Array | GroupedArray | None],
    weights: Mapping[int, float],
    sample_weight: Any,
    compiled: Compiled,
) -> Array | GroupedArray:
    if sample_weight is not None and not compiled.rules.multiplies_weights:
        raise ConfigError("class_weight and sample_weight can't be given together")
    if len(labels) != 1 or labels[0] is None:
        raise ConfigError("class_weight is only for models with one output; use sample_weight")
    by_class = data.class_weights(labels[0], {int(key): float(value) for key, value in weights.items()})
    (given,) = _weight_arrays(sample_weight, compiled.output_names)
    if given is None:
        return by_class
    if given.shape[:1] != by_class.shape[:1]:
        raise DataError(f"sample_weight: got {len(given)} rows, expected {len(by_class)}")
    if given.ndim == by_class.ndim + 1 and given.shape[-1] == 1:
        given = _without_last(given)
    return _product(given, by_class)


def _without_last(weights: Array | GroupedArray) -> Array | GroupedArray:
    return weights.reshape(weights.shape[:-1])


def _product(one: Array | GroupedArray, other: Array | GroupedArray) -> Array | GroupedArray:
    """The products of two weights of each row; one of them may have further axes."""
    grouped, rest = (one, other) if isinstance(one, GroupedArray) else (other, one)
    if isinstance(grouped, GroupedArray):
        start = grouped.start

        def multiplied(part: Array, rows: Array) -> Array:
            own = rows - start
            return _multiplied(part, rest.take(torch.from_numpy(own)) if isinstance(rest, GroupedArray) else rest[own])

        shape = grouped.shape if grouped.ndim > rest.ndim else rest.shape
        return grouped.changed(multiplied, shape, np.dtype(np.float32))
    assert not isinstance(rest, GroupedArray), "it would be the first"
    return _multiplied(grouped, rest)


def _multiplied(one: Array, other: Array) -> Array:
    axes = max(one.ndim, other.ndim)
    factors = [array.reshape(array.shape + (1,) * (axes - array.ndim)) for array in (one, other)]
    return np.asarray(factors[0] * factors[1], np.float32)


def _weight_arrays(given: Any, names: Sequence[str]) -> list[Array | GroupedArray | None]:
    """Sample weights by output; a single array applies to all outputs."""
    if given is None:
        return [None] * len(names)
    single = not isinstance(given, (Mapping, list, tuple))
    items = [given] * len(names) if single else data.matched("sample_weight", given, names)
    return [
        None if i is None else data.as_array(f"sample_weight of '{n}'", i) for n, i in zip(names, items, strict=True)
    ]


def _check_weights(name: str, weights: Array | GroupedArray | None, predictions: Shape, loss: Loss | None) -> None:
    """Raises DataError unless weights have a leading part of the predictions' shape, without the axis of the loss."""
    if weights is None or getattr(loss, "axis", -1) != -1:
        return
    last = weights.ndim == max(2, len(predictions)) and weights.shape[-1] == 1
    shape = weights.shape[:-1] if last else weights.shape
    steps = predictions[1:-1]
    if len(shape) > 1 + len(steps) or any(w not in (1, n or w) for w, n in zip(shape[1:], steps, strict=False)):
        expected = "(rows,)" + (f" or {predictions[:-1]}" if steps else "")
        raise ShapeError(f"sample_weight of output '{name}'", weights.shape, expected)


def _label_dtype(labels: Array | GroupedArray, loss: Loss | None) -> torch.dtype:
    """int64 for class indices, float32 for all other labels."""
    classes = loss.labels_are_classes if loss is not None else labels.dtype.kind in "iu"
    return torch.int64 if classes else torch.float32
