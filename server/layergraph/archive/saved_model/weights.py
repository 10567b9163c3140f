"""The weights of a model in a checkpoint, found along the edges of its object graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from layergraph.archive import protobuf
from layergraph.archive.limits import LoadLimits
from layergraph.archive.saved_model.bundle import Bundle, BundleArray
from layergraph.archive.saved_model.object_graph import GRAPH_KEY, ObjectGraph
from layergraph.errors import CorruptFileError, ModelFileError, UnsupportedModelError

_LAYER: Final = "layer-"
#: A layer's weights in Keras's order, which SavedModels list and checkpoints don't.
_VARIABLES: Final = "variables"
_API: Final = "keras_api"
#: Attribute of a table; the bundle has its keys and values.
_TABLE: Final = "table"
#: What a lookup layer counted while it was adapted: documents by term, and their number, which is a variable.
_DOCUMENT_COUNTS, _DOCUMENTS = "token_document_counts", "num_documents"
#: Maximum number of arrays that an error lists.
_MAX_LISTED: Final = 1000
#: Slots of legacy optimizers that alternate by weight; others are written slot by slot.
_ALTERNATING: Final = frozenset({"accumulator", "linear"})


class TrackedWeights:
    """Weights of the model in a bundle. `config` is the model's, whose layers have the order of the graph's."""

    def __init__(self, bundle: Bundle, config: Mapping[str, Any], limits: LoadLimits) -> None:
        self._bundle = bundle
        self._config = config
        self._limits = limits
        if GRAPH_KEY not in bundle and bundle.problems:
            raise CorruptFileError(bundle.path, bundle.problems)
        if GRAPH_KEY not in bundle:
            raise UnsupportedModelError(
                bundle.path,
                "has no object graph, as checkpoints of TensorFlow 1 (tf.train.Saver); expected one of TensorFlow 2: "
                "model.save_weights or tf.train.Checkpoint(model=model)",
            )
        texts = bundle.texts(GRAPH_KEY, limits.config_bytes)
        try:
            if len(texts) != 1:
                raise protobuf.WireError(f"has {len(texts)} parts")
            self._graph = ObjectGraph(texts[0], limits.nodes)
        except protobuf.WireError as wrong:
            raise CorruptFileError(bundle.path, f"its object graph {wrong}") from None
        self._steps = limits.config_values
        self._arrays: dict[int, list[int]] = {}
        self.root = self._model_node()

    @property
    def path(self) -> Path:
        """Path of the index."""
        return self._bundle.path

    @property
    def problems(self) -> list[str]:
        """A text if data files are missing. Arrays are described all the same, so that what else is wrong is found."""
        return self._bundle.problems

    def layers(self) -> dict[str, list[BundleArray]]:
        """Returns arrays by layer, in the order of the model's config. Layers without weights are left out.

        Raises CorruptFileError, or UnsupportedModelError if the only problem is arrays that aren't numbers or are
        partitioned; both list all such arrays.
        """
        found: dict[str, list[BundleArray]] = {}
        wrong: list[ModelFileError] = []
        total = 0
        for name, node in self.nodes().items():
            variables = self._variables(node)
            total += len(variables)
            if total > self._limits.names:
                raise CorruptFileError(self.path, f"has more than {self._limits.names} weights")
            for variable in variables:
                try:
                    found.setdefault(name, []).append(self._array(variable))
                except ModelFileError as problem:
                    wrong.append(problem)
        if wrong:
            texts = [text for problem in wrong[:_MAX_LISTED] for text in problem.problems]
            unsupported = not self.problems and all(isinstance(one, UnsupportedModelError) for one in wrong)
            raise (UnsupportedModelError if unsupported else CorruptFileError)(self.path, [*self.problems, *texts])
        return found

    def nodes(self) -> dict[str, int]:
        """The graph's nodes of the model's layers, by name."""
        return self.named(self.root, self._config)

    def optimizer_weights(self) -> list[BundleArray]:
        """The optimizer's variables in the order in which Keras 2 writes them to an `.h5`; empty if there are none."""
        optimizer = self._graph.child(self.root, "optimizer")
        # A tf.train.Checkpoint has it beside the model.
        optimizer = self._graph.child(0, "optimizer") if optimizer is None else optimizer
        if optimizer is None:
            return []
        listed = self._graph.child(optimizer, "_variables")
        if listed is not None:
            # TensorFlow 2.10 doesn't list the number of steps. A scalar of Nadam is never listed; with it, the order is
            # that of Keras 3, which also has the learning rate.
            scalar = self._graph.child(optimizer, "_u_product")
            first = ("_iterations",) if scalar is None else ("_iterations", "_learning_rate")
            named = (self._graph.child(optimizer, name) for name in first)
            nodes = dict.fromkeys((*named, *self._graph.numbered(listed).values(), scalar))
            return [self._array(node) for node in nodes if node is not None and self._is_variable(node)]
        return self._legacy_optimizer_weights(optimizer)

    def _legacy_optimizer_weights(self, optimizer: int) -> list[BundleArray]:
        slots: dict[str, dict[int, int]] = {}
        for weight, name, slot in self._graph.nodes[optimizer].slots:
            slots.setdefault(name, {})[weight] = slot
        weights = dict.fromkeys(node for layer in self.nodes().values() for node in self._variables(layer))
        if slots.keys() == _ALTERNATING:
            ordered = [held[weight] for weight in weights for held in slots.values() if weight in held]
        else:
            ordered = [held[weight] for held in slots.values() for weight in weights if weight in held]
        first = [self._graph.child(optimizer, name) for name in ("iter", "momentum_cache", "_m_cache")]
        found = [node for node in first if node is not None and self._is_variable(node)]
        return [self._array(node) for node in (*found, *ordered)]

    def _model_node(self) -> int:
        """The model: the root, or one of its attributes in a tf.train.Checkpoint."""
        nodes = self._graph.nodes
        if self._graph.numbered(0, _LAYER):
            return 0
        models = {name: node for name, node in nodes[0].children.items() if self._graph.numbered(node, _LAYER)}
        if len(models) == 1 or "model" in models:
            return models.get("model", next(iter(models.values())))
        if models:
            names = ", ".join(sorted(models)[:20])
            raise UnsupportedModelError(
                self.path, f"has {len(models)} models ({names}), expected one, or one named 'model'"
            )
        names = ", ".join(sorted(nodes[0].children)[:20]) or "nothing"
        raise UnsupportedModelError(self.path, f"has no Functional or Sequential model; its root has {names}")

    def named(self, node: int, config: Mapping[str, Any]) -> dict[str, int]:
        """Nodes of a model's layers by their names, which the graph doesn't have; `config` is the model's."""
        below = list(self._graph.numbered(node, _LAYER).values())
        layers = _layers_of(config)
        if config.get("class_name") == "Sequential":
            layers = [layer for layer in layers if layer.get("class_name") != "InputLayer"]
        names = [self.name_of(layer) for layer in layers]
        if len(names) != len(below) or len(set(names)) != len(names):
            return {f"{_LAYER}{index}": layer for index, layer in enumerate(below)}
        return dict(zip(names, below, strict=True))

    def child(self, node: int, name: str) -> int | None:
        """The object that is an attribute of a node; None if there is none."""
        return self._graph.child(node, name)

    def variable(self, node: int, name: str) -> list[Any]:
        """Values of a variable that is an attribute of a node; empty if there is none. Raises CorruptFileError."""
        found = self._graph.child(node, name)
        key = None if found is None else self._graph.nodes[found].value_key
        return [] if key is None else self._bundle.elements(key, self._limits.config_bytes)

    def table(self, node: int) -> tuple[list[Any], list[Any]] | None:
        """Keys and values of a table; None if they aren't in the checkpoint. Raises CorruptFileError."""
        key = self._graph.nodes[node].keys.get(_TABLE)
        if key is None or f"{key}-keys" not in self._bundle or f"{key}-values" not in self._bundle:
            return None
        keys, values = (
            self._bundle.elements(f"{key}-{part}", self._limits.config_bytes) for part in ("keys", "values")
        )
        return keys, values

    @staticmethod
    def name_of(layer: Mapping[str, Any]) -> str:
        """Name of the layer with this config."""
        inner = layer.get("config")
        name = layer.get("name") or (inner.get("name") if isinstance(inner, Mapping) else None)
        return str(name)

    def _variables(self, node: int) -> list[int]:
        """Nodes of a layer's variables, in Keras's order."""
        known = self._arrays.get(node)
        if known is None:
            listed = self._graph.child(node, _VARIABLES)
            if listed is not None and _API in self._graph.nodes[node].children:
                found = [one for one in self._graph.numbered(listed).values() if self._is_variable(one)]
                self._count(len(found))
            else:
                found = self._walked(node)
            known = self._arrays[node] = list(dict.fromkeys(found))
        return known

    def _walked(self, start: int) -> list[int]:
        """Variables of an object and of those below it, in the order in which attributes were set."""
        found: dict[int, None] = {}
        waiting, seen = [start], set[int]()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            children = self._graph.nodes[node].children
            if _DOCUMENT_COUNTS in children:
                children = {name: child for name, child in children.items() if name != _DOCUMENTS}
            below = list((self._graph.numbered(node, _LAYER) or children).values())
            self._count(1 + len(below))
            found.update(dict.fromkeys(one for one in below if self._is_variable(one)))
            waiting += [one for one in reversed(below) if not self._is_variable(one)]
        return list(found)

    def _count(self, steps: int) -> None:
        """Limits the work: layers may be nested in one another, and shared."""
        self._steps -= steps
        if self._steps < 0:
            raise CorruptFileError(self.path, "its object graph has too many paths")

    def _is_variable(self, node: int) -> bool:
        return self._graph.nodes[node].value_key is not None

    def _array(self, node: int) -> BundleArray:
        known = self._graph.nodes[node]
        if known.value_key is None:
            raise CorruptFileError(self.path, f"object {node} of its object graph has no value, expected a variable")
        return self._bundle.array(known.value_key, known.full_name)


def _layers_of(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    inner = config.get("config")
    layers = inner.get("layers") if isinstance(inner, Mapping) else inner
    return [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []
