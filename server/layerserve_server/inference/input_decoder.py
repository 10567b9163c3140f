"""Inputs that requests may have as bytes, such as encoded images, besides arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.transport.call import Call


class InputDecoder(Protocol):
    """Makes the rows of an input of bytes, one element for each row, in other processes."""

    @property
    def encoding(self) -> str:
        """What the elements are, such as "image"."""

    def decode(self, elements: Sequence[bytes], call: Call, done: Callable[[Array | Exception], None]) -> None:
        """Begins to decode the elements of a call, and calls `done` once, in any thread: with the rows, or an error.

        A call that is gone is one, CallCancelledError. Raises InvalidTensorError and BusyError, and then calls nothing.
        """


@dataclass(frozen=True, slots=True)
class EncodedSpec:
    """An input that requests may have as bytes. Shape and dtype are those of its arrays."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str

    @property
    def elements(self) -> EncodedSpec:
        """The input as bytes, for protocols that name one dtype of an input."""
        return EncodedSpec(self.name, self.shape[:1], "string", self.encoding)


def encoding_of(spec: TensorSpec) -> str:
    """Returns the encoding of an input; empty if it takes only arrays."""
    return spec.encoding if isinstance(spec, EncodedSpec) else ""


def preferred(spec: TensorSpec) -> TensorSpec:
    """Returns an input or output as a protocol describes it that names one dtype: as bytes if it may be that."""
    return spec.elements if isinstance(spec, EncodedSpec) else spec


def forms(spec: TensorSpec) -> Sequence[TensorSpec]:
    """Returns the forms in which requests may have an input."""
    return (spec, spec.elements) if isinstance(spec, EncodedSpec) else (spec,)


def with_encodings(specs: Sequence[TensorSpec], decoders: Mapping[str, InputDecoder]) -> tuple[TensorSpec, ...]:
    """Returns the inputs of a model, those with a decoder as `EncodedSpec`."""
    return tuple(
        EncodedSpec(spec.name, spec.shape, spec.dtype, decoders[spec.name].encoding) if spec.name in decoders else spec
        for spec in specs
    )
