"""Models as graphs of layers, which can be called like layers."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from layergraph.errors import GraphError
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.class_form import ClassForm
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.execution_plan import ExecutionPlan
from layergraph.functional.graph import Graph, Replaced, clone_between, map_graph
from layergraph.functional.input import Input
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.layer_nodes import LayerNodes, NodeTensor
from layergraph.functional.naming import default_name
from layergraph.functional.nest import Structure, flatten, map_structure, pack, single_or_list
from layergraph.functional.node_shapes import node_table, output_nodes
from layergraph.functional.shape_inference import Inferred
from layergraph.functional.strings import Strings
from layergraph.functional.summary import summary_table
from layergraph.functional.tensor import Shape, Tensor, TensorSpec


class Functional(Layer):
    """The graph of a model, and its execution inside other models (keras' Functional). Base of `models.Model`.

    Raises GraphError if the outputs can't be computed from the inputs.
    """

    supports_masking: ClassVar[bool] = True

    def __init__(self, inputs: Structure, outputs: Structure, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name or self._default_name(), trainable=trainable)
        self._inferred: dict[Any, list[Inferred]] = {}
        #: Keras version of the file that the model was loaded from.
        self.keras_version: str | None = None
        #: Format of that file: `.keras` or `.h5`.
        self.file_suffix: str | None = None
        self._graph: Graph | None = None
        if inputs is not None:
            self._set_graph(inputs, outputs)

    @staticmethod
    def _default_name() -> str:
        return default_name("Functional")

    def _set_graph(self, inputs: Structure, outputs: Structure) -> None:
        for what, structure in (("inputs", inputs), ("outputs", outputs)):
            leaves = flatten(structure)
            wrong = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
            if wrong or not leaves:
                raise GraphError(
                    f"model '{self.name}': {what} hold {wrong[:1] or 'nothing'}, expected symbolic tensors"
                )
        if any(not t.history.layer.inbound_nodes[t.history.node_index].is_input for t in flatten(inputs)):
            inputs, outputs = clone_between(
                inputs, outputs, lambda t: Input(batch_shape=t.shape, dtype=t.dtype, name=f"{t.name}_clone")
            )
        self._graph = map_graph(inputs, outputs)
        self.sublayers = {layer.name: layer for layer in self._graph.layers}
        self._inferred = {}
        self.built = True

    def keep(self, ends: Sequence[Tensor]) -> None:
        """Makes the calls that compute `ends` part of the graph, though no output depends on them."""
        self._graph = map_graph(self.graph.inputs, self.graph.outputs, ends=tuple(ends))
        self.sublayers = {layer.name: layer for layer in self._graph.layers}
        self.forget_plans()

    # The graph.

    @property
    def graph(self) -> Graph:
        """The nodes between inputs and outputs. Raises GraphError if the model isn't built yet."""
        if self._graph is None:
            raise GraphError(f"model '{self.name}' has no graph yet: add an Input first, or call the model")
        return self._graph

    @property
    def inner_model(self) -> Functional:
        """The model itself: execution plans inline its layers."""
        return self

    @property
    def keras_class_name(self) -> str:
        """Class name in files."""
        return "Functional"

    @property
    def class_form(self) -> ClassForm | None:
        """How files describe a model of one of KerasHub's classes; None for other models."""
        return None

    @property
    def layers(self) -> list[Layer]:
        """The layers, in Keras's order, without operations."""
        return [layer for layer in self.graph.layers if not layer.is_operation]

    @property
    def inputs(self) -> list[Tensor]:
        """The input tensors, in flat order."""
        return flatten(self.graph.inputs)

    @property
    def outputs(self) -> list[Tensor]:
        """The output tensors, in flat order."""
        return flatten(self.graph.outputs)

    @property
    def input(self) -> Any:
        """The inputs, in the structure that the model was created with."""
        return _unpacked(self.graph.inputs)

    @property
    def output(self) -> Any:
        """The outputs, in the structure that the model was created with."""
        return _unpacked(self.graph.outputs)

    @property
    def input_shape(self) -> Any:
        """Shapes of the inputs, in the structure of the inputs."""
        return map_structure(lambda t: t.shape, self.input)

    @property
    def output_shape(self) -> Any:
        """Shapes of the outputs, in the structure of the outputs."""
        return map_structure(lambda t: t.shape, self.output)

    @property
    def input_names(self) -> list[str]:
        """Names of the Input layers, in flat order."""
        return [tensor.history.layer.name for tensor in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Unique names of the outputs, in flat order.

        The keys of a dict of outputs; otherwise the name of the layer that computes the output, with the indices of
        its node and tensor (`lstm:0:1`) if several outputs come from one layer. A tensor that is an output twice gets a
        number appended to its second name.
        """
        names = self.output_layer_names
        uses = Counter(names)
        addressed = [
            name if uses[name] == 1 else self.address(tensor) for name, tensor in zip(names, self.outputs, strict=True)
        ]
        return _distinct(addressed)

    @property
    def output_layer_names(self) -> list[str]:
        """Like `output_names`, but without indices for outputs of the same layer: Keras's names in logs."""
        if isinstance(self.graph.outputs, dict) and all(isinstance(v, Tensor) for v in self.graph.outputs.values()):
            return sorted(self.graph.outputs)
        return [tensor.history.layer.name for tensor in self.outputs]

    def address(self, tensor: Tensor) -> str:
        """Returns `layer:node:tensor`, the name under which a tensor of the graph can be requested."""
        layer, node_index, tensor_index = tensor.history
        return f"{layer.name}:{self.graph.numbers[layer.inbound_nodes[node_index]]}:{tensor_index}"

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each input."""
        return tuple(TensorSpec(n, t.shape, t.dtype) for n, t in zip(self.input_names, self.inputs, strict=True))

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each output."""
        return tuple(TensorSpec(n, t.shape, t.dtype) for n, t in zip(self.output_names, self.outputs, strict=True))

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Returns the layer of that name, or at that index of `layers`. Raises ValueError if there is none."""
        if index is not None:
            if not -len(self.layers) <= index < len(self.layers):
                raise ValueError(f"model '{self.name}' has {len(self.layers)} layers, none at index {index}")
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"no such layer: {name}; existing layers are: {[layer.name for layer in self.layers]}")

    def node_table(self) -> tuple[LayerNodes, ...]:
        """All nodes of all layers, including those of nested models."""
        return node_table(self)

    def output_nodes(self) -> tuple[NodeTensor, ...]:
        """The tensors that the outputs are: which node of which layer makes each of them."""
        return output_nodes(self)

    def summary(self, print_fn: Any = print) -> None:
        """Prints the layers with their output shapes and parameters."""
        print_fn(summary_table(self))

    def _repr_html_(self) -> str | None:
        """Notebook view: the summary, escaped, since names come from model files. None before there is a graph."""
        return None if self._graph is None else f"<pre>{html.escape(summary_table(self))}</pre>"

    # Calls.

    def _positional(
        self, args: tuple[Structure, ...], kwargs: dict[str, Structure]
    ) -> tuple[tuple[Structure, ...], dict[str, Structure]]:
        args, kwargs = super()._positional(args, kwargs)
        if self._graph is None:
            self.build_for(args)
        return (_unpacked(pack(self.graph.inputs, self.flat_inputs(args[0]))), *args[1:]), kwargs

    def flat_inputs(self, given: Structure) -> list[Any]:
        """Flattens arguments to the order of `inputs`: dicts by name (or by the model's keys), others by position.
        Raises GraphError if inputs are missing or their number differs.
        """
        expected = self.graph.inputs
        if isinstance(given, dict):
            keys = sorted(expected) if isinstance(expected, dict) else self.input_names
            missing = [key for key in keys if key not in given]
            if missing:
                raise GraphError(f"model '{self.name}': inputs {missing} are missing; got {sorted(given)}")
            return (
                flatten({key: given[key] for key in keys}) if isinstance(expected, dict) else [given[k] for k in keys]
            )
        flat = flatten(given)
        if len(flat) != len(self.inputs):
            raise GraphError(
                f"model '{self.name}': got {len(flat)} inputs, expected {len(self.inputs)}: {self.input_names}"
            )
        return flat

    def takes_as_they_are(self, tensors: Sequence[Tensor]) -> bool:
        """Whether tensors can be passed in without a cast or a change of rank. Other inputs are constants, if any."""
        return len(tensors) == len(self.inputs) and all(
            given.dtype == own.dtype and len(given.shape) == len(own.shape)
            for given, own in zip(tensors, self.inputs, strict=True)
        )

    def removed_masks(self, call: Invocation, *, training: bool) -> Collection[int]:
        """Indices of the inputs whose masks a call of the model removes. A cast tensor is another one."""
        as_they_are = self.takes_as_they_are(call.tensors[: len(self.inputs)]) and not call.cast
        return self.plan().removed_masks(training=training) if as_they_are else ()

    def forward(self, context: CallContext, w: Any, inputs: Any, mask: Any = None) -> Any:
        """Computes the outputs; `w` holds the weights of the plan's steps."""
        outputs, _ = self.execute(context, w, (inputs,), {}, mask, want_masks=False)
        return outputs

    def execute(
        self,
        context: CallContext,
        w: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        previous_mask: Any,
        *,
        want_masks: bool,
    ) -> tuple[Any, Any]:
        """Computes the outputs inside another model's call; masks of the inputs pass through the model's own layers."""
        flat = [_adapted(value, own) for value, own in zip(flatten(args[0]), self.inputs, strict=True)]
        masks = flatten(previous_mask) if previous_mask is not None else [None] * len(flat)
        return self.plan().forward_nested(context, w, flat, masks, want_masks=want_masks)

    def infer(self, invocation: Invocation) -> Structure:
        """Infers the outputs of a call, once per combination of input shapes and node by node: running the model's plan
        would double the work, and the plan, at each level of nested models that call the next one twice.
        """
        own = self.inputs
        # Masks passed as arguments come after the inputs.
        given = invocation.tensors[: len(own)]
        if len(given) != len(own):
            return super().infer(invocation)
        masks = invocation.previous_shapes
        entries = [_adapted_shape(*entry) for entry in zip(given, masks, own, strict=True)]
        key = tuple((t.shape, t.dtype, t.mask_shape) for t in entries)
        if key == tuple((t.shape, t.dtype, t.mask_shape) for t in own):
            return [Inferred(t.shape, t.dtype, t.mask_shape, t.values) for t in self.outputs]
        if key not in self._inferred:
            self._inferred[key] = self._infer_through(entries)
        return self._inferred[key]

    def _infer_through(self, entries: list[Tensor]) -> list[Inferred]:
        """Infers the outputs for other input shapes than the model's own, node by node."""
        replaced = Replaced(self.inputs, entries)
        for node in self.graph.nodes:
            if node.is_input:
                continue
            call = Invocation(node.layer, replaced.within(node.args), replaced.within(node.kwargs), node.training)
            outputs = zip(node.output_tensors, flatten(node.layer.infer(call)), strict=True)
            replaced.add_outputs(node, [output.tensor(own.history, own.name) for own, output in outputs])
        return [Inferred(t.shape, t.dtype, t.mask_shape, t.values) for t in replaced.within(self.outputs)]

    def output_structure(self, outputs: Structure) -> Structure:
        """Returns the outputs in the structure of the model's outputs."""
        return _unpacked(pack(self.graph.outputs, flatten(outputs)))

    def bind(self, binder: Binder) -> Any:
        """Returns the bound weights of each step of the plan."""
        return self.plan().bind(binder)

    def forget_plans(self) -> None:
        """Drops what was inferred for calls of the model, and its plans, after a change of its layers."""
        self._inferred = {}

    def plan(self, outputs: Sequence[str] | None = None) -> ExecutionPlan:
        """Returns the plan that computes the named tensors, by default all outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no plan")


def _distinct(names: list[str]) -> list[str]:
    """Makes names unique by appending the first free number to repeated ones."""
    taken = set(names)
    numbers: Counter[str] = Counter()
    result = []
    for name in names:
        unique = name
        while numbers[name] and unique in taken:
            unique = f"{name}_{numbers[name]}"
            numbers[name] += 1
        numbers[name] = numbers[name] or 1
        taken.add(unique)
        result.append(unique)
    return result


def _unpacked(structure: Structure) -> Structure:
    return single_or_list(structure) if isinstance(structure, list) else structure


def _adapted(value: Any, own: Tensor) -> Any:
    """Adapts a value to the dtype and rank of the input, as Keras does: a last axis of 1 is added or removed."""
    if isinstance(value, Strings):
        return value
    value = value.to(torch_dtype(own.dtype))
    if value.ndim == len(own.shape) + 1 and value.shape[-1] == 1:
        return value.squeeze(-1)
    if value.ndim == len(own.shape) - 1 and own.shape[-1] == 1:
        return value.unsqueeze(-1)
    return value


def _adapted_shape(given: Tensor, mask: Shape | None, own: Tensor) -> Tensor:
    """The symbolic result of `_adapted` for a tensor `given` with a mask of shape `mask`."""
    shape = given.shape
    if len(shape) == len(own.shape) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == len(own.shape) - 1 and own.shape[-1] == 1:
        shape = (*shape, 1)
    dtype = given.dtype if given.dtype == Strings.dtype else own.dtype
    return Tensor(shape, dtype, own.history, name=own.name, mask_shape=mask)
