"""The data of a training request: declared in the spec, then sliced into chunks while it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerserve.calls.methods import Method, rpc
from layerserve.calls.sender import Sender
from layerserve.errors import InvalidArgument
from layerserve.training.server_file import ServerArray, ServerFile
from layerserve.v1.training_pb2 import (
    DataArray,
    DataChunk,
    DataDigest,
    DataRole,
    EvaluateRequest,
    EvaluateResponse,
    EvaluateSpec,
    TrainRequest,
    TrainResponse,
    TrainSpec,
)
from layerserve.values.casting import RAGGED, as_array, as_rows, cast, default_cast
from layerserve.values.inputs import match
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array, array_dtype, dtype_enum, encode_data, itemsize

#: Approximate size of a chunk, in bytes. A chunk has whole rows, at least one.
CHUNK_BYTES = 1 << 20

#: Roles by the names that arrays have in a dataset.
ROLES = {name.removeprefix("DATA_ROLE_").lower(): number for name, number in DataRole.items() if number}
_ROLE_NAMES = {role: name.replace("validation_", "validation ") for name, role in ROLES.items()}


@dataclass(frozen=True)
class TrainingArray:
    """An array to send. `rows` is sliced while it is sent, so data on disk (memmap, h5py) is never read as a whole.

    If `rows` is a ServerArray, it isn't sent: the server has it.
    """

    role: DataRole.ValueType
    name: str
    rows: Any
    dtype: str

    @property
    def text(self) -> str:
        """Name of the array in error texts."""
        return f"{_ROLE_NAMES[self.role]}[{self.name!r}]" if self.name else _ROLE_NAMES[self.role]

    @property
    def filed(self) -> bool:
        """Whether the server has the array."""
        return isinstance(self.rows, ServerArray)

    @property
    def count(self) -> int:
        return int(self.rows.shape[0])

    def announcement(self) -> DataArray:
        if isinstance(self.rows, ServerArray):
            return self.rows.declare(self.role, self.name)
        return DataArray(role=self.role, name=self.name, dtype=dtype_enum(self.dtype), shape=self.rows.shape)

    def slice(self, start: int, stop: int) -> Array:
        """Returns some rows, converted to the dtype from which they are encoded."""
        return cast(as_array(self.rows[start:stop], self.text), self.dtype, self.text)

    def chunks(self) -> Iterator[bytes]:
        """Yields all rows, encoded as `Tensor.data`, in chunks of about CHUNK_BYTES."""
        if self.dtype == "string":
            yield from self._string_chunks()
            return
        row_bytes = int(np.prod(self.rows.shape[1:], dtype=np.int64)) * itemsize(self.dtype)
        step = max(1, CHUNK_BYTES // max(1, row_bytes))
        for start in range(0, self.count, step):
            yield encode_data(self.slice(start, start + step), self.dtype, self.text)

    def _string_chunks(self) -> Iterator[bytes]:
        held = bytearray()
        for row in range(self.count):
            held += encode_data(self.slice(row, row + 1), "string", self.text)
            if len(held) >= CHUNK_BYTES:
                yield bytes(held)
                held.clear()
        if held:
            yield bytes(held)


class AllData:
    """What has the inputs and the targets of a run, such as a dataset. It is passed as `x` alone."""

    __slots__ = ()

    def training_arrays(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, validates: bool
    ) -> list[TrainingArray]:
        """Returns the arrays that a model uses; those to validate with only if the run `validates`."""
        raise NotImplementedError


def training_arrays(
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Sequence[Any] | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> list[TrainingArray]:
    """Returns the arrays of a training request, matched by name or position to the model's inputs and outputs.

    Raises InvalidArgument or a subclass for unknown names, lists of a wrong length, different numbers of rows, or an
    invalid `validation_data`.
    """
    arrays = _data_set(x, y, sample_weight, inputs, outputs, validation=False)
    _check_rows(arrays)
    if validation_data is not None:
        validation = _data_set(*validation_parts(validation_data), inputs, outputs, validation=True)
        _check_rows(validation)
        arrays += validation
    return arrays


def validation_parts(data: Any) -> tuple[Any, Any, Any]:
    """Returns x, y and sample weight of `validation_data`. Raises InvalidArgument for anything else."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise InvalidArgument(f"validation_data: got {type(data).__name__}, expected (x, y) or (x, y, sample_weight)")
    return data[0], data[1], data[2] if len(data) == 3 else None


def _data_set(
    x: Any,
    y: Any,
    sample_weight: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    validation: bool,
) -> list[TrainingArray]:
    prefix = "validation_" if validation else ""
    x_role, y_role, weight_role = (ROLES[prefix + name] for name in ("x", "y", "sample_weight"))
    arrays = [_input_array(x_role, *item) for item in match(_of_file(x, inputs, outputs), inputs, "input")]
    # As in Keras, None in a list means an output without a target.
    matched = match(_of_file(y, outputs, inputs), outputs, "output", targets=True)
    targets = [item for item in matched if item[1] is not None]
    arrays += [_loose_array(y_role, name, value) for name, value, _ in targets]
    if sample_weight is not None:
        if len(outputs) > 1 and not isinstance(sample_weight, (dict, list, tuple)):
            arrays.append(_loose_array(weight_role, "", sample_weight, dtype="float32"))  # for all outputs
        else:
            weights = [item for item in match(sample_weight, outputs, "output", targets=True) if item[1] is not None]
            arrays += [_loose_array(weight_role, name, value, dtype="float32") for name, value, _ in weights]
    return arrays


def _of_file(given: Any, specs: Sequence[TensorSpec], others: Sequence[TensorSpec]) -> Any:
    """Returns the file of each input or output by name, if all are in one file."""
    if not isinstance(given, ServerFile):
        return given
    return given.by_name([spec.name for spec in specs], {spec.name for spec in others})


def _input_array(role: DataRole.ValueType, name: str, value: Any, spec: TensorSpec | None) -> TrainingArray:
    return _loose_array(role, name, value, dtype=spec.dtype if spec else None)


def _loose_array(role: DataRole.ValueType, name: str, value: Any, dtype: str | None = None) -> TrainingArray:
    text = TrainingArray(role, name, None, "").text
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], ServerArray):
        value = value[0]
    if isinstance(value, ServerArray):
        return TrainingArray(role, name, value, "")
    rows = as_rows(value, text)
    if any(axis is None for axis in rows.shape):
        raise InvalidArgument(f"{text}: got {type(value).__name__} with rows of different lengths, expected {RAGGED}")
    first = as_array(rows[:1], text)
    if dtype is None:
        dtype = array_dtype(default_cast(first, text), text)
    cast(first, dtype, text)  # raises for an invalid dtype before anything is sent
    return TrainingArray(role, name, rows, dtype)


def _check_rows(arrays: Sequence[TrainingArray]) -> None:
    counts = {array.text: array.count for array in arrays if not array.filed}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{text} has {count}" for text, count in counts.items())
        raise InvalidArgument(
            f"training data: got arrays with different numbers of rows, expected the same number: {listed}"
        )
    if counts and not any(counts.values()):
        raise InvalidArgument("training data: got no rows, expected at least 1")


class Upload(Sender[TrainRequest | EvaluateRequest]):
    """The requests of a Train or Evaluate call: the spec, then the arrays in chunks."""

    what = "training data"

    def __init__(self, spec: TrainSpec | EvaluateSpec, arrays: Sequence[TrainingArray]) -> None:
        super().__init__()
        self.spec = spec
        self.arrays = arrays

    @property
    def method(self) -> Method[Any, Any]:
        """The RPC to call."""
        if isinstance(self.spec, TrainSpec):
            return rpc(TrainRequest, TrainResponse)
        return rpc(EvaluateRequest, EvaluateResponse)

    def again(self) -> Upload:
        """Returns the same requests, to be sent again: arrays are sliced anew."""
        return Upload(self.spec, self.arrays)

    def first(self) -> TrainRequest | EvaluateRequest:
        return self._request(spec=self.spec)

    def content(self) -> Iterator[TrainRequest | EvaluateRequest]:
        for index, array in enumerate(self.arrays):
            if array.filed:
                continue
            digest = hashlib.sha256()
            for data in array.chunks():
                digest.update(data)
                yield self._request(chunk=DataChunk(array=index, data=data))
            yield self._request(digest=DataDigest(array=index, sha256=digest.digest()))

    def _request(self, **part: Any) -> TrainRequest | EvaluateRequest:
        return TrainRequest(**part) if isinstance(self.spec, TrainSpec) else EvaluateRequest(**part)
