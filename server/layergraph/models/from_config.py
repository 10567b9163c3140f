"""Builds the model of a GraphSpec by repeating the calls of its layers, as Keras does.

So files, and code in the style of Keras's guide, take the same path through the same validation.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from layergraph.archive.limits import DEFAULT_LIMITS, LoadLimits
from layergraph.config.diagnostics import Diagnostics, short_name
from layergraph.config.options import short_repr
from layergraph.config.quantization import quantization
from layergraph.config.refused import OUTSIDE
from layergraph.config.spec import MAX_LAYERS, CallSpec, GraphSpec, LayerSpec, Structure, TensorRef, references
from layergraph.config.values import CUSTOM
from layergraph.errors import ConfigError, GraphError, LayerGraphError
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.functional import Functional
from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.stored_form import StoredForm
from layergraph.functional.tensor import Tensor
from layergraph.layers.hub.table import LAYERS as HUB_LAYERS
from layergraph.layers.lora import LoraLayer
from layergraph.layers.quantized.table import QUANTIZED
from layergraph.layers.table import LAYERS
from layergraph.models.kinds import ARCHITECTURES, MODELS
from layergraph.models.training_options import training_option
from layergraph.ops import operations
from layergraph.plugins import custom_layers, passed_layers
from layergraph.training.trainer import Trainer

#: Exceptions of torch and Python for arguments that don't fit.
_CALL_ERRORS = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError, ArithmeticError)

#: Whether an option that our layers lack may be ignored: (key, value).
Ignores = Callable[[str, Any], bool]


@dataclass(slots=True)
class Rebuilt:
    """A model, and by model the layers in the order of the file, by which weights are numbered."""

    model: Trainer
    file_order: dict[Functional, tuple[Layer, ...]] = field(default_factory=dict)


def find_unsupported(spec: GraphSpec, ignores: Ignores, problems: Diagnostics, *, has_weights: bool = True) -> None:
    """Adds every unsupported class and option to `problems`, including those of nested models and wrappers.

    has_weights   whether the weights' values come from the file
    """
    # Each item with the path of the layers that contain it.
    waiting: list[tuple[GraphSpec | LayerSpec, str]] = [(spec, "")]
    while waiting:
        item, where = waiting.pop()
        if isinstance(item, GraphSpec) and item.architecture:
            owner = f"model {short_name(item.name)} ({item.architecture})"
            for problem in _unsupported_hyperparameters(item):
                problems.add(problem, owner)
            waiting.extend((leaf, where) for leaf in item.hyperparameters.values() if isinstance(leaf, LayerSpec))
            continue
        if isinstance(item, GraphSpec):
            waiting.extend((layer, where) for layer in reversed(item.layers))
            continue
        inside = f"{where}/{item.name}" if where else item.name
        if item.graph is not None:
            waiting.append((item.graph, inside))
            continue
        label = f"layer {short_name(item.name)}" + (f" in {short_name(where)}" if where else "")
        for problem, owner in _unsupported(item, label, ignores, has_weights):
            problems.add(problem, owner)
        inner = [leaf for leaf in flatten(list(item.config.values())) if isinstance(leaf, LayerSpec)]
        waiting.extend((leaf, inside) for leaf in reversed(inner))


def _unsupported_hyperparameters(spec: GraphSpec) -> Iterator[str]:
    known = ARCHITECTURES[spec.architecture]
    for key, value in spec.hyperparameters.items():
        if key not in known._options:
            yield f"option {short_name(key)} = {short_repr(value)} is not supported"
        elif not isinstance(value, LayerSpec):
            try:
                known.validated(key, value)
            except LayerGraphError as wrong:
                yield str(wrong)


def _unsupported(spec: LayerSpec, label: str, ignores: Ignores, has_weights: bool) -> Iterator[tuple[str, str]]:
    """Yields problems, each with what has it."""
    known = _class_of(spec)
    if known is None:
        yield f"{_class_label(spec)} {_remedy(spec)}", label
        return
    for key in unknown_options(spec, known, ignores):
        value = short_repr(spec.config[key])
        yield f"option {short_name(key)} = {value} is not supported", f"{label} ({spec.class_name})"
    for key in spec.config.keys() & known._options.keys():
        # Layers in options are checked on their own.
        if not any(isinstance(leaf, LayerSpec) for leaf in flatten([spec.config[key]])):
            try:
                known.validated(key, training_option(known, key, spec.config[key], has_weights=has_weights))
            except ConfigError as wrong:
                yield str(wrong), label
            except LayerGraphError:
                # Reported when the layer is created.
                pass


def _class_label(spec: LayerSpec) -> str:
    """Names the class of a layer; if it isn't Keras's, with its module, where the file has one."""
    what = "operation" if spec.operation else "class"
    name = spec.class_name
    if name.startswith(CUSTOM):
        what, name = f"custom {what}", name.removeprefix(CUSTOM)
    module = f" of module {short_name(spec.module)}" if spec.module and ">" in spec.class_name else ""
    return f"{what} {short_name(name)}{module}"


def _remedy(spec: LayerSpec) -> str:
    if spec.operation:
        return "is not supported"
    known = OUTSIDE.get(spec.class_name.removeprefix(CUSTOM))
    plugin = "a plugin can supply it (layergraph.plugins.register_layer)"
    return f"is not supported, but {plugin}" if known is None else f"{known}; or {plugin}"


def rebuild(
    spec: GraphSpec, ignores: Ignores, limits: LoadLimits = DEFAULT_LIMITS, *, has_weights: bool = True
) -> Rebuilt:
    """Builds the model, with weights that have shapes but no values yet.

    has_weights   whether the weights' values come from the file

    Raises ConfigError or GraphError, which name the layer; also if one row would take more memory than `limits` allow.
    """
    repeated = _expanded_calls(spec, whole=True) - _expanded_calls(spec, whole=False)
    if repeated > limits.calls:
        raise GraphError(f"repeats more than {limits.calls} calls of layers by calling nested models repeatedly")
    builder = _Builder(ignores, has_weights)
    model = builder.model(spec)
    for inner in builder.file_order:
        if inner.built:
            _check_activations(inner, limits.activation_bytes)
    return Rebuilt(model, builder.file_order)


def _expanded_calls(spec: GraphSpec, *, whole: bool) -> int:
    """Number of calls of layers, including those of nested models, counted per call of the model if `whole`, else once.
    A model of KerasHub's counts with the largest number.

    It grows exponentially if each model calls the one before twice. The reader limits how deep models are nested.
    """
    if spec.architecture:
        return MAX_LAYERS
    total = 0
    for layer in spec.layers:
        calls = 1 if spec.sequential else len(layer.calls)
        if layer.graph is not None:
            total += (calls if whole else 1) * _expanded_calls(layer.graph, whole=whole)
        else:
            total += calls
    return total


def _check_activations(model: Functional, most: int) -> None:
    """Limits the size of tensors: a file of a few kilobytes can repeat or pad its input to terabytes."""
    for node in model.graph.nodes:
        for tensor in node.output_tensors:
            if tensor.dtype == "string":
                continue
            size = torch_dtype(tensor.dtype).itemsize * math.prod(n for n in tensor.shape[1:] if n is not None)
            if size > most:
                raise GraphError(
                    f"layer {short_name(node.layer.name)} ({type(node.layer).__name__}): one row of its output, of "
                    f"shape {tensor.shape}, takes {size} bytes, at most {most} are allowed"
                )


def unknown_options(spec: LayerSpec, known: type[Layer], ignores: Ignores) -> list[str]:
    """Keys of the config that the class lacks and that can't be ignored. An option that is null has no effect."""
    if known.computes_by_call:
        # Its `__init__` checks its options.
        return []
    given = {key: value for key, value in spec.config.items() if key not in known._options and value is not None}
    return [key for key, value in given.items() if not ignores(key, value)]


def _taken_options(spec: LayerSpec, known: type[Layer], ignores: Ignores) -> set[str]:
    """Keys of the config that the class is created with."""
    if not known.computes_by_call:
        return spec.config.keys() & known._options.keys()
    if known._options.keys() == Layer._options.keys():
        return set(spec.config)
    # The config also has what Keras's class has that it derives from, and ours lacks.
    inits = [vars(cls)["__init__"] for cls in known.__mro__ if "__init__" in vars(cls)]
    named = {name for init in inits for name in inspect.signature(init).parameters}
    kept = known._options.keys() | named
    return {key for key, value in spec.config.items() if key in kept or not (value is None or ignores(key, value))}


def _class_of(spec: LayerSpec) -> type[Layer] | None:
    """The class of a layer, which may be a quantised one by its policy."""
    known = _class_table(spec).get(spec.class_name)
    quantised = known is not None and not spec.operation and quantization(spec.config.get("dtype")) is not None
    return QUANTIZED.get(spec.class_name, known) if quantised else known


def _class_table(spec: LayerSpec) -> Mapping[str, type[Layer]]:
    if spec.operation:
        return operations()
    # A file without modules can't tell a custom class from Keras's of that name: there Keras takes those passed first.
    if not spec.module and spec.class_name in (passed := passed_layers()):
        return passed
    # Registered classes add to the tables, but don't replace their classes.
    return next((known for known in (LAYERS, HUB_LAYERS) if spec.class_name in known), custom_layers())


class _Builder:
    def __init__(self, ignores: Ignores, has_weights: bool) -> None:
        self.ignores = ignores
        self.has_weights = has_weights
        self.file_order: dict[Functional, tuple[Layer, ...]] = {}
        #: Layers that several models of the file share, by shared id.
        self.shared: dict[int, Layer] = {}

    def model(self, spec: GraphSpec) -> Trainer:
        """Creates the model of a spec, nested models first."""
        if spec.architecture:
            return self._hub_model(spec)
        layers = {item.name: self.layer(item) for item in spec.layers}
        name = spec.name or None
        model: Trainer
        if spec.sequential:
            model = MODELS["Sequential"](layers.values(), name=name, trainable=spec.trainable)
        else:
            calls = _Calls(spec, layers)
            calls.make_all()
            inputs, outputs = calls.tensors(spec.inputs), calls.tensors(spec.outputs)
            model = MODELS["Functional"](inputs, outputs, name=name, trainable=spec.trainable)
            if ends := calls.ends():
                model.keep(ends)
        self.file_order[model] = tuple(
            layers[item.name]
            for item in spec.layers
            if not item.operation and not (spec.sequential and item.class_name == "InputLayer")
        )
        if spec.stored is not None:
            model.stored_form = StoredForm(spec.stored, layers=tuple(layers.values()))
        return model

    def _hub_model(self, spec: GraphSpec) -> Trainer:
        """Creates a model of one of KerasHub's classes."""
        options = {key: self._option(value) for key, value in spec.hyperparameters.items()}
        label = f"model {short_name(spec.name)} ({spec.architecture})"
        try:
            model = MODELS["HubModel"](ARCHITECTURES[spec.architecture].from_config(options))
        except LayerGraphError as wrong:
            raise ConfigError(f"{label}: {wrong}") from wrong
        except _CALL_ERRORS as wrong:
            # Hyperparameters whose layers can't be called on one another.
            raise ConfigError(f"{label}: its layers can't be called: {str(wrong)[:200]}") from wrong
        self.file_order[model] = tuple(model.layers)
        return model

    def layer(self, spec: LayerSpec) -> Layer:
        """Creates the layer of a spec, or returns the existing one if models share it."""
        # Each graph has its own inputs, even if a file marks them as shared.
        if spec.shared_id is None or spec.class_name == "InputLayer":
            return self._new_layer(spec)
        known = self.shared.get(spec.shared_id)
        if known is None or known.name != spec.name:
            known = self.shared[spec.shared_id] = self._new_layer(spec)
        return known

    def _new_layer(self, spec: LayerSpec) -> Layer:
        if spec.graph is not None:
            model = self.model(spec.graph)
            model.name = spec.name or model.name
            if model.stored_form is not None:
                model.stored_form.first_call = spec.first_call
            return model
        known = _class_of(spec)
        label = f"layer {short_name(spec.name)}"
        if known is None:
            raise ConfigError(f"{label}: class {short_name(spec.class_name)} is not supported")
        if unknown := unknown_options(spec, known, self.ignores):
            raise ConfigError(f"{label} ({spec.class_name}): option {short_name(unknown[0])} is not supported")

        taken = _taken_options(spec, known, self.ignores)
        config = {key: self._option(value) for key, value in spec.config.items() if key in taken}
        config.pop("mask_use", None)
        if not known.computes_by_call:
            config = {k: training_option(known, k, v, has_weights=self.has_weights) for k, v in config.items()}
        try:
            layer = known.from_config(config)
            layer.treat_masks(spec.config.get("mask_use", "keras3"))
        except LayerGraphError as wrong:
            raise ConfigError(f"{label}: {wrong}") from wrong
        except _CALL_ERRORS as wrong:
            # Raised by a plugin's `__init__` or `from_config`.
            raise ConfigError(
                f"{label}: class {short_name(spec.class_name)} can't be created from its config: {wrong}"
            ) from wrong
        if spec.stored is not None:
            layer.stored_form = StoredForm(spec.stored)
        if spec.class_name not in HUB_LAYERS:
            layer.own_class_name = spec.own_class_name
        if isinstance(alpha := spec.config.get("lora_alpha"), (int, float)):
            layer.lora_alpha = float(alpha)
        rank = spec.config.get("lora_rank")
        if isinstance(layer, LoraLayer) and isinstance(rank, int):
            if self.has_weights:
                layer.filed_rank = rank
            else:
                layer.asked_rank = rank
        return layer

    def _option(self, value: Any) -> Any:
        """An option's value, in which layers are created."""
        if isinstance(value, LayerSpec):
            return self.layer(value)
        if isinstance(value, list):
            return [self._option(item) for item in value]
        return value


class _Calls:
    """The calls of one graph. Each is made once its tensors and the layer's earlier calls exist."""

    def __init__(self, spec: GraphSpec, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        self._made: dict[tuple[str, int], list[Any]] = {}
        self._calls: dict[tuple[str, int], CallSpec] = {}
        for item in spec.layers:
            layer = layers[item.name]
            if isinstance(layer, InputLayer):
                self._made[item.name, 0] = [layer.inbound_nodes[0].outputs]
                continue
            self._calls.update({(item.name, index): call for index, call in enumerate(item.calls)})

    def make_all(self) -> None:
        """Makes all calls, in linear time. Raises GraphError that names a layer whose inputs never exist."""
        missing: dict[tuple[str, int], int] = {}
        waiting_for: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
        for key, call in self._calls.items():
            needs = {(ref.layer, ref.node) for ref in references([call.args, call.kwargs])}
            if key[1] > 0:
                needs.add((key[0], key[1] - 1))
            needs = {need for need in needs if need not in self._made}
            missing[key] = len(needs)
            for need in needs:
                waiting_for[need].append(key)
        ready = deque(key for key, count in missing.items() if count == 0)
        done = 0
        while ready:
            key = ready.popleft()
            self._make(key)
            done += 1
            for dependant in waiting_for.pop(key, ()):
                missing[dependant] -= 1
                if missing[dependant] == 0:
                    ready.append(dependant)
        if done < len(self._calls):
            stuck = [name for (name, index) in self._calls if (name, index) not in self._made]
            needed = next(need for need in waiting_for)
            raise GraphError(
                f"layer {short_name(stuck[0])} (and {len(stuck) - 1} more) can't be called: "
                + (
                    "their inputs depend on one another"
                    if needed in self._calls
                    else f"there is no call {needed[1]} of a layer {short_name(needed[0])}"
                )
            )

    def ends(self) -> list[Tensor]:
        """The outputs of calls that count although no output of the model depends on them."""
        made = self._made.items()
        return [tensor for (name, _), tensors in made if self._layers[name].is_end for tensor in tensors]

    def tensors(self, structure: Structure) -> Structure:
        """The structure with references replaced by tensors. Raises GraphError for an invalid reference."""
        if isinstance(structure, TensorRef):
            made = self._made.get((structure.layer, structure.node))
            if made is None or not 0 <= structure.tensor < len(made):
                where = f"output {structure.tensor} of call {structure.node}"
                raise GraphError(f"there is no {where} of a layer {short_name(structure.layer)}")
            return made[structure.tensor]
        if isinstance(structure, (list, tuple)):
            return type(structure)(self.tensors(item) for item in structure)
        if isinstance(structure, Mapping):
            return {key: self.tensors(item) for key, item in structure.items()}
        return structure

    def _make(self, key: tuple[str, int]) -> None:
        call = self._calls[key]
        args = [self.tensors(arg) for arg in call.args]
        kwargs = {name: self.tensors(value) for name, value in call.kwargs.items()}
        layer = self._layers[key[0]]
        if not any(isinstance(leaf, Tensor) for leaf in flatten([args, kwargs])):
            raise GraphError(f"layer {short_name(key[0])}: call {key[1]} takes no tensor, expected at least one")
        try:
            outputs = layer(*args, **kwargs)
        except LayerGraphError as wrong:
            text = str(wrong)
            raise GraphError(text if layer.name in text else f"layer {short_name(key[0])}: {text}") from wrong
        except _CALL_ERRORS as wrong:
            # Arguments of a kind that the layer doesn't check for.
            reason = str(wrong).splitlines()[0][:200] if str(wrong) else type(wrong).__name__
            raise GraphError(f"layer {short_name(key[0])}: can't be called with its arguments: {reason}") from wrong
        self._made[key] = flatten(outputs)
        layer.inbound_nodes[-1].stored = self.tensors(call.stored)
