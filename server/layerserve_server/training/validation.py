"""Is this a run that can be trained? Settled before any data is taken, as far as it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from layergraph.errors import unknown_name

from layerserve_server.admission import fit_dtype, fit_shape, names
from layerserve_server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    TooLargeError,
    UnknownInputError,
    UnknownOutputError,
)
from layerserve_server.execution import TensorSpec
from layerserve_server.repository.layout import LABEL
from layerserve_server.training.request import DataArray, Role, RunRequest

#: Arrays of one run at the most: each is an open file while its data comes.
MAX_ARRAYS = 512


def checked(
    request: RunRequest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_bytes: int
) -> RunRequest:
    """The request with the names of its arrays filled in, if it fits a model with these inputs and outputs.

    Raises an InvalidRequestError, or TooLargeError.
    """
    _check_settings(request)
    if len(request.data) > MAX_ARRAYS:
        raise InvalidRequestError(f"data has {len(request.data)} arrays, expected at most {MAX_ARRAYS}")
    arrays = tuple(_named(array, inputs, outputs) for array in request.data)
    _check_repeats(arrays)
    for array in arrays:
        _check_array(array, inputs)
    training = [array for array in arrays if not array.role.validation]
    validation = [array for array in arrays if array.role.validation]
    _check_group("training data", training, inputs, outputs)
    if validation:
        _check_group("validation data", validation, inputs, outputs)
        if request.validation_split:
            raise InvalidRequestError("validation_split and validation arrays exclude each other: got both")
    _check_split(request.validation_split, training[0].rows)
    checked_request = replace(request, data=arrays)
    if checked_request.data_bytes > max_bytes:
        raise TooLargeError(f"the data has {checked_request.data_bytes} bytes, expected at most {max_bytes}")
    return checked_request


def _check_settings(request: RunRequest) -> None:
    for name, value in (("epochs", request.epochs), ("batch_size", request.batch_size)):
        if value < 1:
            raise InvalidRequestError(f"{name}: got {value}, expected 1 or more")
    if not 0.0 <= request.validation_split < 1.0:  # also refuses NaN
        raise InvalidRequestError(f"validation_split: got {request.validation_split}, expected from 0 to below 1")
    if request.publish_label and not LABEL.fullmatch(request.publish_label):
        raise InvalidRequestError(
            f"publish_label: got {request.publish_label!r}, expected letters, digits, '.', '_' and '-'"
        )
    if request.seed < 0:
        raise InvalidRequestError(f"seed: got {request.seed}, expected 0 or more")


def _named(array: DataArray, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> DataArray:
    """The array with its name. An empty one stands for the only input or output, and for all in sample weights."""
    is_input = array.role.use is Role.X
    specs, kind = (inputs, "input") if is_input else (outputs, "output")
    known = [spec.name for spec in specs]
    if array.name:
        if array.name not in known:
            text = f"{array.role.value}: {unknown_name(kind, array.name, known)}"
            raise UnknownInputError(text) if is_input else UnknownOutputError(text)
        return array
    if len(known) == 1:
        return replace(array, name=known[0])
    if array.role.use is Role.SAMPLE_WEIGHT:
        return array
    text = f"{array.role.value}: an array has no name, and the model has {len(known)} {kind}s: {names(specs)}"
    raise UnknownInputError(text) if is_input else UnknownOutputError(text)


def _check_repeats(arrays: Sequence[DataArray]) -> None:
    seen: set[tuple[Role, str]] = set()
    for array in arrays:
        if (array.role, array.name) in seen:
            raise InvalidRequestError(f"{array.label()}: given twice")
        seen.add((array.role, array.name))


def _check_array(array: DataArray, inputs: Sequence[TensorSpec]) -> None:
    label = array.label()
    if not array.shape:
        raise InvalidTensorError(f"{label}: got a scalar, expected a first axis of rows")
    if any(length < 0 for length in array.shape):
        raise InvalidTensorError(f"{label}: got shape {array.shape}, expected no negative length")
    if array.dtype == "string":
        raise InvalidTensorError(f"{label}: got dtype string, expected numbers")
    if math.prod(axis for axis in array.shape if axis) > 2**56:
        raise TooLargeError(f"{label}: shape {array.shape} is too large")
    if array.role.use is Role.X:
        spec = next(spec for spec in inputs if spec.name == array.name)
        # Arrays without memory stand in for the data: one has the whole shape, one has no values that could be judged.
        fit_shape(label, spec, np.broadcast_to(np.zeros((), array.held_dtype), array.shape))
        fit_dtype(label, np.zeros(0, array.held_dtype), spec.dtype)


def _check_group(
    label: str, arrays: Sequence[DataArray], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Checks that training data, or validation data, is complete and has equal rows."""
    missing = {spec.name for spec in inputs} - {array.name for array in arrays if array.role.use is Role.X}
    if missing:
        raise MissingInputError(f"{label}: no x for input {' and '.join(map(repr, sorted(missing)))}")
    if not any(array.role.use is Role.Y for array in arrays):
        raise InvalidRequestError(f"{label}: no y; expected targets for {names(outputs)}")
    rows = {array.label(): array.rows for array in arrays}
    if len(set(rows.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise InvalidTensorError(f"{label}: arrays differ in rows: {shown}; expected as many for each")
    if not arrays[0].rows:
        raise InvalidTensorError(f"{label}: got no rows, expected 1 or more")


def _check_split(split: float, rows: int) -> None:
    # Keras trains on the first int(rows * (1 - split)) rows and validates on the others.
    if split and not 0 < int(rows * (1 - split)) < rows:
        raise InvalidRequestError(
            f"validation_split: {split} of {rows} rows leaves none to train on or to validate with"
        )
