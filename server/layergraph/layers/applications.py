"""Layers defined by keras.applications; Keras identifies them in files by their module."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from layergraph.config.options import fraction, number, option, positive_int
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import Constant


class LayerScale(Layer):
    """Scales x by a trainable vector `gamma` of length `projection_dim` (keras.applications.ConvNeXt)."""

    keras_module: ClassVar[str] = "keras.src.applications.convnext"

    init_values: float = option(number)
    projection_dim: int = option(positive_int)

    def build(self, input_shape: Any) -> None:
        self.add_weight("gamma", (self.projection_dim,), Constant(self.init_values))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = x * w.gamma
        return scaled


class StochasticDepth(Layer):
    """In training drops entire rows and scales the others to preserve the mean (keras.applications.ConvNeXt)."""

    keras_module: ClassVar[str] = "keras.src.applications.convnext"

    drop_path_rate: float = option(fraction)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, in training with some rows dropped."""
        if not context.training:
            return x
        keep = 1 - self.drop_path_rate
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        rows = context.drawn(shape, x, lambda empty: empty.uniform_(generator=context.generator))
        return x / keep * (keep + rows).floor()


class CustomScaleLayer(Layer):
    """first + second * scale (keras.applications.InceptionResNetV2)."""

    keras_module: ClassVar[str] = "keras.src.applications.inception_resnet_v2"

    scale: float = option(number)

    def forward(self, context: CallContext, w: Weights, inputs: Any) -> torch.Tensor:
        """Computes the scaled sum. Raises GraphError unless there are two inputs."""
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise GraphError(
                f"layer '{self.name}' (CustomScaleLayer): got {type(inputs).__name__}, expected two tensors"
            )
        total: torch.Tensor = inputs[0] + inputs[1] * self.scale
        return total


LAYERS: dict[str, type[Layer]] = {
    "LayerScale": LayerScale,
    "StochasticDepth": StochasticDepth,
    "CustomScaleLayer": CustomScaleLayer,
}
