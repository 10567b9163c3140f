"""Random functional graphs, built by one function in stock Keras or in layergraph: the authoring style is the same.

`random_model(api, seed)` makes the same decisions for both, since they depend on shapes alone. It mixes shared layers,
nested models, several inputs and outputs, merges, masks, sequences and images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: What the graphs are made of: length of a vector, sequence and image sizes stay small, so that thousands run.
WIDTHS = (2, 3, 4, 6)


@dataclass
class Pool:
    """The tensors made so far, and the layers that can be called again, with the shape they were built for."""

    tensors: list[Any]
    reusable: list[tuple[Any, tuple[Any, ...]]]


class GraphMaker:
    """Grows a random graph with the classes of `api` (a module with `layers`, `Input`, `Model` and `Sequential`)."""

    def __init__(self, api: Any, seed: int, prefix: str = "n") -> None:
        self.api = api
        self.rng = np.random.default_rng(seed)
        self.prefix = prefix
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"{self.prefix}{self.count}"

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    # --- the parts ----------------------------------------------------------------------------------------------------

    def input(self, kind: str) -> Any:
        width = self.pick(WIDTHS)
        shapes = {
            "vector": (width,),
            "sequence": (5, width),
            "open": (None, width),
            "image": (7, 6, width),
            "ids": (5,),
        }
        dtype = "int32" if kind == "ids" else "float32"
        return self.api.Input(shapes[kind], dtype=dtype, name=self.name())

    def layer(self, shape: tuple[Any, ...]) -> Any:
        """A random layer that takes a float tensor of `shape` (with rows)."""
        make = self.api.layers
        units = self.pick(WIDTHS)
        activation = self.pick(("linear", "relu", "tanh", "sigmoid", "softmax", "elu", "gelu"))
        open_axis = any(size is None for size in shape[1:])
        short = any(size is not None and size < 3 for size in shape[1:-1])
        name = self.name()
        choices = [
            lambda: make.Dense(units, activation=activation, name=name),
            lambda: make.Activation(activation, name=name),
            lambda: make.BatchNormalization(name=name),
            lambda: make.Dropout(0.5, name=name),
            lambda: make.LeakyReLU(name=name),
        ]
        if len(shape) == 2:
            choices += [
                lambda: make.RepeatVector(3, name=name),
                lambda: make.Reshape((-1, 1), name=name),
                lambda: make.Reshape((1, shape[1]), name=name),
            ]
        if len(shape) == 3:
            choices += [
                lambda: make.LSTM(units, return_sequences=self.flag(), go_backwards=self.flag(), name=name),
                lambda: make.Bidirectional(make.LSTM(units, return_sequences=self.flag()), name=name),
                lambda: make.TimeDistributed(make.Dense(units, activation=activation), name=name),
                lambda: make.Conv1D(units, 3, padding=self.pick(("same", "causal")), name=name),
                lambda: make.GlobalMaxPooling1D(name=name),
                lambda: make.GlobalAveragePooling1D(name=name),
                lambda: make.ZeroPadding1D((1, 2), name=name),
            ]
            if not open_axis:
                choices += [lambda: make.Flatten(name=name), lambda: make.Permute((2, 1), name=name)]
                if not short:
                    choices += [
                        lambda: make.MaxPooling1D(2, padding=self.pick(("same", "valid")), name=name),
                        lambda: make.AveragePooling1D(2, name=name),
                    ]
        if len(shape) == 4:
            choices += [
                lambda: make.Conv2D(units, self.pick((1, 2, 3)), padding="same", activation=activation, name=name),
                lambda: make.GlobalAveragePooling2D(name=name),
                lambda: make.GlobalMaxPooling2D(name=name),
                lambda: make.Flatten(name=name),
                lambda: make.ZeroPadding2D(1, name=name),
                lambda: make.Permute((2, 1, 3), name=name),
                lambda: make.Reshape((shape[1], -1), name=name),
            ]
            if not short:
                choices += [
                    lambda: make.MaxPooling2D(2, strides=self.pick((1, 2)), padding="same", name=name),
                    lambda: make.Conv2D(units, 3, strides=2, padding=self.pick(("same", "valid")), name=name),
                    lambda: make.AveragePooling2D(2, name=name),
                ]
        return self.pick(choices)()

    def flag(self) -> bool:
        return bool(self.rng.integers(2))

    def merge(self, pool: Pool) -> Any | None:
        first = self.pick(pool.tensors)
        # Two unknown lengths may differ once data comes: such a tensor only meets itself.
        open_axis = any(size is None for size in first.shape[1:])
        twins = [first] if open_axis else [t for t in pool.tensors if tuple(t.shape) == tuple(first.shape)]
        others = [self.pick(twins) for _ in range(int(self.rng.integers(1, 3)))]
        kind = self.pick(("Add", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Subtract"))
        if kind == "Subtract":
            others = others[:1]
        return getattr(self.api.layers, kind)(name=self.name())([first, *others])

    def submodel(self, shape: tuple[Any, ...], depth: int) -> Any:
        """A model of a few random layers, itself sometimes nested, for a float tensor of `shape`."""
        name = self.name()
        if self.flag():
            stack: list[Any] = [self.api.Input(shape[1:], name=self.name())]
            current = shape
            for _ in range(int(self.rng.integers(1, 3))):
                layer = self.api.layers.Dense(self.pick(WIDTHS), name=self.name())
                stack.append(layer)
                current = (*current[:-1], layer.units)
            return self.api.Sequential(stack, name=name)
        entry = self.api.Input(shape[1:], name=self.name())
        pool = Pool([entry], [])
        for _ in range(int(self.rng.integers(1, 4))):
            self.grow(pool, depth - 1)
        return self.api.Model(entry, pool.tensors[-1], name=name)

    # --- the graph ----------------------------------------------------------------------------------------------------

    def grow(self, pool: Pool, depth: int) -> None:
        """Adds one call to the pool."""
        kind = self.rng.random()
        if kind < 0.2 and len(pool.tensors) > 1:
            pool.tensors.append(self.merge(pool))
            return
        if kind < 0.4 and pool.reusable:
            layer, shape = self.pick(pool.reusable)
            fitting = [t for t in pool.tensors if tuple(t.shape) == shape]
            pool.tensors.append(layer(self.pick(fitting)))
            return
        tensor = self.pick(pool.tensors)
        shape = tuple(tensor.shape)
        layer = self.submodel(shape, depth) if kind < 0.55 and depth > 0 else self.layer(shape)
        pool.tensors.append(layer(tensor))
        pool.reusable.append((layer, shape))

    def model(self) -> Any:
        inputs = [
            self.input(self.pick(("vector", "sequence", "open", "image", "ids")))
            for _ in range(int(self.rng.integers(1, 4)))
        ]
        pool = Pool([], [])
        for tensor in inputs:
            if tensor.dtype == "int32":
                mask = self.flag()
                tensor = self.api.layers.Embedding(7, self.pick(WIDTHS), mask_zero=mask, name=self.name())(tensor)
            pool.tensors.append(tensor)
        for _ in range(int(self.rng.integers(3, 12))):
            self.grow(pool, depth=2)
        outputs = [pool.tensors[-1]]
        outputs += [self.pick(pool.tensors) for _ in range(int(self.rng.integers(0, 3)))]
        return self.api.Model(inputs, outputs, name="random")


def random_model(api: Any, seed: int) -> Any:
    """The graph of that seed, in stock Keras (`keras`) or here (`layergraph`)."""
    return GraphMaker(api, seed).model()


def random_inputs(model: Any, seed: int, rows: int = 3) -> list[np.ndarray]:
    """Data for the inputs of a model of either kind."""
    rng = np.random.default_rng(seed + 1)
    arrays = []
    for tensor in model.inputs:
        shape = (rows, *(4 if size is None else size for size in tensor.shape[1:]))
        if "int" in str(tensor.dtype):
            arrays.append(rng.integers(0, 7, shape).astype("int32"))
        else:
            arrays.append(rng.standard_normal(shape).astype("float32"))
    return arrays
