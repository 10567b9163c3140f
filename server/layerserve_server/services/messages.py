"""Conversions that the services share, between messages and what the rooms behind them speak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from layerserve import errors as codec_errors
from layerserve import tensors
from layerserve.v1 import tensor_pb2

from layerserve_server.errors import InvalidRequestError, InvalidTensorError
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease

#: Larger messages are read in a thread of their own, as they would hold up other calls.
LONG_BYTES = 1 << 20


class Message(Protocol):
    """What a request's class has."""

    @staticmethod
    def FromString(s: bytes, /) -> Any: ...  # noqa: N802


M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """Reads a request. Raises InvalidRequestError for bytes that aren't one."""
    try:
        message: M = kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(f"the message isn't a valid {kind.__name__}") from error
    return message


def choice(spec: tensor_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Name, version and label that a request names. Raises InvalidRequestError where it names no model."""
    if not spec.name:
        raise InvalidRequestError("model: got no name, expected the name of a model")
    which = spec.WhichOneof("version_choice")
    return spec.name, spec.version if which == "version" else None, spec.label if which == "label" else None


def lease(repository: Repository, spec: tensor_pb2.ModelSpec) -> Lease:
    """The right to use the version that a request names. Raises what `Repository.lease` raises."""
    return repository.lease(*choice(spec))


def model_spec(name: str, version: int) -> tensor_pb2.ModelSpec:
    """A model with its version number."""
    return tensor_pb2.ModelSpec(name=name, version=version)


def format_name(number: int) -> str:
    """The name of a format; empty for none. Raises InvalidRequestError for a number that stands for none."""
    if number == tensor_pb2.MODEL_FORMAT_UNSPECIFIED:
        return ""
    if number not in tensor_pb2.ModelFormat.values():
        known = ", ".join(map(str, tensor_pb2.ModelFormat.values()[1:]))
        raise InvalidRequestError(f"format: got {number}, expected one of {known}")
    return tensor_pb2.ModelFormat.Name(tensor_pb2.ModelFormat.ValueType(number)).removeprefix("MODEL_FORMAT_").lower()


def decode(tensor: tensor_pb2.Tensor) -> Array:
    """The array of a tensor. Raises InvalidTensorError where dtype, shape and data disagree."""
    try:
        return tensors.decode(tensor)
    except codec_errors.InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error


def dtype_name(dtype: int, name: str) -> str:
    """'float32' for DATA_TYPE_FLOAT32. Raises InvalidTensorError for an unknown one."""
    try:
        return tensors.dtype_name(dtype, name)
    except codec_errors.InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error


def tensor_specs(specs: Iterable[TensorSpec]) -> Sequence[tensor_pb2.TensorSpec]:
    """Inputs or outputs of a model."""
    return [
        tensor_pb2.TensorSpec(
            name=spec.name, dtype=tensors.dtype_enum(spec.dtype, spec.name), shape=tensors.wire_shape(spec.shape)
        )
        for spec in specs
    ]


def timestamp(seconds: float) -> Timestamp:
    """A time in seconds since 1970."""
    message = Timestamp()
    message.FromNanoseconds(int(seconds * 1e9))
    return message
