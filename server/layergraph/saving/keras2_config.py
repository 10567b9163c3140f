"""Models -> the configs that tf.keras 2.15 writes, which Keras 3 reads as well.

Not every model can be said so: operations, tensors as keyword arguments and younger classes can't. And some mean other
numbers in Keras 2 than in Keras 3. Both is told beside the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from layergraph.config.spec import NO_MASK
from layergraph.config.values import LAYER_KEYS
from layergraph.functional.graph import Graph
from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.functional.model import Model
from layergraph.functional.node import Node
from layergraph.functional.structure import Structure, flatten, map_structure
from layergraph.functional.tensor import Tensor
from layergraph.initializers import LATER_INITIALIZER_OPTIONS
from layergraph.saving.keras2_options import (
    ABSENT_LAYERS,
    ACTIVATIONS,
    LATER_OPTIONS,
    OLD_NAMES,
)
from layergraph.saving.layouts import class_name

#: Layers that combine masks, each generation in its own way.
_MERGING = frozenset({"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"})
_MODULES = {"Sequential": "keras", "Functional": "keras.src.models"}
_RECURRENT = frozenset({"SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional"})


@dataclass(slots=True)
class Keras2Model:
    """A model as tf.keras 2.15 writes it.

    config           {"class_name": ..., "config": ...}
    unsayable        what can't be said so: without it, the config is the model's
    differs          where Keras 3 has other numbers for the same config, as far as `of_keras2` tells
    of_keras2        whether the numbers of those are Keras 2's, for each
    """

    config: dict[str, Any] = field(default_factory=dict)
    unsayable: list[str] = field(default_factory=list)
    keras2_only: list[str] = field(default_factory=list)
    keras3_only: list[str] = field(default_factory=list)


def keras2_model(model: Model) -> Keras2Model:
    """The model's config, and what keeps it from meaning the same in both generations."""
    writer = _Writer()
    writer.result.config = writer.model(model)
    return writer.result


class _Writer:
    def __init__(self) -> None:
        self.result = Keras2Model()

    def model(self, model: Model) -> dict[str, Any]:
        """A model, the whole or one in it."""
        head: dict[str, Any] = {"name": model.name, "trainable": model.trainable}
        if model.keras_class_name == "Sequential":
            if not model.built:
                self.result.unsayable.append(f"model '{model.name}' has no input shape")
                return {"class_name": "Sequential", "config": head}
            inputs = [tensor.history.layer for tensor in model.inputs]
            config = {**head, "layers": [self.layer(layer) for layer in [*inputs, *model.layers]]}
            return {"class_name": "Sequential", "config": config}
        graph = model.graph
        layers = [
            {
                **self.layer(layer),
                "name": layer.name,
                "inbound_nodes": [
                    call
                    for node in graph.nodes_of(layer)
                    if not node.is_input
                    for call in [self._call(node, graph)] * _copies(layer)
                ],
            }
            for layer in graph.layers
        ]
        ends = {"input_layers": _end(graph.inputs, graph), "output_layers": _end(graph.outputs, graph)}
        return {"class_name": "Functional", "config": {**head, "layers": layers, **ends}}

    def layer(self, layer: Layer) -> dict[str, Any]:
        """A layer, without its calls."""
        if isinstance(layer, Model):
            return self.model(layer)
        kind = class_name(layer)
        if isinstance(layer.get_config().get("dtype"), dict):
            self.result.unsayable.append(f"layer '{layer.name}' is quantised")
        if layer.is_operation or kind in ABSENT_LAYERS:
            self.result.unsayable.append(f"{kind} (layer '{layer.name}') is unknown to it")
        config = dict(layer.get_config())
        later, old_names = LATER_OPTIONS.get(kind, ()), OLD_NAMES.get(kind, {})
        written: dict[str, Any] = {}
        for key, value in config.items():
            if key in later:
                if value not in (None, False, "auto", getattr(type(layer)._options.get(key), "default", None)):
                    self.result.unsayable.append(f"{kind} (layer '{layer.name}') has no option '{key}'")
                continue
            written[old_names.get(key, key)] = self._option(layer, key, value)
        if isinstance(layer, InputLayer):
            written = {
                key: written[key]
                for key in ("batch_input_shape", "dtype", "sparse", "ragged", "name")
                if key in written
            }
        return {"class_name": kind, "config": written}

    def _option(self, layer: Layer, key: str, value: Any) -> Any:
        inner = getattr(layer, key, None)
        if key in LAYER_KEYS and inner is not None:
            several = isinstance(inner, (list, tuple))
            return [self._inner(one) for one in inner] if several else self._inner(inner)
        if key.endswith("activation"):
            return self._activation(layer, value)
        if isinstance(value, Mapping) and "class_name" in value:
            config = value.get("config")
            if isinstance(config, Mapping):
                config = {k: v for k, v in config.items() if k not in LATER_INITIALIZER_OPTIONS}
            return {"class_name": value["class_name"], "config": config}
        return value

    def _inner(self, layer: Layer) -> dict[str, Any]:
        """A layer that another holds. Keras 3 finds its class only where a module tells; 2.15 has the same modules."""
        described = self.layer(layer)
        module = _MODULES.get(described["class_name"], "keras.layers")
        return {"module": module, **described, "registered_name": None}

    def _activation(self, layer: Layer, value: Any) -> Any:
        inner = getattr(layer, "activation", None)
        if isinstance(inner, Layer) and isinstance(value, Mapping) and not inner.own_weights:
            return self._inner(inner)
        if value is None:
            return None
        if value == "keras2_hard_sigmoid":
            self.result.keras2_only.append(f"hard_sigmoid of layer '{layer.name}'")
            return "hard_sigmoid"
        if value == "hard_sigmoid":
            self.result.keras3_only.append(f"hard_sigmoid of layer '{layer.name}'")
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self.result.unsayable.append(f"the activation of layer '{layer.name}' is unknown to it")
            return value
        return ACTIVATIONS[value]

    def _call(self, node: Node, graph: Graph) -> list[Any]:
        """One call: [[layer, node, tensor, keyword arguments], ...] for each tensor of its first argument."""
        layer = node.layer
        kind = class_name(layer)
        label = f"a call of layer '{layer.name}'"
        kwargs = {} if node.training is None else {"training": node.training}
        for name, value in node.kwargs.items():
            if any(isinstance(leaf, Tensor) for leaf in flatten(value)):
                self.result.unsayable.append(f"{label} takes tensors as '{name}'")
            if any(leaf is NO_MASK for leaf in flatten(value)):
                self.result.keras2_only.append(f"a mask of None for layer '{layer.name}'")
            kwargs[name] = map_structure(lambda leaf: None if leaf is NO_MASK else leaf, value)
        first = node.args[0] if node.args else None
        tensors = [first] if isinstance(first, Tensor) else list(first) if isinstance(first, (list, tuple)) else []
        if len(node.args) > 1:
            # Beside its input, a recurrent layer takes its first states: in one list.
            states = flatten(list(node.args[1:]))
            tensors += states
            if kind not in _RECURRENT or isinstance(first, (list, tuple)):
                self.result.unsayable.append(f"{label} has {len(node.args)} arguments")
            else:
                self.result.keras2_only.append(f"states of layer '{layer.name}'")
        if (
            not tensors
            or not all(isinstance(tensor, Tensor) for tensor in tensors)
            or (isinstance(first, (list, tuple)) and len(first) < 2)
        ):
            self.result.unsayable.append(f"{label} takes no plain list of tensors")
            return []
        if kind in _MERGING and any(tensor.mask_shape is not None for tensor in tensors):
            rule = getattr(layer, "mask_rule", "keras3")
            only = self.result.keras3_only if rule == "keras3" else self.result.keras2_only
            only.append(f"masks of layer '{layer.name}'")
        return [[*_history(tensor, graph), kwargs] for tensor in tensors]


def _copies(layer: Layer) -> int:
    """How often each call of a layer is written.

    tf.keras 2.15 counts a model's own building as its call 0, Keras 3 doesn't. Where each call of a model is written
    twice, the odd numbers mean the same in both.
    """
    return 2 if isinstance(layer, Model) else 1


def _history(tensor: Tensor, graph: Graph) -> list[Any]:
    layer, node_index, tensor_index = tensor.history
    number = graph.numbers[layer.inbound_nodes[node_index]]
    return [layer.name, 2 * number + 1 if isinstance(layer, Model) else number, tensor_index]


def _end(structure: Structure, graph: Graph) -> Structure:
    if isinstance(structure, Tensor):
        return _history(structure, graph)
    if isinstance(structure, Mapping):
        return {key: _end(item, graph) for key, item in structure.items()}
    return [_end(item, graph) for item in structure]
