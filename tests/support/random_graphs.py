"""Random functional graphs, built by one function in stock Keras or in layergraph: the authoring style is the same.

`random_model(api, seed)` makes the same decisions for both, since they depend on shapes alone. It mixes shared layers,
nested models, several inputs and outputs, merges, masks, sequences and images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Names that mean something elsewhere, or that no identifier is. Keras 3 takes no slash,
#: and on torch no dot.
ODD_NAMES = ("forward", "self", "training", "weight", "a b", "1x1", "bi-lstm", "größe", "{0}", "%s", "a:0")

#: What the graphs are made of: length of a vector, sequence and image sizes stay small, so that thousands run.
WIDTHS = (2, 3, 4, 6)


@dataclass
class Pool:
    """The tensors made so far, and the layers that can be called again, with the shape they were built for."""

    tensors: list[Any]
    reusable: list[tuple[Any, tuple[Any, ...]]]


class GraphMaker:
    """Grows a random graph with the classes of `api` (a module with `layers`, `Input`, `Model` and `Sequential`)."""

    def __init__(self, api: Any, seed: int, prefix: str = "n", *, rich: bool = False) -> None:
        self.api = api
        self.rng = np.random.default_rng(seed)
        self.prefix = prefix
        self.count = 0
        #: Whether there are dicts and nests, operations, states as arguments and odd names, too.
        self.rich = rich
        self.odd_names = list(ODD_NAMES)
        #: Submodels whose input is a dict.
        self.takes_dict: set[int] = set()
        #: Keeps them alive, so that no other has their identity.
        self.kept: list[Any] = []

    def name(self) -> str:
        self.count += 1
        if self.rich and self.odd_names and self.rng.random() < 0.15:
            return self.odd_names.pop(int(self.rng.integers(len(self.odd_names))))
        return f"{self.prefix}{self.count}"

    def call(self, layer: Any, tensor: Any) -> Any:
        """The layer's output, or one of its outputs."""
        output = layer({"left": tensor} if id(layer) in self.takes_dict else tensor)
        while isinstance(output, (list, tuple, dict)):
            output = self.pick([output[key] for key in sorted(output)] if isinstance(output, dict) else list(output))
        return output

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    # The parts.

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
        if not self.rich:
            return self.api.Model(entry, pool.tensors[-1], name=name)
        by_name = self.flag()
        model = self.api.Model({"left": entry} if by_name else entry, self.nested(pool.tensors), name=name)
        if by_name:
            self.takes_dict.add(id(model))
        self.kept.append(model)
        return model

    def nested(self, tensors: list[Any]) -> Any:
        """The last tensor alone, or it and others in a list, a dict, or one in the other; a tensor may come twice."""
        some = [tensors[-1], *(self.pick(tensors) for _ in range(int(self.rng.integers(1, 4))))]
        kind = self.rng.integers(5)
        if kind == 0:
            return some
        if kind == 1:
            return {f"out {len(some) - i}": tensor for i, tensor in enumerate(some)}
        if kind == 2:
            return [some[0], {"b": some[1], "a": some[1:]}]
        if kind == 3:
            return {"z": some[0], "y": [some[1], {"x": some[-1]}]}
        return some[0]

    def operation(self, pool: Pool) -> Any:
        """An operator between tensors or a number, a slice, or a recurrent layer with states that are tensors."""
        tensor = self.pick(pool.tensors)
        shape = tuple(tensor.shape)
        twins = [tensor] if None in shape[1:] else [t for t in pool.tensors if tuple(t.shape) == shape]
        other = self.pick(twins)
        units = self.pick(WIDTHS)
        make = self.api.layers
        choices = [
            lambda: tensor + other,
            lambda: tensor * 0.5,
            lambda: 1.0 - tensor,
            lambda: tensor - other,
            lambda: tensor[..., :1],
        ]
        if len(shape) == 3:
            state = make.Dense(units, name=self.name())(make.GlobalAveragePooling1D(name=self.name())(tensor))
            choices += [
                lambda: tensor[:, -1],
                lambda: make.GRU(units, name=self.name())(tensor, initial_state=state),
                lambda: make.LSTM(units, return_sequences=True, name=self.name())(tensor, initial_state=[state, state]),
                lambda: make.Attention(name=self.name())([tensor, other]),
                lambda: make.MultiHeadAttention(2, 2, name=self.name())(tensor, value=other),
            ]
        return self.pick(choices)()

    # The graph.

    def grow(self, pool: Pool, depth: int) -> None:
        """Adds one call to the pool."""
        kind = self.rng.random()
        if kind < 0.2 and len(pool.tensors) > 1:
            pool.tensors.append(self.merge(pool))
            return
        if kind < 0.4 and pool.reusable:
            layer, shape = self.pick(pool.reusable)
            fitting = [t for t in pool.tensors if tuple(t.shape) == shape]
            pool.tensors.append(self.call(layer, self.pick(fitting)))
            return
        if self.rich and kind > 0.85:
            pool.tensors.append(self.operation(pool))
            return
        tensor = self.pick(pool.tensors)
        shape = tuple(tensor.shape)
        layer = self.submodel(shape, depth) if kind < 0.55 and depth > 0 else self.layer(shape)
        pool.tensors.append(self.call(layer, tensor))
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
        if self.rich:
            return self.api.Model(self.grouped(inputs), self.nested(pool.tensors), name="random")
        return self.api.Model(inputs, outputs, name="random")

    def grouped(self, inputs: list[Any]) -> Any:
        """The inputs, and perhaps one that nothing needs, in a list, a dict, or one in the other."""
        if self.flag():
            inputs = [*inputs, self.input("vector")]
        kind = self.rng.integers(4)
        if kind == 0:
            return {f"in {len(inputs) - i}": tensor for i, tensor in enumerate(inputs)}
        if kind == 1:
            return [inputs[0], {"q": inputs[1:]}] if len(inputs) > 1 else {"only": inputs}
        return inputs


def random_model(api: Any, seed: int, *, rich: bool = False) -> Any:
    """The graph of that seed, in stock Keras (`keras`) or here (`layergraph`); a `rich` one has more kinds of parts."""
    return GraphMaker(api, seed, rich=rich).model()


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
