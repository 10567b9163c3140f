"""The body of a Predict request: rows (`instances`) or columns (`inputs`) in JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from layerserve.values import tensors
from layerserve.values.wire import MAX_HEADS, tag, varint

from layerserve_server.errors import InvalidRequestError, InvalidTensorError, safe_text
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import TensorProto
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    PredictRequest,
)
from layerserve_server.extensions.tensorflow_serving.tensors import WIRE_TYPES, wire_shape
from layerserve_server.jobs.channel import Channel
from layerserve_server.services.rest.body_job import send_outline
from layerserve_server.services.rest.json_arrays import Array, Place, array_of
from layerserve_server.services.rest.json_text import field, kind_of, object_of, text_bytes

#: A body, for errors.
EXAMPLE = '{"instances": [...]}'


_INPUTS_TAG, _CONTENT_TAG = tag(PredictRequest.INPUTS_FIELD_NUMBER), tag(TensorProto.TENSOR_CONTENT_FIELD_NUMBER)
#: Tags of key and value in an entry of a map.
_KEY_TAG, _VALUE_TAG = tag(1), tag(2)


class InputSpec(NamedTuple):
    """An input of the model: its dtype, and its shape with None for axes of any length."""

    dtype: str
    shape: Sequence[int | None]
    #: Whether it may be strings or {"b64": ...}, too, one for each row.
    encoded: bool = False


class Outline(NamedTuple):
    """What a body has besides the elements of its inputs."""

    #: Empty if it has none.
    signature_name: str
    #: Number of rows; -1 if the body has columns.
    rows: int
    #: Names of the inputs; None if it has those of the only input, without its name.
    names: Sequence[str] | None


class PredictBody:
    """A body that has been parsed."""

    def __init__(self, body: bytes) -> None:
        """Raises InvalidRequestError if the body isn't valid for any model."""
        value = object_of(body, example=EXAMPLE)
        signature_name = field(value, "signature_name", str, default="")
        text_bytes(signature_name, "signature_name")
        if ("instances" in value) == ("inputs" in value):
            if "inputs" in value:
                raise InvalidRequestError(
                    "the body: got both of 'instances' (rows) and 'inputs' (columns), expected one"
                )
            got = safe_text(", ".join(map(repr, list(value)[:5])), 80) or "nothing"
            raise InvalidRequestError(
                f"the body: got {got}, expected 'instances' (rows) or 'inputs' (columns); send {EXAMPLE}"
            )
        #: By name of input, or "": the elements, the label of their place, and the key in each row.
        self._columns: Mapping[str, tuple[Any, str, str]]
        rows = -1
        if "instances" in value:
            self._columns, rows = _rows(value["instances"]), len(value["instances"])
        else:
            self._columns = _columns(value["inputs"])
        names = None if self._columns.keys() == {""} else list(self._columns)
        self.outline = Outline(signature_name, rows, names)

    def message(self, specs: Mapping[str, InputSpec]) -> bytes:
        """Returns a PredictRequest with the inputs, by their specs. An only input without a name gets that of its spec.

        Raises InvalidTensorError.
        """
        message: list[bytes] = []
        names = list(specs) if self.outline.names is None else self.outline.names
        for name, (column, label, key) in zip(names, self._columns.values(), strict=True):
            dtype, shape, encoded = specs[name]
            if encoded and _is_text(column):
                dtype, shape = "string", shape[:1]
            message.append(_input(name, array_of(column, dtype, Place(label, key, shape)), dtype))
        return b"".join(message)


def read_long(body: bytes, channel: Channel) -> bytes:
    """Returns what `PredictBody.message` does, in the process that reads long bodies.

    Sends the outline, for which the server sends the dtypes and shapes of the inputs.
    """
    read = PredictBody(body)
    del body
    send_outline(channel, read.outline._asdict())
    return read.message({name: InputSpec(*spec) for name, spec in channel.request().items()})


def _rows(rows: Any) -> dict[str, tuple[Any, str, str]]:
    """Returns the columns of rows: objects by name of input, or the values of the only input."""
    if not isinstance(rows, list):
        raise InvalidTensorError(f"instances: got {kind_of(rows)}, expected a list of rows")
    if not rows:
        raise InvalidTensorError("instances: got a list of 0, expected at least one row")
    if not _is_named(rows[0]):
        return {"": (rows, "instances", "")}
    keys = rows[0].keys()
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != keys:
            got = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else kind_of(row)
            raise InvalidTensorError(
                f"instances[{index}]: got {safe_text(got, 200)}, expected an object with "
                f"{safe_text(', '.join(map(repr, keys)), 200)}, as the first row"
            )
    return {name: ([row[name] for row in rows], "instances", _key(name)) for name in keys}


def _columns(value: Any) -> dict[str, tuple[Any, str, str]]:
    """Returns the columns of an object by name of input, or of the only input."""
    if not _is_named(value):
        return {"": (value, "inputs", "")}
    return {name: (column, f"inputs{_key(name)}", "") for name, column in value.items()}


def _is_named(value: Any) -> bool:
    """Whether a value has inputs by their names, and isn't a string in base64: as TensorFlow Serving decides."""
    return isinstance(value, dict) and not (value.keys() == {"b64"} and isinstance(value["b64"], str))


def _is_text(column: Any) -> bool:
    """Whether the first element of nested lists is a string, or one in base64."""
    while isinstance(column, list) and column:
        column = column[0]
    return isinstance(column, (str, dict))


def _key(name: str) -> str:
    text_bytes(name, "the name of an input")
    return f".{safe_text(name, 80)}"


def _input(name: str, array: Array, dtype: str) -> bytes:
    """Returns a PredictRequest with one input. Messages that are joined are one message with the fields of both."""
    if dtype == "string":
        tensor = TensorProto(dtype=WIRE_TYPES[dtype].number, tensor_shape=wire_shape(array.shape))
        tensor.string_val.extend(array.ravel().tolist())
        return PredictRequest(inputs={name: tensor}).SerializeToString()
    # As protobuf writes it, with the elements copied once.
    content, head, key = tensors.encode_data(array, dtype), _head(dtype, array.shape), name.encode()
    field = b"".join((head, _CONTENT_TAG, varint(len(content)))) if content else head
    size = len(field) + len(content)
    entry = b"".join((_KEY_TAG, varint(len(key)), key, _VALUE_TAG, varint(size)))
    return b"".join((_INPUTS_TAG, varint(len(entry) + size), entry, field, content))


@lru_cache(MAX_HEADS)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Returns a TensorProto without elements."""
    return TensorProto(dtype=WIRE_TYPES[dtype].number, tensor_shape=wire_shape(shape)).SerializeToString()
