"""A Python function as a layer (keras.layers.Lambda)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from layergraph.config.options import short_repr
from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer


class Lambda(Layer):
    """Computes `function(inputs, **arguments)` (keras.layers.Lambda).

    Only code makes one, such as a custom layer's: it isn't in the table of classes, so no file can name it, and a model
    with one among its layers isn't saved. `output_shape` has no effect, as shapes follow from the function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        output_shape: Any = None,
        mask: Any = None,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not callable(function):
            raise ConfigError(f"Lambda: function is {short_repr(function)}, expected a function of tensors")
        self.function = function
        self.mask = mask
        self.arguments = dict(arguments or {})
        self._passed = frozenset({"mask", "training"} & set(inspect.signature(function).parameters))
        self.supports_masking = mask is not None  # type: ignore[misc]  # as in Keras, each object has its own

    def call(self, inputs: Any, mask: Any = None, training: bool | None = None) -> Any:
        """Computes the function, with `mask` and `training` if it has such parameters."""
        given = {"mask": mask, "training": training}
        return self.function(inputs, **{**self.arguments, **{name: given[name] for name in self._passed}})

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the output, by the option `mask`."""
        return self.mask(inputs, mask) if callable(self.mask) else self.mask

    def get_config(self) -> dict[str, Any]:
        """Raises ConfigError: a file holds no code."""
        raise ConfigError(
            f"layer '{self.name}' (Lambda): a config can't hold its Python function; expected a class of its own, with "
            "the function as `call`"
        )
