"""Activation layers (keras.layers.ReLU and others), and the validator of `activation` options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from layergraph.config.options import Expected, integer, nonnegative, number, one_of, one_or_list_of, option, optional
from layergraph.constraints import constraint
from layergraph.errors import GraphError, unknown_name
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.logits import keep_logits
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import (
    ACTIVATIONS,
    FUNCTIONS,
    Function,
    elu,
    gelu_approximate,
    leaky_relu,
    linear,
    relu,
    sigmoid,
    softmax,
)
from layergraph.layers.activation_functions import (
    Activation as ActivationFunction,
)
from layergraph.layers.masked_softmax import masked_scores, masked_weights
from layergraph.plugins import custom_activations
from layergraph.regularizers import regularizer

#: KerasHub's functions, by the names of its former package, too.
_HUB_ACTIVATIONS: Mapping[str, Function] = {
    f"{package}>gelu_approximate": gelu_approximate for package in ("keras_hub", "keras_nlp")
}

_REMEDY = "a plugin can register one: layergraph.plugins.register_activation"


def activation(value: Any) -> ActivationFunction:
    """Validator: a name, a function of the table, an activation layer, or Keras's serialised form of one of them.

    None means `linear`. Serialised layers must be those of this module.
    """
    if value is None:
        return linear
    if isinstance(value, Layer):
        return value
    if isinstance(value, Mapping) and "class_name" in value:
        return _deserialized(value)
    if isinstance(value, str):
        if value in ACTIVATIONS:
            return ACTIVATIONS[value]
        custom = {**_HUB_ACTIVATIONS, **custom_activations()}
        if value not in custom:
            text = unknown_name("activation", value, [*ACTIVATIONS, *custom])
            raise Expected(f"the name of an activation function; {text} ({_REMEDY})")
        return custom[value]
    if callable(value) and any(
        value is known for known in (*FUNCTIONS, gelu_approximate, *custom_activations().values())
    ):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("value"), list):  # a lambda, as Keras 2.13 to 2.15 write it
        raise Expected("the name of an activation function: a lambda holds Python code, which is never run")
    raise Expected("the name of an activation function, or an activation layer")


def _deserialized(value: Mapping[str, Any]) -> ActivationFunction:
    name, config = value["class_name"], value.get("config")
    if name in ("function", "builtin_function_or_method") and isinstance(config, str):
        return activation(config)
    if name in LAYERS and isinstance(config, Mapping):
        return LAYERS[name].from_config(config)
    raise Expected(f"an activation function or layer: {', '.join(sorted(LAYERS))}")


def adopt_activation(owner: Layer, chosen: ActivationFunction) -> None:
    """Makes an activation layer a sublayer of `owner`, which then owns its weights. Called in `setup`."""
    if isinstance(chosen, Layer):
        owner.sublayers["activation"] = chosen


def activate(chosen: ActivationFunction, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
    """Computes the activation of `x` in `forward` of a layer that adopted it; `w` holds the owner's weights."""
    y: torch.Tensor = (
        chosen.execute(context, w["activation"], (x,), {}, None, want_masks=False)[0]
        if isinstance(chosen, Layer)
        else chosen(x)
    )
    if context.keeps_logits and (chosen is sigmoid or chosen is softmax):
        keep_logits(y, x, chosen.__name__, context.keeps_logits)
    return y


class Activation(Layer):
    """Applies an activation function (keras.layers.Activation). The output has the input's shape."""

    activation: ActivationFunction = option(activation)

    supports_masking = True

    def setup(self) -> None:
        adopt_activation(self, self.activation)

    def build_for(self, args: tuple[Any, ...]) -> None:
        if isinstance(self.activation, Layer):
            self.activation.build_for(args)
        super().build_for(args)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activate(self.activation, context, w, x)


class ReLU(Layer):
    """max_value above max_value, x from threshold up, negative_slope * (x - threshold) below (keras.layers.ReLU)."""

    max_value: float | None = option(optional(nonnegative), default=None)
    negative_slope: float = option(nonnegative, default=0.0)
    threshold: float = option(nonnegative, default=0.0)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return relu(x, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """x above zero, negative_slope * x below (keras.layers.LeakyReLU)."""

    negative_slope: float = option(nonnegative, default=0.3)

    supports_masking = True

    def __init__(self, *args: Any, alpha: float | None = None, **kwargs: Any) -> None:
        # Keras 2's name, which Keras 3 still accepts.
        if alpha is not None:
            kwargs["negative_slope"] = alpha
        super().__init__(*args, **kwargs)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return leaky_relu(x, self.negative_slope)


class PerElement(Layer):
    """An activation with trainable parameters for each element of a row, shared along `shared_axes` (axis 1 is the
    first after the batch axis).
    """

    if TYPE_CHECKING:
        # Subclasses declare it, at its position in Keras's arguments.
        shared_axes: Any

    supports_masking = True

    def setup(self) -> None:
        if isinstance(self.shared_axes, int):
            self.shared_axes = (self.shared_axes,)

    def parameter_shape(self, input_shape: Any) -> list[int | None]:
        """Returns a row's shape, with 1 on the shared axes. Raises GraphError if a shared axis doesn't exist."""
        shape = list(input_shape[1:])
        for axis in self.shared_axes or ():
            if not 1 <= axis <= len(shape):
                raise GraphError(f"layer '{self.name}': shared axis {axis}, expected 1 to {len(shape)}")
            shape[axis - 1] = 1
        return shape

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Sets `shared_axes` to the axes on which the stored arrays have length 1: Keras 1 configs lack the option."""
        if self.shared_axes is not None or not shapes or not self.own_weights:
            return
        own, stored = self.own_weights[0].shape, shapes[0]
        if len(own) == len(stored) and all(there in (1, length) for length, there in zip(own, stored, strict=True)):
            shared = tuple(i for i, (n, there) in enumerate(zip(own, stored, strict=True), 1) if there < n)
            self.shared_axes = shared or None
            for weight in self.own_weights:
                weight.shape = stored


class PReLU(PerElement):
    """x above zero, alpha * x below, with a trainable alpha for each element (keras.layers.PReLU)."""

    alpha_initializer: Any = option(initializer, default="zeros")
    alpha_regularizer: Any = option(regularizer, default=None)
    alpha_constraint: Any = option(constraint, default=None)
    shared_axes: Any = option(optional(one_or_list_of(integer)), default=None)

    def build(self, input_shape: Any) -> None:
        self.add_weight_by_options("alpha", self.parameter_shape(input_shape))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.relu(x) - w.alpha * torch.relu(-x)
        return y


class ELU(Layer):
    """x above zero, alpha * (exp(x) - 1) below (keras.layers.ELU)."""

    alpha: float = option(number, default=1.0)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return elu(x, self.alpha)


class ThresholdedReLU(Layer):
    """x above theta, else 0 (tf.keras.layers.ThresholdedReLU; Keras 3 has no such layer)."""

    theta: float = option(nonnegative, default=1.0)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        # Keras multiplies by the condition, so that minus infinity gives NaN rather than 0.
        return x * (x > self.theta).to(x.dtype)


class Softmax(Layer):
    """exp(x) / sum exp(x) along one or more axes (keras.layers.Softmax). Elements that are masked out give 0.

    mask_rule   result along an axis that is masked out entirely: zeros with `keras3` and `keras3.12`; equal values with
                `keras2`, as up to Keras 3.9; `fitting` is like `keras2`, but ignores a mask that doesn't broadcast to
                the inputs; `robust` is tf_keras 2.21's `robust_masking`. Masks of numbers are compared with 0.5, but
                are weights up to Keras 3.12 (see `masked_scores`). Set from the file's version
    """

    axis: Any = option(one_or_list_of(integer), default=-1)
    mask_rule: str = option(
        one_of("keras3", "keras3.12", "keras2", "fitting", "robust"), default="keras3", kw_only=True, saved=False
    )

    supports_masking = True

    def forward(
        self, context: CallContext, w: Weights, inputs: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes the softmax. Raises GraphError if the mask doesn't broadcast to the inputs."""
        if mask is not None and not _broadcasts(mask, inputs):
            if self.mask_rule != "fitting":
                shapes = f"{tuple(mask.shape)}, expected one that broadcasts to the inputs, {tuple(inputs.shape)}"
                raise GraphError(f"mask of shape {shapes}")
            mask = None
        if mask is not None:
            inputs = masked_scores(inputs, mask, _LOWEST.get(inputs.dtype, -1e9), self.mask_rule)
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        if len(axes) == 1:
            outputs = torch.softmax(inputs, axes[0])
            if context.keeps_logits:
                keep_logits(outputs, inputs, "softmax", context.keeps_logits)
        else:
            outputs = torch.exp(inputs - torch.logsumexp(inputs, axes, keepdim=True))
        return outputs if mask is None else masked_weights(outputs, mask, self.mask_rule)


def _broadcasts(mask: torch.Tensor, inputs: torch.Tensor) -> bool:
    pairs = zip(reversed(mask.shape), reversed(inputs.shape), strict=False)
    return mask.ndim <= inputs.ndim and all(m in (1, i) for m, i in pairs)


#: Keras's value for minus infinity (_large_negative_number).
_LOWEST = {torch.float16: -3e4}

LAYERS: dict[str, type[Layer]] = {
    "Activation": Activation,
    "ELU": ELU,
    "LeakyReLU": LeakyReLU,
    "PReLU": PReLU,
    "ReLU": ReLU,
    "Softmax": Softmax,
    "ThresholdedReLU": ThresholdedReLU,
}
