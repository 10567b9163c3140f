"""Tensors that aren't in a request or its reply: where they are in shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

#: Parameters of a tensor in shared memory, in the Open Inference Protocol.
REGION: Final = "shared_memory_region"
REGION_OFFSET: Final = "shared_memory_offset"
REGION_SIZE: Final = "shared_memory_byte_size"


@dataclass(frozen=True, slots=True)
class Place:
    """The part of a region of shared memory that a tensor has."""

    region: str
    #: From the beginning of the region, in bytes.
    offset: int
    #: In bytes; of an output the maximum.
    size: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where the tensors of a request are."""

    #: By index of the input in the request.
    inputs: Mapping[int, Place] = field(default_factory=dict)
    #: By name.
    outputs: Mapping[str, Place] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


class Sink(Protocol):
    """Takes the elements of an output, which the reply then lacks."""

    @property
    def place(self) -> Place: ...
    def write(self, content: Any) -> None:
        """Writes bytes, or those of a contiguous array. Raises ServerError if that isn't possible."""


NO_SINKS: Mapping[str, Sink] = MappingProxyType({})
