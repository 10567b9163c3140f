"""Configs of models in Keras 2's format.

A model from a Keras 2 file is written with the configs and calls of that file, whatever its release. Other models are
written as by tf.keras 2.15, in the parts of its format that Keras 3 also loads: operations, tensors as keyword
arguments and newer classes can't be written so, and some layers compute other numbers in Keras 2 than in Keras 3. Both
kinds of problems are returned with the config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layergraph.config.spec import NO_MASK
from layergraph.config.values import LAYER_KEYS
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.graph import Graph
from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten, map_structure
from layergraph.functional.node import Node
from layergraph.functional.stored_form import StoredForm
from layergraph.functional.tensor import Tensor
from layergraph.initializers import LATER_INITIALIZER_OPTIONS
from layergraph.layers.hub.table import LAYERS as HUB_LAYERS
from layergraph.layers.preprocessing.categorical import Hashing
from layergraph.layers.preprocessing.lookup import Lookup
from layergraph.layers.preprocessing.text_vectorization import TextVectorization
from layergraph.saving.keras2.options import ABSENT_LAYERS, ACTIVATIONS, LATER_OPTIONS, OLD_NAMES
from layergraph.saving.layouts import class_name

#: The last release, for which models are written that come from no other.
KERAS2_VERSION = "2.15.0"
#: Layers that combine masks, which Keras 2 and 3 do differently.
_MERGING = frozenset({"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"})
_MODULES = {"Sequential": "keras", "Functional": "keras.src.models"}
_RECURRENT = frozenset({"SimpleRNN", "LSTM", "GRU", "RNN", "Bidirectional"})


@dataclass(slots=True)
class Keras2Model:
    """A model in tf.keras 2.15's format.

    config           {"class_name": ..., "config": ...}
    unsupported      problems: parts of the model that the format can't express
    keras2_only      parts of the model whose numbers are those of Keras 2, and differ in Keras 3 with the same config
    keras3_only      parts of the model whose numbers are those of Keras 3, and differ in Keras 2 with the same config
    """

    config: dict[str, Any] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    keras2_only: list[str] = field(default_factory=list)
    keras3_only: list[str] = field(default_factory=list)


def keras2_model(model: Functional, *, as_stored: bool = False) -> Keras2Model:
    """Returns the model's config, and what keeps it from meaning the same in both generations.

    With `as_stored`, parts that came from a Keras 2 file are written as in that file, even if Keras 3 can't load them.
    """
    writer = _Writer(as_stored=as_stored)
    writer.result.config = writer.model(model)
    # The current compile arguments are written beside the config.
    writer.result.config.pop("compile_config", None)
    return writer.result


def checked_config(model: Functional, suffix: str, problems: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a model that is saved for Keras 2.

    Raises ConfigError that lists what such a file can't store, and any other `problems` found before.
    """
    written = keras2_model(model, as_stored=True)
    problems = [*written.unsupported, *(f"{what}, computed as in Keras 3" for what in written.keras3_only), *problems]
    if problems:
        listed = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ConfigError(f"save: a {suffix} file of Keras 2 can't store the model: {listed}; save it for Keras 3")
    return written.config


def file_order(model: Functional) -> Sequence[Layer]:
    """The layers of a model, with inputs and operations, in the order of the file that it was loaded from."""
    stored = model.stored_form
    layers: Sequence[Layer] = model.graph.layers if model.built else model.layers
    if stored is None or set(stored.layers) != set(layers):
        return layers
    return stored.layers


def file_orders(model: Functional) -> dict[Functional, list[Layer]]:
    """For a model and each nested model, the layers without operations, in the order of the file."""
    orders = {}
    for one in (one for one in model.walk_layers() if isinstance(one, Functional)):
        own = set(one.layers)
        orders[one] = [layer for layer in file_order(one) if layer in own]
    return orders


class _Writer:
    def __init__(self, *, as_stored: bool) -> None:
        self.result = Keras2Model()
        self._as_stored = as_stored

    def model(self, model: Functional) -> dict[str, Any]:
        """The serialised form of a model, whole or nested."""
        if model.class_form is not None:
            self.result.unsupported.append(
                f"KerasHub's {model.keras_class_name} (model '{model.name}') isn't supported"
            )
        content, head = self._head(model)
        if model.keras_class_name == "Sequential":
            layers = [self.layer(layer) for layer in [*self._sequence_inputs(model), *model.layers]]
            return {**content, "config": layers if head is None else {**head, "layers": layers}}
        graph = model.graph
        layers = [
            {
                **self.layer(layer),
                "name": layer.name,
                "inbound_nodes": [
                    call
                    for node in graph.nodes_of(layer)
                    if not node.is_input
                    for call in [self._call(node, graph)] * self._copies(layer)
                ],
            }
            for layer in (file_order(model) if self._as_stored else graph.layers)
        ]
        ends = {"input_layers": self._ends(graph.inputs, graph), "output_layers": self._ends(graph.outputs, graph)}
        return {**content, "config": {**(head or {}), "layers": layers, **ends}}

    def _head(self, model: Functional) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """A model's object without its config, and its config without layers; None if that is only the layers."""
        stored = model.stored_form if self._as_stored else None
        if stored is None:
            return {"class_name": model.keras_class_name}, {"name": model.name, "trainable": model.trainable}
        content = dict(stored.content)
        config = content.pop("config")
        return content, _written_over(config, model, stored) if isinstance(config, Mapping) else None

    def _sequence_inputs(self, model: Functional) -> list[Layer]:
        """The InputLayer of a Sequential, unless its file has the shape in another place, or not at all."""
        if self._as_stored and model.stored_form is not None:
            return [layer for layer in model.stored_form.layers if isinstance(layer, InputLayer) and layer.stored_form]
        if not model.built:
            self.result.unsupported.append(f"model '{model.name}' has no input shape")
            return []
        return [tensor.history.layer for tensor in model.inputs]

    def layer(self, layer: Layer) -> dict[str, Any]:
        """The serialised form of a layer, without its calls."""
        if isinstance(layer, Functional):
            return self.model(layer)
        if self._as_stored and layer.stored_form is not None and layer.stored_form.holds(layer):
            return self._stored_layer(layer, layer.stored_form)
        kind = class_name(layer)
        if isinstance(layer.get_config().get("dtype"), dict):
            self.result.unsupported.append(f"layer '{layer.name}' is quantised")
        if layer.is_operation or kind in ABSENT_LAYERS or kind in HUB_LAYERS:
            self.result.unsupported.append(f"{kind} (layer '{layer.name}') isn't supported")
        config = dict(layer.get_config())
        later, old_names = LATER_OPTIONS.get(kind, ()), OLD_NAMES.get(kind, {})
        written: dict[str, Any] = {}
        for key, value in config.items():
            if key in later:
                if value not in (None, False, "auto", getattr(type(layer)._options.get(key), "default", None)):
                    self.result.unsupported.append(f"{kind} (layer '{layer.name}') has no option '{key}'")
                continue
            written[old_names.get(key, key)] = self._option(layer, key, value)
        if isinstance(layer, InputLayer):
            written = {
                key: written[key]
                for key in ("batch_input_shape", "dtype", "sparse", "ragged", "name")
                if key in written
            }
        return {"class_name": kind, "config": written}

    def _stored_layer(self, layer: Layer, stored: StoredForm) -> dict[str, Any]:
        config = _written_over(stored.content["config"], layer, stored)
        for key in config:
            if key in LAYER_KEYS or key.endswith("activation"):
                config[key] = self._stored_inner(layer, config[key], getattr(layer, key, None))
        lookup = layer.lookup if isinstance(layer, TextVectorization) else layer
        if isinstance(lookup, Lookup) and config.get("vocabulary") is None:
            config |= _vocabulary(lookup)
        elif isinstance(lookup, Lookup) and config.get("has_input_vocabulary") is False:
            # Adapted, and read from a SavedModel, which has the terms beside the config. In an .h5 they are an option.
            config["has_input_vocabulary"] = True
        if isinstance(layer, Hashing) and layer.salt is None and config.get("salt") is not None:
            # TensorFlow 2.3 to 2.5 write a key for a layer without one, and hash with it when they open the file.
            config["salt"] = None
        return {**stored.content, "config": config}

    def _stored_inner(self, layer: Layer, content: Any, inner: Any) -> Any:
        """Layers in a layer's config, whose `trainable` may have changed."""
        if isinstance(content, list) and isinstance(inner, (list, tuple)) and len(content) == len(inner):
            return [self._stored_inner(layer, *pair) for pair in zip(content, inner, strict=True)]
        if not isinstance(inner, Layer) or not isinstance(content, Mapping):
            return content
        if inner.stored_form is not None:
            # A layer that is also in a model has its name beside its config there.
            return {key: value for key, value in self.layer(inner).items() if key != "name" or key in content}
        # Bidirectional computes with copies of its layers, which have other names. They are frozen with it.
        config = content.get("config")
        if not layer.trainable or not isinstance(config, Mapping) or inner.trainable == config.get("trainable", True):
            return content
        return {**content, "config": {**config, "trainable": inner.trainable}}

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
        """A layer inside of another. Keras 3 needs a module to find its class; 2.15 has the same modules."""
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
            self.result.unsupported.append(f"the activation of layer '{layer.name}' isn't supported")
            return value
        return ACTIVATIONS[value]

    def _call(self, node: Node, graph: Graph) -> list[Any]:
        """One call: a list of [layer, node, tensor, keyword arguments], one for each tensor of its first argument."""
        if self._as_stored and node.stored is not None:
            written: list[Any] = self._stored_call(node.stored, graph)
            return written
        layer = node.layer
        kind = class_name(layer)
        label = f"a call of layer '{layer.name}'"
        kwargs = {} if node.training is None else {"training": node.training}
        for name, value in node.kwargs.items():
            if any(isinstance(leaf, Tensor) for leaf in flatten(value)):
                self.result.unsupported.append(f"{label} takes tensors as '{name}'")
            if any(leaf is NO_MASK for leaf in flatten(value)):
                self.result.keras2_only.append(f"a mask of None for layer '{layer.name}'")
            kwargs[name] = map_structure(lambda leaf: None if leaf is NO_MASK else leaf, value)
        first = node.args[0] if node.args else None
        tensors = [first] if isinstance(first, Tensor) else list(first) if isinstance(first, (list, tuple)) else []
        if len(node.args) > 1:
            # A recurrent layer takes its initial states after its input, in one list.
            states = flatten(list(node.args[1:]))
            tensors += states
            if kind not in _RECURRENT or isinstance(first, (list, tuple)):
                self.result.unsupported.append(f"{label} has {len(node.args)} arguments")
            else:
                self.result.keras2_only.append(f"states of layer '{layer.name}'")
        if (
            not tensors
            or not all(isinstance(tensor, Tensor) for tensor in tensors)
            or (isinstance(first, (list, tuple)) and len(first) < 2)
        ):
            self.result.unsupported.append(f"{label} takes no plain list of tensors")
            return []
        if kind in _MERGING and any(tensor.mask_shape is not None for tensor in tensors):
            rule = getattr(layer, "mask_rule", "keras3")
            only = self.result.keras3_only if rule == "keras3" else self.result.keras2_only
            only.append(f"masks of layer '{layer.name}'")
        return [[*self._history(tensor, graph), kwargs] for tensor in tensors]

    def _stored_call(self, value: Any, graph: Graph) -> Any:
        """A call as in its file, with the current names and indices of the tensors."""
        if isinstance(value, Tensor):
            return self._history(value, graph)
        if isinstance(value, tuple):
            tensor, kwargs = value
            return [*self._history(tensor, graph), self._stored_call(kwargs, graph)]
        if isinstance(value, list):
            return [self._stored_call(item, graph) for item in value]
        if isinstance(value, Mapping):
            return {key: self._stored_call(item, graph) for key, item in value.items()}
        return value

    def _copies(self, layer: Layer) -> int:
        """How often each call of a layer is written.

        tf.keras 2.15 counts the building of a model as its call 0, Keras 3 doesn't. If each call of a model is written
        twice, the odd indices mean the same in both.
        """
        return 2 if isinstance(layer, Functional) and self._numbers_as_stored(layer) is None else 1

    def _numbers_as_stored(self, layer: Layer) -> int | None:
        """The index of a model's first call, if calls are counted as in the file that it was loaded from."""
        return layer.stored_form.first_call if self._as_stored and layer.stored_form is not None else None

    def _history(self, tensor: Tensor, graph: Graph) -> list[Any]:
        layer, node_index, tensor_index = tensor.history
        number = graph.numbers[layer.inbound_nodes[node_index]]
        if isinstance(layer, Functional):
            first = self._numbers_as_stored(layer)
            number = 2 * number + 1 if first is None else first + number
        return [layer.name, number, tensor_index]

    def _ends(self, structure: Structure, graph: Graph) -> Structure:
        """Inputs or outputs. Keras 2 writes a single one as a list of one, which Keras 3 would load as a list."""
        end = self._end(structure, graph)
        return [end] if self._as_stored and isinstance(structure, Tensor) else end

    def _end(self, structure: Structure, graph: Graph) -> Structure:
        if isinstance(structure, Tensor):
            return self._history(structure, graph)
        if isinstance(structure, Mapping):
            return {key: self._end(item, graph) for key, item in structure.items()}
        return [self._end(item, graph) for item in structure]


def _written_over(config: Mapping[str, Any], layer: Layer, stored: StoredForm) -> dict[str, Any]:
    """A stored config with the layer's current `name` and `trainable`, if they have changed."""
    written = dict(config)
    if layer.name != stored.name and "name" in config:
        written["name"] = layer.name
    if layer.trainable != stored.trainable:
        written["trainable"] = layer.trainable
    return written


def _vocabulary(lookup: Lookup) -> dict[str, Any]:
    """The vocabulary, which a `.keras` file stores beside the config, as options, which an `.h5` can store."""
    if lookup.vocabulary is None:
        return {}
    terms: dict[str, Any] = {"vocabulary": list(lookup.vocabulary), "has_input_vocabulary": True}
    weights = next((weight.numpy().tolist() for weight in lookup.own_weights if weight.name == "idf_weights"), None)
    # Padded weights have zeros at the end; before those of the terms are the weights of reserved ones.
    return (
        terms
        if weights is None
        else {**terms, "idf_weights": weights[: lookup.vocabulary_size][-len(terms["vocabulary"]) :]}
    )
