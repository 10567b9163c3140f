"""Inputs and outputs of the model that a command names, asked for when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from layerserve import Client
from layerserve.models.info import ModelInfo
from layerserve.models.node_shapes import NodeShapes
from layerserve.values.tensor_spec import TensorSpec


class ModelSpecs:
    """The inputs and outputs of a model."""

    def __init__(self, client: Client, model: str, version: int | None, label: str | None) -> None:
        self._client = client
        self._named = (model, version, label)

    @cached_property
    def _known(self) -> ModelInfo | NodeShapes:
        model, version, label = self._named
        found = self._client.model(model, version=version, label=label)
        # The inputs of a version that isn't loaded are known only after a request that loads it.
        return found if found.inputs else self._client.node_shapes(model, version=version, label=label)

    def inputs(self) -> Sequence[TensorSpec]:
        """Returns the inputs. Raises as `Client.model` does."""
        return self._known.inputs

    def outputs(self) -> Sequence[TensorSpec]:
        """Returns the outputs. Raises as `Client.model` does."""
        return self._known.outputs
