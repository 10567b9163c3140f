"""Input layers and `Input`."""

from __future__ import annotations

from typing import Any

from layergraph.config.options import Expected, boolean, option, shape, short_repr
from layergraph.errors import ConfigError
from layergraph.functional.dtypes import dtype
from layergraph.functional.layer import Layer
from layergraph.functional.node import Node
from layergraph.functional.tensor import History, Shape, Tensor
from layergraph.functional.weights import Weights


class InputLayer(Layer):
    """The layer behind `Input` (keras.layers.InputLayer). It has one node, without inputs."""

    batch_shape: Shape = option(shape)
    sparse: bool = option(boolean, default=False)
    ragged: bool = option(boolean, default=False)
    optional: bool = option(boolean, default=False)

    regularizes_activity = False

    def setup(self) -> None:
        """Raises ConfigError for sparse and ragged inputs."""
        if self.sparse or self.ragged:
            raise ConfigError("InputLayer: sparse and ragged inputs are not supported, expected dense ones")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An input's dtype may be any dtype, 'string' included; it is not a policy.
        given = kwargs.pop("dtype", None)
        try:
            self._element_type = dtype("float32" if given is None else given)
        except Expected as wrong:
            raise ConfigError(f"InputLayer: option 'dtype' is {short_repr(given)}, expected {wrong}") from None
        super().__init__(*args, **kwargs)
        tensor = Tensor(self.batch_shape, self.element_type, History(self, 0, 0), name=self.name)
        self.built = True
        Node(self, (), {}, tensor, None)

    @property
    def element_type(self) -> str:
        """Dtype of the input."""
        return self._element_type

    def forward(self, context: Any, w: Weights, x: Any) -> Any:
        return x

    def get_config(self) -> dict[str, Any]:
        """Config of the input, as in Keras 3."""
        config = super().get_config()
        del config["trainable"]
        return config | {"dtype": self.element_type}


def Input(  # noqa: N802 - Keras's name
    shape: Any = None,
    batch_size: int | None = None,
    dtype: Any = None,
    name: str | None = None,
    batch_shape: Any = None,
    tensor: Tensor | None = None,
) -> Tensor:
    """Creates a symbolic input of a model (keras.Input).

    shape        length of each axis except the batch axis; None for any length
    batch_size   batch size, if it is fixed
    dtype        'float32' by default
    batch_shape  shape with the batch axis, instead of `shape`

    Raises ConfigError if not exactly one of `shape` and `batch_shape` is given, or for an invalid option.
    """
    if tensor is not None:
        return tensor
    if (shape is None) == (batch_shape is None):
        raise ConfigError(
            f"Input: got shape={short_repr(shape)} and batch_shape={short_repr(batch_shape)}, expected one of them"
        )
    if batch_shape is None:
        batch_shape = (batch_size, *((shape,) if isinstance(shape, int) else shape))
    layer = InputLayer(batch_shape=batch_shape, dtype=dtype, name=name)
    made: Tensor = layer.inbound_nodes[0].outputs
    return made
