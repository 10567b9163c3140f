"""Core layers: Dense, Embedding, Masking and Identity (keras.layers.core)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import boolean, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import ElementError, GraphError
from layergraph.functional import runtime_assertions
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.lora import LoraWeights
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.tensor import History, Tensor
from layergraph.functional.weights import Weights
from layergraph.initializers import constant_value, initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activate, activation, adopt_activation
from layergraph.layers.biases import product
from layergraph.layers.lora import LoraLayer
from layergraph.regularizers import regularizer


class Dense(LoraLayer):
    """Densely connected layer: activation(x @ kernel + bias) over the last axis (keras.layers.Dense).

    Input (..., d), kernel (d, units), output (..., units).
    """

    units: int = option(positive_int)
    activation: Activation = option(activation, default=None)
    use_bias: bool = option(boolean, default=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    kernel_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    activity_regularizer = option(regularizer, default=None)
    kernel_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)

    supports_masking = True

    def setup(self) -> None:
        adopt_activation(self, self.activation)

    def build(self, input_shape: Any) -> None:
        """Creates kernel and bias. Raises GraphError if the inputs' rank is below 2."""
        if len(input_shape) < 2:
            raise GraphError(f"layer '{self.name}' (Dense): got shape {input_shape}, expected (rows, ..., features)")
        self.add_kernel_and_bias(input_shape[-1])
        if isinstance(self.activation, Layer):
            outputs = Tensor((*input_shape[:-1], self.units), self.compute_dtype, History(self, 0, 0))
            self.activation.build_for((outputs,))

    def add_kernel_and_bias(self, features: int | None) -> None:
        """Creates kernel and bias for this number of input features."""
        self.add_whole_kernel(features)
        self.add_bias()

    def add_whole_kernel(self, features: int | None) -> None:
        """Creates the kernel."""
        self.add_weight_by_options("kernel", (features, self.units))

    def add_bias(self) -> None:
        """Creates the bias, if `use_bias`."""
        if self.use_bias:
            self.add_weight_by_options("bias", (self.units,))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes activation(x @ kernel + bias)."""
        kernel = w.base if isinstance(w, LoraWeights) else w.kernel
        if x.dtype != kernel.dtype:
            x = x.to(kernel.dtype)
        y = product(x, kernel, w.bias if self.use_bias else None)
        if isinstance(w, LoraWeights):
            y = y + w.scale * product(product(x, w.a, None), w.b, None)
        return activate(self.activation, context, w, y)


class Embedding(LoraLayer):
    """A trainable vector for each id (keras.layers.Embedding). Ids (...), outputs (..., output_dim).

    mask_zero   whether id 0 is padding: the output's mask is `ids != 0`
    """

    input_dim: int = option(positive_int)
    output_dim: int = option(positive_int)
    embeddings_initializer: Any = option(initializer, default="uniform")
    embeddings_regularizer: Any = option(regularizer, default=None)
    embeddings_constraint: Any = option(constraint, default=None)
    mask_zero: bool = option(boolean, default=False)

    supports_masking = True
    storage = StorageLayout(null_regularizer=True)
    # Floating-point ids are cast to integers directly, not to the compute dtype first.
    autocast = False
    adapted_weight = "embeddings"

    def __init__(self, *args: Any, weights: Any = None, input_length: Any = None, **kwargs: Any) -> None:
        # `input_length` is an option of Keras 2; Keras 3 accepts and ignores it.
        super().__init__(*args, **kwargs)
        if weights is not None:
            self.build(None)
            self.built = True
            self.set_weights(weights if isinstance(weights, list) and len(weights) == 1 else [weights])

    def build(self, input_shape: Any) -> None:
        self.add_weight_by_options("embeddings", (self.input_dim, self.output_dim))

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Looks up the vectors of the ids. Raises ElementError for an id outside of the table."""
        ids = self.known_ids(context, inputs)
        if isinstance(w, LoraWeights):
            chosen, factors = (torch.nn.functional.embedding(ids, table) for table in (w.base, w.a))
            vectors = chosen + (w.scale * (factors @ w.b)).to(chosen.dtype)
        elif context.lookups is not None:
            vectors = context.lookups.look_up(w.embeddings, ids)
        else:
            vectors = torch.nn.functional.embedding(ids, w.embeddings, sparse=context.row_gradients)
        return vectors.to(torch_dtype(self.compute_dtype))

    def known_ids(self, context: CallContext, inputs: torch.Tensor) -> torch.Tensor:
        """Converts the inputs to ids. Raises ElementError for an id outside of the table."""
        ids = inputs if inputs.dtype in (torch.int32, torch.int64) else inputs.to(torch.int32)
        # Within a symbolic call, positions may be counted up to a made-up length.
        if context.symbolic_dims is not None:
            return ids.to("meta")
        return ids if not ids.numel() else self._in_range(ids)

    def _in_range(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the ids. Raises ElementError for an id outside of the table."""
        if runtime_assertions.is_recording():
            # An engine must not read beyond the table, whatever its inputs.
            clamped = ids.clamp(0, self.input_dim - 1)
            runtime_assertions.record(clamped == ids)
            return clamped
        lowest, highest = (int(bound) for bound in torch.aminmax(ids))
        if lowest < 0 or highest >= self.input_dim:
            wrong = lowest if lowest < 0 else highest
            raise ElementError(f"layer '{self.name}' (Embedding): got id {wrong}, expected 0 to {self.input_dim - 1}")
        return ids

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """False for id 0, if `mask_zero`; otherwise None."""
        return inputs != 0 if self.mask_zero else None


class Masking(Layer):
    """Masks timesteps at which all features equal `mask_value`, and sets them to 0 (keras.layers.Masking)."""

    mask_value: Any = option(constant_value, default=0.0)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, with 0 at masked timesteps."""
        return torch.where(self._mask(inputs)[..., None], inputs, 0)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """False at timesteps to skip."""
        return self._mask(inputs)

    def _mask(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs != torch.as_tensor(self.mask_value, dtype=inputs.dtype, device=inputs.device)).any(-1)


class Identity(Layer):
    """Returns its inputs, any nested structure of tensors (keras.layers.Identity)."""

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, inputs: Any) -> Any:
        return inputs


LAYERS: dict[str, type[Layer]] = {
    "Dense": Dense,
    "Embedding": Embedding,
    "Identity": Identity,
    "Masking": Masking,
}
