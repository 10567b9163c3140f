"""Inputs and outputs of the model that a command names, asked for when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from layerserve import Client
from layerserve.models.info import ModelInfo, model_spec
from layerserve.models.signatures import loaded_model
from layerserve.values.tensor_spec import TensorSpec


class ModelSpecs:
    """The inputs and outputs of a model."""

    def __init__(self, client: Client, model: str, version: int | None, label: str | None) -> None:
        self._client = client
        self._named = (model, version, label)

    @cached_property
    def _known(self) -> ModelInfo:
        return self._client._run(loaded_model(model_spec(*self._named)))

    def inputs(self) -> Sequence[TensorSpec]:
        """Returns the inputs. Raises as `Client.model` does, and ModelNotReady for a version that failed to load."""
        return self._known.inputs

    def outputs(self) -> Sequence[TensorSpec]:
        """Returns the outputs. Raises as `inputs` does."""
        return self._known.outputs
