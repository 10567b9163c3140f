"""Layers written as in Keras's guide: `call(self, inputs)`, with weights and sublayers as attributes.

`forward` takes the weights as an argument. `call` doesn't, so it runs on a proxy of the layer that is made for one
call: an object of the same class with the same attributes, in which each weight is replaced by its tensor, and each
sublayer by an object that computes with the tensors of this call. Concurrent calls, with the same weights or others,
share no state that a call changes. Layers with `forward` don't pay for the proxy.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from layergraph.errors import GraphError
from layergraph.functional import scopes
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext, current_context
from layergraph.functional.dtypes import dtype_name, torch_dtype
from layergraph.functional.invocation import Invocation
from layergraph.functional.nest import Structure, flatten, map_structure, pack
from layergraph.functional.shape_inference import infer_anew
from layergraph.functional.sublayers import OWN_ATTRIBUTES, find_sublayers, holds_layers, is_layer
from layergraph.functional.tensor import History, Tensor
from layergraph.functional.weight import Weight

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: Weights that Keras's layers have as None if an option is False.
_OPTIONAL_WEIGHTS = {"bias": "use_bias", "beta": "center", "gamma": "scale"}
#: Number of parameters of our `compute_mask`: layer, context, inputs, mask. Keras's has no context.
_MASK_PARAMETERS = 4
#: The attribute of a proxy that holds its call.
_CALL = "_call_in_progress"


def adopt_call(cls: type[Layer]) -> None:
    """Makes a class that defines Keras's `call` compute by it."""
    own: Any = vars(cls)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = list(inspect.signature(own["call"]).parameters.values())[1:]
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    taken = [name for name in names if name != "training"]
    methods: dict[str, Any] = {
        "computes_by_call": True,
        # Masks of the inputs reach the sublayers even if `call` doesn't take them.
        "finds_masks": True,
        "call_argument_names": tuple(taken),
        "mask_argument_names": frozenset(n for n in taken if n == "mask" or n.endswith("_mask")),
        "passes_training": "training" in names,
        "forward": _forward,
        "execute": _execute,
        "bind": _bind,
        "build_for": _build_for,
        "output_structure": _output_structure,
        "__setattr__": _set_attribute,
    }
    for name, method in methods.items():
        setattr(cls, name, method)


def adopt_methods(cls: type[Layer]) -> None:
    """Adapts the other methods of such a class: `compute_mask` has masks passed on."""
    own: Any = vars(cls)
    if "compute_mask" in own and "supports_masking" not in own:
        cls.supports_masking = True


def marking_built(build: Callable[..., None]) -> Callable[..., None]:
    """Makes a class's `build` set `built`, as Keras's does."""

    @functools.wraps(build)
    def built(self: Layer, *args: Any, **kwargs: Any) -> None:
        # An enclosing layer may build it directly, as the guide does.
        with scopes.building(self):
            build(self, *args, **kwargs)
        self.built = True

    return built


def with_context(compute_mask: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a class's `compute_mask` callable as ours, with a context, and as Keras's: (inputs, mask=None)."""
    takes_context = len(inspect.signature(compute_mask).parameters) >= _MASK_PARAMETERS

    @functools.wraps(compute_mask)
    def computed(self: Layer, *args: Any, **kwargs: Any) -> Any:
        of_keras = not (args and isinstance(args[0], CallContext))
        if of_keras and takes_context:
            args, kwargs = (CallContext(), *args), {"mask": None, **kwargs} if len(args) == 1 else kwargs
        elif not of_keras and not takes_context:
            args = args[1:]
        return compute_mask(self, *args, **kwargs)

    return computed


# Weights and sublayers as attributes.


def _set_attribute(self: Layer, name: str, value: Any) -> None:
    call = vars(self).get(_CALL)
    if call is not None:
        call.set_attribute(self, name, value)
        return
    holds = holds_layers(name, value)
    if holds:
        if "sublayers" not in vars(self):
            raise GraphError(
                f"layer of class {type(self).__name__}: attribute '{name}' is set to a layer before "
                "super().__init__() is called, expected the other order"
            )
        # Layers that lists have got since come before it.
        find_sublayers(self)
    # Attributes are in the order in which they were last set.
    vars(self).pop(name, None)
    object.__setattr__(self, name, value)
    if holds:
        find_sublayers(self, appended=False)


# Building.


def _build_for(self: Layer, args: tuple[Structure, ...]) -> None:
    """Creates the weights: by `build`, and those of sublayers not built there by a call on `meta`."""
    find_sublayers(self)
    if not self.built:
        with scopes.building(self):
            self.build(*_shapes_for(self, args))
        self.built = True
        find_sublayers(self)
    if any(not inner.built for inner in self.sublayers.values()):
        with scopes.building(self):
            infer_anew(Invocation(self, args, {}, None))


def _shapes_for(layer: Layer, args: tuple[Structure, ...]) -> Iterable[Any]:
    """Arguments of Keras's `build`: the first argument's shape or, for several parameters, the shapes by name."""
    shapes = [map_structure(lambda leaf: getattr(leaf, "shape", None), arg) for arg in args]
    declared = inspect.signature(layer.build).parameters.items()
    # As in Keras, `**kwargs` gets no shapes.
    parameters = {name: one for name, one in declared if one.kind is not inspect.Parameter.VAR_KEYWORD}
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values()):
        return shapes
    if len(parameters) == 1:
        return shapes[:1]
    # An argument that isn't given has the default shape.
    named = {name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty}
    named.update((f"{name}_shape", shape) for name, shape in zip(layer.call_argument_names, shapes, strict=False))
    unknown = [name for name in parameters if name not in named]
    if unknown:
        raise GraphError(
            f"layer '{layer.name}' ({type(layer).__name__}): build has the parameters {unknown}, expected one, "
            f"or those of {sorted(named)}"
        )
    return [named[name] for name in parameters]


# A call.


class Variable(torch.Tensor):
    """The tensor of a non-trainable weight during a call: the layer may assign to it (keras.Variable).

    Operations on it return plain tensors.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def assign(self, value: Any) -> Variable:
        """Sets the weight to `value`, which broadcasts to its shape."""
        return self._moved("copy_", value)

    def assign_add(self, value: Any) -> Variable:
        """Adds `value` to the weight."""
        return self._moved("add_", value)

    def assign_sub(self, value: Any) -> Variable:
        """Subtracts `value` from the weight."""
        return self._moved("sub_", value)

    def _moved(self, how: str, value: Any) -> Variable:
        with torch.no_grad():
            getattr(self, how)(torch.as_tensor(value, device=self.device).to(self.dtype))
        return self


class _Cast(Variable):
    """A weight cast to its layer's compute dtype: a copy, so it can't be assigned to."""

    def _moved(self, how: str, value: Any) -> Variable:
        raise GraphError(
            "the weight is cast to its layer's compute dtype and can't be assigned to; expected a weight made with "
            "add_weight(..., autocast=False)"
        )


class BoundCall:
    """The tensors of a layer's weights and of its sublayers, for `call`.

    tensors   attribute -> the tensor, or nested tensors, that replace its weights in a call
    layered   attributes that hold sublayers
    inner     sublayer -> its bound weights
    bind      binds other layers, such as those in sublayers
    base      the weights as the `forward` of a class above takes them; None before it is called
    """

    __slots__ = ("base", "bind", "inner", "layered", "tensors")

    def __init__(self, layer: Layer, binder: Binder) -> None:
        self.bind = binder
        self.base: Any = None
        # Sublayers that aren't built yet are built, and bound, by the call itself.
        self.inner = {inner: binder(inner) for inner in layer.sublayers.values() if inner.built}
        bound = {weight: _assignable(weight, binder.tensor(layer, weight)) for weight in layer.own_weights}
        attributes = vars(layer)
        # Weights that no attribute holds are accessed by their names, as in Keras's own layers.
        self.tensors: dict[str, Any] = dict.fromkeys(name for name in _OPTIONAL_WEIGHTS if _is_left_out(layer, name))
        self.tensors.update(
            (weight.name, tensor) for weight, tensor in bound.items() if not hasattr(type(layer), weight.name)
        )
        self.layered: list[str] = []
        for name, value in attributes.items():
            if name in OWN_ATTRIBUTES:
                continue
            leaves = flatten(value) if isinstance(value, (list, tuple, dict)) else [value]
            if any(isinstance(leaf, Weight) for leaf in leaves):
                self.tensors[name] = map_structure(lambda leaf: _tensor_of(leaf, bound), value)
            if any(is_layer(leaf) for leaf in leaves):
                self.layered.append(name)


def _is_left_out(layer: Layer, name: str) -> bool:
    """Whether a layer of Keras's has None in place of a weight, by its options."""
    option = _OPTIONAL_WEIGHTS.get(name)
    return option in layer._options and not getattr(layer, option) and not hasattr(layer, name)


def _tensor_of(leaf: Any, bound: dict[Weight, torch.Tensor]) -> Any:
    return bound.get(leaf, leaf) if isinstance(leaf, Weight) else leaf


def _assignable(weight: Weight, tensor: torch.Tensor) -> torch.Tensor:
    if weight.created_trainable:
        return tensor
    return tensor.as_subclass(Variable if tensor.dtype == torch_dtype(weight.dtype) else _Cast)


def _bind(self: Layer, binder: Binder) -> BoundCall:
    return BoundCall(self, binder)


def _forward(
    self: Layer,
    context: CallContext,
    w: BoundCall,
    *args: Any,
    tensor_masks: dict[str, Structure] | None = None,
    **kwargs: Any,
) -> Any:
    """Computes the outputs by `call`."""
    given = {**dict(zip(self.call_argument_names, args, strict=False)), **kwargs}
    call = _Call(self, context, w)
    for name, masks in (tensor_masks or {}).items():
        call.set_masks(flatten(given[name]), flatten(masks))
    if type(self).passes_training:
        given["training"] = context.training
    outer = current_context.set(call.context)
    try:
        outputs = call.proxy.call(**given)
    finally:
        current_context.reset(outer)
    if outputs is None:
        raise GraphError(f"layer '{self.name}' ({type(self).__name__}): call returned None, expected tensors")
    return outputs


def _output_structure(self: Layer, outputs: Structure) -> Structure:
    """Returns the outputs as `call` has returned them."""
    return outputs


def _execute(
    self: Layer,
    context: CallContext,
    w: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    previous_mask: Any,
    *,
    want_masks: bool,
) -> tuple[Any, Any]:
    """Like `Layer.execute`. Outputs that have masks keep them, even if the class doesn't support masking."""
    context, masks = _with_masks(context)
    outputs = self.forward(context, w, *args, **kwargs)
    self.penalize(context, outputs)
    if not want_masks:
        return outputs, None
    made = flatten(self.compute_mask(context, args[0], previous_mask)) if self.supports_masking else []
    leaves = flatten(outputs)
    own = [masks[id(leaf)][1] if id(leaf) in masks else None for leaf in leaves]
    made = [computed if mask is None else mask for mask, computed in zip_longest(own, made[: len(own)])]
    return outputs, pack(outputs, made)


def _with_masks(context: CallContext) -> tuple[CallContext, dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Returns the context with a table of masks, which the calls within share, and the table."""
    masks = {} if context.masks is None else context.masks
    return context if context.masks is masks else replace(context, masks=masks), masks


class _Call:
    """One call of a layer by its `call`, with the state of the call."""

    __slots__ = ("_inner", "_layer", "_masks", "_w", "context", "proxy")

    def __init__(self, layer: Layer, context: CallContext, w: BoundCall) -> None:
        self._layer = layer
        self._w = w
        #: Like Keras's `_keras_mask`: also those that the calls around this one have set.
        self.context, self._masks = _with_masks(context)
        self._inner: dict[Layer, Inner] = {}
        self.proxy: Any = object.__new__(type(layer))
        attributes = vars(self.proxy)
        attributes.update(vars(layer))
        for name, tensor in w.tensors.items():
            attributes[name] = tensor
        for name in w.layered:
            attributes[name] = self.callable(attributes[name])
        attributes[_CALL] = self

    def callable(self, value: Any) -> Any:
        """Returns `value`, in which each layer is replaced by the object that stands for it in this call."""
        return map_structure(lambda leaf: self._standing_for(leaf) if is_layer(leaf) else leaf, value)

    def _standing_for(self, layer: Layer) -> Inner:
        if layer not in self._inner:
            self._inner[layer] = Inner(self, layer)
        return self._inner[layer]

    def set_attribute(self, proxy: Layer, name: str, value: Any) -> None:
        """Sets an attribute within `call`: on the proxy for the rest of the call, and on the layer for later ones."""
        layer = self._layer
        if name in self._w.tensors or name in self._w.layered:
            raise GraphError(
                f"layer '{layer.name}' ({type(layer).__name__}): call sets attribute '{name}', which is a weight or a "
                "layer; expected `assign` of a weight made with add_weight(..., trainable=False)"
            )
        object.__setattr__(proxy, name, value)
        # Shape inference leaves the layer unchanged: its tensors have no values.
        if self.context.symbolic_dims is None:
            object.__setattr__(layer, name, value)

    def set_masks(self, tensors: list[Any], masks: list[Any]) -> None:
        """Stores the masks of tensors that have none."""
        for tensor, mask in zip(tensors, masks, strict=False):
            if isinstance(tensor, torch.Tensor) and mask is not None:
                self._masks.setdefault(id(tensor), (tensor, mask))

    def bound(self, layer: Layer) -> Any:
        """The bound weights of a sublayer, or of a layer in one."""
        known = self._w.inner.get(layer)
        if known is None:
            known = self._w.inner[layer] = self._w.bind(layer)
        return known

    def call_above(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Computes by the `forward` of the class that the layer's class derives from."""
        layer, w = self._layer, self._w
        cls: Any = next(cls for cls in type(layer).__mro__ if vars(cls).get("forward", _forward) is not _forward)
        if w.base is None:
            w.base = cls.bind(layer, w.bind)
        training = kwargs.pop("training", None)
        context = self.context if training is None else self.context.as_training(bool(training))
        given = {**dict(zip(cls.call_argument_names, args, strict=False)), **kwargs}
        # `forward` may have another name for the first argument.
        first = [given.pop(name) for name in cls.call_argument_names[:1] if name in given]
        return cls.output_structure(layer, cls.forward(layer, context, w.base, *first, **given))

    def call_inner(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a sublayer with the tensors of this call."""
        training = kwargs.pop("training", None)
        context = self.context if training is None else self.context.as_training(bool(training))
        if len(args) == 1 and isinstance(args[0], torch.Tensor) and not kwargs and self._is_plain(layer):
            # Fast path of most calls: same result as below, without analysing the arguments.
            outputs, mask = layer.execute(
                context, self.bound(layer), (_as_computed(layer, args[0]),), {}, None, want_masks=layer.supports_masking
            )
            self.set_masks(flatten(outputs), flatten(mask))
            return layer.output_structure(outputs)
        given: dict[int, torch.Tensor] = {}

        def symbolic(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            tensor = Tensor(self._shape(leaf), dtype_name(leaf.dtype), History(layer, -1, 0))
            given[id(tensor)] = leaf
            return tensor

        args = tuple(map_structure(symbolic, arg) for arg in args)
        kwargs = {name: map_structure(symbolic, value) for name, value in kwargs.items()}
        # May build a Sequential, so it comes before its weights are bound.
        args, kwargs = layer._positional(args, kwargs)
        if not layer.built or context.symbolic_dims is not None:
            layer.build_for(args)
        invocation = Invocation(layer, args, kwargs)
        # The call may have another order of its arguments.
        values = [given[id(tensor)] for tensor in invocation.tensors]
        masks = [self._masks[id(value)][1] if id(value) in self._masks else None for value in values]
        outputs, output_masks = invocation.structured(
            context, self.bound(layer), values, masks, want_masks=layer.supports_masking
        )
        model = layer.inner_model
        removed = invocation.removed if model is None else model.removed_masks(invocation, training=context.training)
        for index in removed:
            self._masks.pop(id(values[index]), None)
        self.set_masks(flatten(outputs), output_masks)
        return layer.output_structure(outputs)

    def _is_plain(self, layer: Layer) -> bool:
        """Whether a call on one tensor only needs a cast: no mask, no model, no shape inference."""
        return self.context.symbolic_dims is None and not self._masks and layer.inner_model is None and layer.built

    def _shape(self, value: torch.Tensor) -> tuple[int | None, ...]:
        """The shape, with None for symbolic dimensions."""
        symbolic_dims = self.context.symbolic_dims
        if symbolic_dims is None:
            return tuple(value.shape)
        return tuple(None if symbolic_dims.is_unknown(value, axis) else n for axis, n in enumerate(value.shape))


def _as_computed(layer: Layer, value: torch.Tensor) -> torch.Tensor:
    """Casts a floating-point tensor to the layer's compute dtype, as Keras's autocast does."""
    wanted = torch_dtype(layer.compute_dtype)
    return value.to(wanted) if layer.autocast and wanted.is_floating_point and value.is_floating_point() else value


class Inner:
    """A sublayer within `call`: calling it computes with the tensors of that call; its weights are attributes.

    It is an instance of the layer's class for `isinstance`.
    """

    __slots__ = ("_in_call", "_layer", "_proxy")

    def __init__(self, call: _Call, layer: Layer) -> None:
        self._in_call = call
        self._layer = layer
        #: Has the attributes and methods of a class with `call`; None before one is used.
        self._proxy: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the sublayer's outputs."""
        return self._in_call.call_inner(self._layer, args, kwargs)

    #: Keras's code also calls it by this name.
    call = __call__

    @property  # type: ignore[misc]  # what `isinstance` reads
    def __class__(self) -> type[Layer]:  # type: ignore[override]
        return type(self._layer)

    def __getattr__(self, name: str) -> Any:
        layer, call = self._layer, self._in_call
        w = call.bound(layer) if layer.built else None
        if isinstance(w, BoundCall):
            if self._proxy is None:
                self._proxy = _Call(layer, call.context, w).proxy
            return getattr(self._proxy, name)
        if _is_left_out(layer, name):
            return None
        known = getattr(w, "__dict__", {}).get(name)
        return known if isinstance(known, torch.Tensor) else call.callable(getattr(layer, name))


def call_above(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Computes a call as the class above does, `super().call`. Raises GraphError outside of a call."""
    call = vars(layer).get(_CALL)
    if call is None:
        raise GraphError(f"layer '{layer.name}' ({type(layer).__name__}): `call` is called outside of a call")
    return call.call_above(args, kwargs)


def add_loss(layer: Layer, loss: Any) -> None:
    """Adds a loss, or several, to those of the current call's context. Raises GraphError outside of a call."""
    call = vars(layer).get(_CALL)
    if call is None:
        raise GraphError(f"layer '{layer.name}' ({type(layer).__name__}): add_loss is called outside of call")
    if call.context.losses is not None:
        call.context.losses += [_added(call.context, torch.as_tensor(part)) for part in flatten(loss)]


def _added(context: CallContext, values: torch.Tensor) -> torch.Tensor:
    """What a loss adds: the sum of its values. Keras 2 shows their mean, but follows the sum."""
    if values.ndim == 0:
        return values
    total = values.sum()
    if context.shard is not None:
        # Of a worker's losses a weighted mean is taken, as scalars are means over its rows.
        total = total * (context.shard.total / context.shard.count)
    return total - (total - values.mean()).detach() if context.rules.logs_means else total
