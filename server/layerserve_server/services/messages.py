"""Conversions between protobuf messages and Python values, shared by the services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from layerserve import errors as codec_errors
from layerserve.v1 import tensor_pb2
from layerserve.values import tensors

from layerserve_server.access.caller import Caller
from layerserve_server.access.rights import Right
from layerserve_server.errors import InvalidRequestError, InvalidTensorError
from layerserve_server.inference.input_decoder import encoding_of
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease
from layerserve_server.transport.call import Stream
from layerserve_server.transport.perimeter.limits import ELEMENTS
from layerserve_server.transport.perimeter.message_size import check_elements, is_long


class Message(Protocol):
    """Interface of a message class."""

    DESCRIPTOR: Any

    @staticmethod
    def FromString(s: bytes, /) -> Any: ...  # noqa: N802


M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes, most: int = ELEMENTS) -> M:
    """Parses a request. Raises InvalidRequestError if the bytes aren't a valid message of at most `most` elements."""
    check_elements(data, kind.DESCRIPTOR, most)
    try:
        message: M = kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(f"the message isn't a valid {kind.__name__}") from error
    return message


async def parsed(stream: Stream, kind: type[M], data: bytes) -> M:
    """Parses a message of a stream: a long one in a pool thread, to not delay other streams. Raises as `parse` does."""
    if is_long(data, kind.DESCRIPTOR):
        return await stream.blocking(partial(parse, kind, data))
    return parse(kind, data)


def choice(spec: tensor_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Returns the model name, version and label in a request. Raises InvalidRequestError if there is no model name."""
    if not spec.name:
        raise InvalidRequestError("model: got no name, expected the name of a model")
    which = spec.WhichOneof("version_choice")
    return spec.name, spec.version if which == "version" else None, spec.label if which == "label" else None


def chosen_by(caller: Caller, right: Right, spec: tensor_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Returns what `choice` does. Raises as `choice` and `Caller.check_model` do: before the model is looked up."""
    found = choice(spec)
    caller.check_model(right, found[0])
    return found


def lease(repository: Repository, caller: Caller, right: Right, spec: tensor_pb2.ModelSpec) -> Lease:
    """Leases the version in a request of a caller. Raises as `chosen_by` and `Leases.lease` do."""
    return repository.leases.lease(*chosen_by(caller, right, spec))


def model_spec(name: str, version: int) -> tensor_pb2.ModelSpec:
    """Returns the message for a version of a model."""
    return tensor_pb2.ModelSpec(name=name, version=version)


def format_name(number: int) -> str:
    """Returns the name of a format; empty for UNSPECIFIED. Raises InvalidRequestError if the number is unknown."""
    if number == tensor_pb2.MODEL_FORMAT_UNSPECIFIED:
        return ""
    if number not in tensor_pb2.ModelFormat.values():
        known = ", ".join(map(str, tensor_pb2.ModelFormat.values()[1:]))
        raise InvalidRequestError(f"format: got {number}, expected one of {known}")
    return tensor_pb2.ModelFormat.Name(tensor_pb2.ModelFormat.ValueType(number)).removeprefix("MODEL_FORMAT_").lower()


def decode(tensor: tensor_pb2.Tensor) -> Array:
    """Decodes a tensor to an array. Raises InvalidTensorError if its dtype, shape and data don't match."""
    try:
        return tensors.decode(tensor)
    except codec_errors.InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error


def dtype_name(dtype: int, name: str) -> str:
    """Returns the name of a dtype, such as "float32" for DATA_TYPE_FLOAT32. Raises InvalidTensorError if unknown."""
    try:
        return tensors.dtype_name(dtype, name)
    except codec_errors.InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error


def tensor_specs(specs: Iterable[TensorSpec]) -> Sequence[tensor_pb2.TensorSpec]:
    """Returns the messages for inputs or outputs of a model."""
    return [
        tensor_pb2.TensorSpec(
            name=spec.name,
            dtype=tensors.dtype_enum(spec.dtype, spec.name),
            shape=tensors.wire_shape(spec.shape),
            encoding=encoding_of(spec),
        )
        for spec in specs
    ]


def nanoseconds(time: Timestamp, field: str) -> int:
    """Returns a time in a request as Unix time in nanoseconds. Raises InvalidRequestError if it isn't a time."""
    try:
        return time.ToNanoseconds()
    except ValueError:
        raise InvalidRequestError(
            f"{field}: got {time.seconds} seconds and {time.nanos} nanoseconds, expected a time of the years 1 to 9999"
        ) from None


def timestamp(seconds: float) -> Timestamp:
    """Returns the message for a Unix time in seconds."""
    message = Timestamp()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
