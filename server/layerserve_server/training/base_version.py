"""Interface of the version that a run starts from, such as one that is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.layout import FoundVersion


class Signature(Protocol):
    """Inputs and outputs of a model."""

    @property
    def input_specs(self) -> Sequence[TensorSpec]: ...
    @property
    def output_specs(self) -> Sequence[TensorSpec]: ...


class BaseVersion(Protocol):
    """A version of a model: its files, its inputs and outputs, and its number of parameters."""

    @property
    def found(self) -> FoundVersion: ...
    @property
    def model(self) -> Signature: ...
    @property
    def parameter_count(self) -> int: ...
