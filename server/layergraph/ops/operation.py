"""Operations: calls of keras.ops in a graph."""

from __future__ import annotations

from typing import Any, ClassVar

from layergraph.functional.layer import Layer


class Operation(Layer):
    """A node that computes a keras.ops function. Static arguments are options, tensors are arguments of the call.

    It has no weights, passes no masks, and isn't among a model's `layers`.
    """

    is_operation: ClassVar[bool] = True
    autocast: ClassVar[bool] = False

    def get_config(self) -> dict[str, Any]:
        """Name and static arguments; an operation has neither `trainable` nor a dtype policy."""
        config = super().get_config()
        own = type(self)._options.keys() - Layer._options.keys()
        return {"name": config["name"]} | {key: config[key] for key in config if key in own}
