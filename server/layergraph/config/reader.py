"""Reads a file's config as a GraphSpec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from layergraph.archive.limits import DEFAULT_LIMITS, LoadLimits
from layergraph.config import keras1
from layergraph.config.call_numbers import counted_as_keras2, counted_as_keras3
from layergraph.config.diagnostics import Diagnostics, short_name
from layergraph.config.graph_nodes import graph_node
from layergraph.config.input_dtypes import looked_up, without_numpy
from layergraph.config.keras2_releases import HIDE_MASK, TAKES_MASK
from layergraph.config.keras_versions import KERAS1, KERAS3_UP_TO_3, OWN_KEY, OWN_OPTIONS, TENSORFLOW_JS, Generation
from layergraph.config.nodes import (
    MalformedNodeError,
    keras2_call,
    keras3_call,
    tensor_references,
    with_masks_left_out,
)
from layergraph.config.old_operations import in_current_form
from layergraph.config.options import is_unicode
from layergraph.config.quantization import policy_of
from layergraph.config.refused import REFUSED
from layergraph.config.spec import CallSpec, GraphSpec, LayerSpec, Structure, TensorRef
from layergraph.config.tensorflow_ops import UnknownFunctionError, translated
from layergraph.config.values import ValueReader, class_name
from layergraph.config.vocabulary import Vocabulary
from layergraph.errors import CorruptFileError, UnsupportedModelError

_MODELS = frozenset({"Functional", "Sequential"})
#: Modules of Keras 3's operation nodes, which may share a class name with a layer.
_OPERATION_MODULES = ("keras.src.ops.", "keras.ops", "keras.src.activations", "keras.src.quantizers", "layergraph.ops")
#: Keys of a model's config that describe its contents rather than the model.
_INSIDE = frozenset({"layers", "input_layers", "output_layers"})
#: Layers whose sublayers have dtype policies in a map.
_WITH_POLICIES = frozenset({"MultiHeadAttention", "GroupQueryAttention"})
#: Packages of registered names: KerasHub's, and its former one, which classes are still registered under.
_HUB, _FORMER_HUB = "keras_hub>", "keras_nlp>"
#: Keys of a model of KerasHub's that describe what happens to data before it.
_BEFORE_MODEL = frozenset({"preprocessor"})
#: The minor version of TensorFlow 1.13 to 2.1, which write "2.2.4-tf".
_OF_2_2_4 = 2
#: Operations of Keras 2.
_KERAS2_OPERATIONS = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})


def read_graph(
    config: Mapping[str, Any],
    generation: Generation,
    path: Path,
    problems: Diagnostics,
    vocabulary: Vocabulary,
    limits: LoadLimits = DEFAULT_LIMITS,
) -> GraphSpec:
    """Returns the canonical graph of a model's config; `vocabulary` defines the names that exist.

    Everything unsupported is added to `problems`, so that it is reported together. Raises CorruptFileError for a
    malformed config, UnsupportedModelError for a model that isn't a graph of layers.
    """
    return _Reader(generation, path, problems, vocabulary, limits).model(config)


class _Reader:
    """Reads one file; layers and nodes are counted over all nested models and checked against the limits."""

    def __init__(
        self, generation: Generation, path: Path, problems: Diagnostics, vocabulary: Vocabulary, limits: LoadLimits
    ) -> None:
        self.generation = generation
        self.path = path
        self.problems = problems
        self.vocabulary = vocabulary
        self.limits = limits
        self.values = ValueReader(generation, problems, vocabulary.activations, self._inner_layer)
        self.depth = 0
        #: Numbers of inputs of Keras 1, by the class of the layer that makes them.
        self.inputs: Counter[str] = Counter()
        self.layers = 0
        self.nodes = 0

    def model(self, config: Mapping[str, Any]) -> GraphSpec:
        if self.generation is KERAS1:
            keras1.add_missing_ordering(config)
        config = self._as_graph(config)
        name = self._class_name(config, "the model")
        if f"{_HUB}{name}" in self.vocabulary.models:
            # An `.h5` has the class of the whole model without its package.
            name = f"{_HUB}{name}"
        if not self._is_model(name):
            if name in REFUSED:
                raise UnsupportedModelError(self.path, f"the model: {name} {REFUSED[name]}")
            what = f"the model is of class {short_name(name)}"
            expected = "a Functional or Sequential model"
            if name.startswith((_HUB, _FORMER_HUB)):
                known = sorted(model.removeprefix(_HUB) for model in self.vocabulary.models)
                expected += f", or one of KerasHub's classes {', '.join(known)}"
            raise UnsupportedModelError(
                self.path,
                f"{what}, expected {expected}; a model of another class that has symbolic inputs and outputs can be "
                "saved as keras.Model(model.inputs, model.outputs)",
            )
        return self._graph(config, name)

    def _as_graph(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return keras1.without_branches(config) if self.generation is KERAS1 else config

    # Models.

    def _is_model(self, name: str) -> bool:
        return name in _MODELS or name in self.vocabulary.models

    def _hub_graph(self, config: Mapping[str, Any], name: str) -> GraphSpec:
        """Reads a model of one of KerasHub's classes: the class and its hyperparameters."""
        inner = config.get("config")
        if not isinstance(inner, dict):
            raise CorruptFileError(self.path, f"a {name} model: config isn't an object")
        title = inner.get("name")
        label = f"model {short_name(title)} ({name})"
        with self._deeper():
            options = {
                key: self.values.option(label, key, value) for key, value in inner.items() if key not in _BEFORE_MODEL
            }
        title = self._name(title) if title is not None else ""
        return GraphSpec(title, (), architecture=name, hyperparameters=options)

    def _graph(self, config: Mapping[str, Any], name: str) -> GraphSpec:
        if name in self.vocabulary.models:
            return self._hub_graph(config, name)
        inner = config.get("config")
        # Keras up to 2.2 wrote a Sequential as the bare list of its layers.
        bare = isinstance(inner, list)
        if isinstance(inner, list):
            inner = {"layers": inner}
        if not isinstance(inner, dict) or not isinstance(inner.get("layers"), list):
            if name == "Functional":
                raise UnsupportedModelError(
                    self.path,
                    "a model is subclassed; files don't contain its graph, expected one built with the functional API",
                )
            raise CorruptFileError(self.path, f"a {name} model has no list of layers")
        title = inner.get("name", config.get("name"))
        title = self._name(title) if title is not None else ""
        trainable = inner.get("trainable", True) is not False
        with self._deeper():
            if name == "Sequential":
                graph = GraphSpec(title, tuple(self._sequence(inner)), sequential=True, trainable=trainable)
            else:
                graph = self._functional(title, inner, trainable)
        outside = {key: value for key, value in inner.items() if key not in _INSIDE}
        return replace(graph, stored=self._stored({**config, "config": [] if bare else outside}))

    def _stored(self, value: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Returns the object of a layer or model for writing a file of this generation."""
        if self.generation.major != 2 or self.generation is TENSORFLOW_JS:
            return None
        return {key: item for key, item in value.items() if key != "inbound_nodes"}

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self.depth += 1
        if self.depth > self.limits.nesting:
            raise CorruptFileError(self.path, f"models and layers are nested more than {self.limits.nesting} deep")
        yield
        self.depth -= 1

    def _sequence(self, inner: Mapping[str, Any]) -> Iterator[LayerSpec]:
        """Yields the layers of a Sequential, with an InputLayer first if the file has an input shape."""
        for index, item in enumerate(inner["layers"]):
            layer = self._layer(item, "a Sequential model")
            if layer is None:
                continue
            if index == 0 and layer.graph is not None and self.generation.major != 3:
                # Up to TensorFlow 2.1 a file has no InputLayer here: Keras makes one like that of the inner model.
                inner_input = _only_input(layer.graph)
                if inner_input is not None:
                    # Keras 1 takes the inner model's.
                    name = inner_input.name if self.generation is KERAS1 else f"{layer.name}_input"
                    yield replace(inner_input, name=name, config={**inner_input.config, "name": name}, stored=None)
                elif (shape := inner.get("build_input_shape")) is not None and layer.graph.sequential:
                    # The inner model has no shape either: both were built by data.
                    name = self._first_input_name(item, layer, announced=False)
                    yield LayerSpec(name, "InputLayer", {"name": name, "batch_shape": shape})
            elif index == 0 and layer.class_name != "InputLayer" and layer.graph is None:
                raw = item.get("config") if isinstance(item, dict) else None
                announced = self._announced_shape(raw)
                shape = inner.get("build_input_shape") or announced
                if shape is not None:
                    dtype = raw.get("dtype") if isinstance(raw, dict) else None
                    named = isinstance(dtype, str) and not dtype.startswith("mixed_") and "_from_" not in dtype
                    dtype = dtype if named else "float32"
                elif self.depth == 1 and (taken := looked_up(layer)) is not None:
                    # Such a model needs no weights, so it may be saved before it is called.
                    shape, dtype = [None, 1], taken
                if shape is not None:
                    name = self._first_input_name(item, layer, announced=announced is not None)
                    yield LayerSpec(name, "InputLayer", {"name": name, "batch_shape": shape, "dtype": dtype})
                if announced is None and self.generation.minor in HIDE_MASK and layer.class_name in TAKES_MASK:
                    layer = replace(layer, config={**layer.config, "mask_use": "passed"})
            yield layer

    def _first_input_name(self, item: Any, layer: LayerSpec, *, announced: bool) -> str:
        """The name of the input that the release makes for a first layer; `announced` means that it had a shape."""
        if self.generation is KERAS1:
            return keras1.input_name(item.get("class_name"), self.inputs)
        if not announced and self.generation.minor == _OF_2_2_4:
            # The model's shape came with its first data, which have numbers.
            return "input_1"
        return f"{layer.name}_input"

    @staticmethod
    def _announced_shape(config: Any) -> Any:
        if not isinstance(config, dict):
            return None
        return config.get("batch_input_shape") or config.get("batch_shape")

    def _functional(self, title: str, inner: Mapping[str, Any], trainable: bool) -> GraphSpec:
        items = inner["layers"]
        names: dict[str, Any] = {}
        for item in items:
            name = self._layer_name(item)
            if name in names:
                raise CorruptFileError(self.path, f"two layers are named {short_name(name)}")
            names[name] = item
        layers = [layer for item in items if (layer := self._layer(item, "the model", names)) is not None]
        inputs, outputs = (self._references(inner.get(key), key) for key in ("input_layers", "output_layers"))
        if self.generation.major == 3:
            early = self.generation is KERAS3_UP_TO_3
            layers, outputs = counted_as_keras3(layers, outputs, names, early=early)
        else:
            layers, outputs = counted_as_keras2(layers, outputs)
            inputs, outputs = _single(inputs), _single(outputs)
        return GraphSpec(title, tuple(layers), inputs, outputs, trainable=trainable)

    def _references(self, value: Any, key: str) -> Structure:
        try:
            return tensor_references(value, partial(self._name, what=f"a name in {key}"))
        except MalformedNodeError:
            raise CorruptFileError(self.path, f"{key} isn't a nesting of [layer, node, tensor]") from None

    # Layers.

    def _inner_layer(self, value: Any, owner: str) -> LayerSpec | None:
        return self._layer(value, owner)

    def _layer(self, value: Any, owner: str, names: Mapping[str, Any] | None = None) -> LayerSpec | None:
        """Reads one layer; None if it was added to `problems`. `names` are those of the graph, for its calls."""
        if not isinstance(value, dict):
            raise CorruptFileError(self.path, f"{owner} holds a layer that isn't an object")
        self.layers += 1
        if self.layers > self.limits.layers:
            raise CorruptFileError(self.path, f"has more than {self.limits.layers} layers")
        name = self._layer_name(value)
        label = f"layer {short_name(name)}"
        if self.generation is KERAS1:
            value = keras1.merge_layer(self._as_graph(value))
        kind = self._class_name(value, label)
        stored = self._stored(value)
        if kind == "Lambda" and name in self.vocabulary.lambdas:
            # Only options that every layer has are read from its config.
            given = value.get("config")
            config = {k: given[k] for k in ("trainable", "dtype") if k in given} if isinstance(given, dict) else {}
            kind, value, stored = self.vocabulary.lambdas[name], {**value, "config": {**config, "name": name}}, None
        if kind in REFUSED:
            self.problems.add(f"{kind} {REFUSED[kind]}", label)
            return None
        shared = value.get("shared_object_id")
        shared = shared if type(shared) is int else None
        layer = LayerSpec(
            name,
            kind,
            {},
            module=_module(value),
            own_class_name=_own_class_name(value),
            shared_id=shared,
            stored=stored,
        )
        if self._is_model(kind):
            layer = replace(layer, graph=self._graph(value, kind), stored=None)
        else:
            layer = replace(layer, config=self._config(value, kind, name), operation=self._is_operation(value, kind))
        if names is None:
            return layer
        layer = replace(layer, calls=self._calls(value, layer, names))
        if layer.operation and self.generation.major == 3:
            return in_current_form(layer)
        return self._translated(value, layer) if layer.class_name in _KERAS2_OPERATIONS else layer

    def _translated(self, value: Mapping[str, Any], layer: LayerSpec) -> LayerSpec | None:
        """Converts a TensorFlow function to an operation of Keras 3; None if there is none, added to `problems`."""
        config = value.get("config")
        config = config if isinstance(config, dict) else {}
        try:
            if layer.class_name == "TensorFlowOpLayer":
                results = [graph_node(config.get("node_def"), config.get("constants"), call) for call in layer.calls]
            else:
                results = [translated(config.get("function"), call) for call in layer.calls]
        except UnknownFunctionError as wrong:
            self.problems.add(str(wrong), f"layer {short_name(layer.name)} ({layer.class_name})")
            return None
        if not results:
            return None
        operation, options, _ = results[0]
        if any(other[:2] != results[0][:2] for other in results):
            self.problems.add(
                "its calls differ in their options", f"layer {short_name(layer.name)} ({layer.class_name})"
            )
            return None
        calls = tuple(replace(call, stored=own.stored) for (_, _, call), own in zip(results, layer.calls, strict=True))
        return replace(layer, class_name=operation, config={"name": layer.name, **options}, calls=calls)

    def _config(self, value: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
        raw = value.get("config")
        if not isinstance(raw, dict):
            raise CorruptFileError(self.path, f"layer {short_name(name)}: config isn't an object")
        label = f"layer {short_name(name)} ({kind})"
        renamed: dict[str, str] = {**self.generation.renamed.get("*", {}), **self.generation.renamed.get(kind, {})}
        defaults = self.generation.defaults
        # A renamed class may have had different defaults.
        config = dict(defaults.get(str(value.get("class_name"))) or defaults.get(kind, {}))
        with self._deeper():
            for key, item in raw.items():
                config[str(renamed.get(key, key))] = self.values.option(label, key, item)
        rules = self.generation.rules
        config.update({**rules.get("*", {}), **rules.get(kind, {})})
        config.update(self._own_options(value))
        # The layer is called so, whatever the name by which the graph refers to it.
        if config.setdefault("name", name) is not None:
            self._name(config["name"])
        if kind == "InputLayer" and "dtype" in config:
            config["dtype"] = without_numpy(config["dtype"])
        elif "dtype" in config and kind not in _WITH_POLICIES:
            config["dtype"] = policy_of(config["dtype"], name)
        self.generation.adapt(kind, config)
        return config

    @staticmethod
    def _own_options(value: Mapping[str, Any]) -> dict[str, Any]:
        """Options that only layergraph has, if it wrote the file."""
        own = value.get(OWN_KEY)
        return {key: own[key] for key in OWN_OPTIONS & own.keys()} if isinstance(own, dict) else {}

    def _is_operation(self, value: Mapping[str, Any], kind: str) -> bool:
        if self.generation.major != 3:
            return kind in _KERAS2_OPERATIONS
        module = value.get("module")
        if isinstance(module, str):
            return module.startswith(_OPERATION_MODULES)
        # A `.h5` of Keras 3 has no modules. If layer and operation share a name, only the layer has `trainable`.
        if kind in self.vocabulary.layers and kind not in self.vocabulary.operations:
            return False
        config = value.get("config")
        return isinstance(config, dict) and "trainable" not in config

    def _calls(self, value: Mapping[str, Any], layer: LayerSpec, names: Mapping[str, Any]) -> tuple[CallSpec, ...]:
        nodes = value.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise CorruptFileError(self.path, f"layer {short_name(layer.name)}: inbound_nodes isn't a list")
        self.nodes += len(nodes)
        if self.nodes > self.limits.nodes:
            raise CorruptFileError(self.path, f"has more than {self.limits.nodes} calls of layers")
        read_call = self._keras3_call if self.generation.major == 3 else self._keras2_call
        try:
            return tuple(read_call(node, layer, names) for node in nodes)
        except MalformedNodeError:
            raise CorruptFileError(self.path, f"layer {short_name(layer.name)}: a call is malformed") from None

    def _keras3_call(self, node: Any, layer: LayerSpec, names: Mapping[str, Any]) -> CallSpec:
        label = f"layer {short_name(layer.name)}"
        read: Callable[[Any], Any] = lambda value: self.values.value(label, value)  # noqa: E731
        return keras3_call(node, read)

    def _keras2_call(self, node: Any, layer: LayerSpec, names: Mapping[str, Any]) -> CallSpec:
        constants = layer.config.get("num_constants")
        constants = constants if type(constants) is int and constants > 0 else 0
        call = keras2_call(node, layer.class_name, constants, names)
        if layer.operation or not self.generation.masks_left_out:
            return call
        return with_masks_left_out(call, is_model=layer.graph is not None)

    # Names.

    def _class_name(self, value: Mapping[str, Any], label: str) -> str:
        name = class_name(value)
        if name is None:
            found = short_name(value.get("class_name"))
            raise CorruptFileError(self.path, f"{label}: class_name is {found}, expected text")
        current = name.replace(_FORMER_HUB, _HUB, 1) if name.startswith(_FORMER_HUB) else name
        if current in self.vocabulary.models or current in self.vocabulary.layers:
            name = current
        return self.generation.classes.get(name, name)

    def _layer_name(self, value: Any) -> str:
        if not isinstance(value, dict):
            raise CorruptFileError(self.path, "a layer isn't an object")
        config = value.get("config")
        name = value.get("name")
        if name is None and isinstance(config, dict):
            name = config.get("name")
        return "" if name is None else self._name(name)

    def _name(self, name: Any, what: str = "a layer's name") -> str:
        """Validates a name: any text that can be written again. Raises CorruptFileError."""
        if not isinstance(name, str) or len(name) > self.limits.name_length or "\0" in name:
            expected = f"text of at most {self.limits.name_length} characters, without NUL"
            raise CorruptFileError(self.path, f"{what} is {short_name(name)}, expected {expected}")
        if not is_unicode(name):
            raise CorruptFileError(self.path, f"{what} is {short_name(name)}, expected Unicode text")
        return name


def _single(structure: Structure) -> Structure:
    """Keras 2 writes one input or output as a list of one."""
    return structure[0] if isinstance(structure, list) and len(structure) == 1 else structure


def _module(value: Mapping[str, Any]) -> str:
    """The module of a layer's class, for error texts."""
    module = value.get("module")
    return module if isinstance(module, str) else ""


def _own_class_name(value: Mapping[str, Any]) -> str:
    """The name of a registered class in its module: the first part of the names of its groups in Keras 3's layout."""
    registered, name = value.get("registered_name"), value.get("class_name")
    known = isinstance(registered, str) and ">" in registered and isinstance(name, str) and name.isidentifier()
    return str(name) if known else ""


def _only_input(graph: GraphSpec) -> LayerSpec | None:
    """The InputLayer of a model with one input; None if the model has several, or if its file has no input shape."""
    if graph.sequential:
        return graph.layers[0] if graph.layers and graph.layers[0].class_name == "InputLayer" else None
    name = graph.inputs.layer if isinstance(graph.inputs, TensorRef) else None
    return next((layer for layer in graph.layers if layer.name == name), None)
