"""A custom layer that holds its layers by lists, a dict and several attributes, for any Keras."""

from __future__ import annotations

from typing import Any


def block_of(keras: Any) -> Any:
    """The class, with `keras` or a package that has its names."""

    class Block(keras.layers.Layer):  # type: ignore[misc]
        """Layers are made, added and set in different orders, as in keras-tcn."""

        def __init__(self, **kwargs: Any) -> None:
            self.norms: list[Any] = []
            super().__init__(**kwargs)
            self.last = None
            self.steps: list[Any] = []
            self.first = None

        def build(self, input_shape: Any) -> None:
            self.steps = []
            self.named = {
                "z": keras.layers.Dense(4, activation="tanh", name="z"),
                "a": keras.layers.Dense(4, activation="tanh", name="a"),
            }
            self.first = keras.layers.Dense(4, activation="tanh", name="first")
            for number in range(2):
                self.steps.append(keras.layers.Dense(4, activation="tanh", name=f"step{number}"))
                self.norms.append(keras.layers.LayerNormalization(name=f"norm{number}"))
                self.steps.append(self.norms[-1])
                setattr(self, f"step_{number}", self.steps[-2])
            self.last = keras.layers.Dense(4, name="last")
            super().build(input_shape)

        def call(self, x: Any) -> Any:
            x = self.named["a"](self.named["z"](self.first(x)))
            for step in self.steps:
                x = step(x)
            return self.last(x)

    return Block
