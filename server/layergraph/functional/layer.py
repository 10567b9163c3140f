"""Layers: how they are called on symbolic tensors, and how they compute."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from layergraph.config.keras2_releases import KERAS3_USES, MASK_USES
from layergraph.config.names import snake_case
from layergraph.config.options import short_repr
from layergraph.errors import ConfigError, GraphError
from layergraph.functional import scopes
from layergraph.functional.binding import Binder, bind_values
from layergraph.functional.call import add_loss, adopt_call, adopt_methods, call_above, marking_built, with_context
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import dtype_name
from layergraph.functional.inbound_nodes import InboundNodes
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer_weights import LayerWeights
from layergraph.functional.lora import Lora
from layergraph.functional.naming import default_name
from layergraph.functional.nest import Structure, flatten, map_structure, pack, single_or_list
from layergraph.functional.node import Node
from layergraph.functional.shape_inference import infer
from layergraph.functional.strings import Strings
from layergraph.functional.tensor import History, Shape, Tensor
from layergraph.functional.weights import Weights

if TYPE_CHECKING:
    from layergraph.functional.functional import Functional
    from layergraph.functional.stored_form import StoredForm

#: Parameters of `forward` before a call's own arguments: the layer, the call's context, the weights.
_FORWARD_PARAMETERS = 3
#: Annotations of arguments that are tensors.
_TENSORS = frozenset({"torch.Tensor", "torch.Tensor | None"})

_numbers = itertools.count()


class Layer(LayerWeights, InboundNodes):
    """A layer, as in Keras: calling it on symbolic tensors adds a node; `forward` defines the computation.

    A subclass declares its options as fields, creates its weights in `build`, and computes in `forward`:

        class Scale(Layer):
            units: int = option(positive_int)

            def build(self, input_shape):
                self.add_weight("scale", (input_shape[-1],), ones)

            def forward(self, context, w, x):
                return x * w.scale

    `forward(context, w, x, ...)` takes the context of the call (training, random generator), the bound weights, then
    the arguments of the call as torch tensors. A parameter `mask` (or `<argument>_mask`) receives the inputs' masks.

    A subclass may also be written as for Keras (keras.layers.Layer): with `__init__`, `build(input_shape)`,
    `call(inputs, training=None, mask=None)` and `get_config`. In `call`, attributes that hold weights are the weights'
    tensors, and attributes that hold layers can be called.
    """

    #: Whether masks pass through. If not, the outputs have no mask, as in Keras.
    supports_masking: ClassVar[bool] = False
    #: Whether floating-point inputs and weights are cast to `compute_dtype`.
    autocast: ClassVar[bool] = True
    #: Whether Keras's layer takes an `activity_regularizer`.
    regularizes_activity: ClassVar[bool] = True
    #: Whether this is a keras.ops node rather than a layer.
    is_operation: ClassVar[bool] = False
    #: Whether calls belong to a loaded model even if no output depends on them.
    is_end: ClassVar[bool] = False
    #: Whether the option `axis` names axes of the result that the input doesn't have.
    inserts_axis: ClassVar[bool] = False
    #: Whether the computation is Keras's `call`. Then the config holds the arguments of `__init__`.
    computes_by_call: ClassVar[bool] = False
    #: Whether layers within the computation find the masks of the inputs' tensors.
    finds_masks: ClassVar[bool] = False
    #: Whether `call` has the parameter `training`.
    passes_training: ClassVar[bool] = False
    #: Whether calls in Keras's files hold the masks of the inputs. Otherwise Keras's `call` finds them itself.
    masks_in_calls: ClassVar[bool] = True
    #: Whether the output shape depends on values of inputs other than the first, such as a target shape.
    reads_values: ClassVar[bool] = False
    #: Whether shape inference computes with known values rather than shapes only.
    computes_values: ClassVar[bool] = False
    #: The module name that Keras writes in files. Several operations share their class name with a layer.
    keras_module: ClassVar[str] = "keras.layers"
    #: Names of the call arguments, in order, and of those that take masks.
    call_argument_names: ClassVar[tuple[str, ...]] = ()
    mask_argument_names: ClassVar[frozenset[str]] = frozenset()
    #: Those that `forward` declares as tensors.
    tensor_argument_names: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in vars(cls):
            parameters = inspect.signature(cls.forward).parameters
            names = list(parameters)[_FORWARD_PARAMETERS:]
            # `forward` names the argument `x` that Keras's `call` names `inputs`.
            cls.call_argument_names = tuple("inputs" if n == "x" else n for n in names)
            cls.tensor_argument_names = frozenset(
                name
                for name, declared in zip(cls.call_argument_names, names, strict=True)
                if parameters[declared].annotation in _TENSORS
            )
            cls.mask_argument_names = frozenset(n for n in names if n == "mask" or n.endswith("_mask"))
        elif "call" in vars(cls):
            adopt_call(cls)
        if "compute_mask" in vars(cls):
            cls.compute_mask = with_context(vars(cls)["compute_mask"])  # type: ignore[method-assign]
        if "build" in vars(cls):
            cls.build = marking_built(vars(cls)["build"])  # type: ignore[method-assign]
        if cls.computes_by_call:
            adopt_methods(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.inbound_nodes: list[Node] = []
        #: Layers are numbered as they are made.
        self.number = next(_numbers)
        self.built = False
        #: What the layer does with masks, one of MASK_USES.
        self.mask_use = "keras3"
        #: The layer's form in the file that it was loaded from, if the file is of Keras 2.
        self.stored_form: StoredForm | None = None
        #: Name of the class in the file that the layer was loaded from, if the file has another name to find it by.
        self.own_class_name = ""
        #: LoRA weights of the layer; None if it has none.
        self.lora: Lora | None = None
        #: Scale of LoRA weights, times their rank: of the layer's, or of those that its file has beside the kernel.
        self.lora_alpha: float | None = None
        #: Input shape from `input_shape=` or `input_dim=`, for the first layer of a Sequential.
        self.announced_shape: Shape | None = _announced_shape(kwargs, self._options)
        if self.computes_by_call and "autocast" in kwargs:
            vars(self)["autocast"] = bool(kwargs.pop("autocast"))
        super().__init__(*args, **kwargs)
        if not self.name:
            self.name = default_name(self.group_name)

    @classmethod
    def validated(cls, name: str, value: Any) -> Any:
        """Returns the normal form of an option's value. Raises ConfigError if the value is invalid."""
        if name == "activity_regularizer" and value is not None and not cls.regularizes_activity:
            raise ConfigError(f"{cls.__name__}: option '{name}' is {short_repr(value)}, expected None, as in Keras")
        return super().validated(name, value)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # As in Keras, a weight is an attribute, such as `layer.kernel`, whether or not the class has set one.
            for weight in vars(self).get("own_weights", ()):
                if weight.name == name:
                    return weight
            # Raises the error of the first look-up, which may be a property's.
            return object.__getattribute__(self, name)

    @property
    def inner_model(self) -> Functional | None:
        """The layer as a model, or None if it isn't one."""
        return None

    @property
    def keras_class_name(self) -> str:
        """Class name in files."""
        return self.own_class_name or type(self).__name__

    @property
    def group_name(self) -> str:
        """Base name, without a number, of the layer's group in a `.weights.h5` and of a layer without a name."""
        return snake_case(self.keras_class_name)

    @property
    def uses_masks(self) -> bool:
        """Whether `forward` takes the masks that accompany its inputs."""
        return self.mask_use in KERAS3_USES or self.mask_use == "used"

    def treat_masks(self, use: str) -> None:
        """Sets what the layer does with masks, one of `config.keras2_releases.MASK_USES`: from the version of its file.

        Raises ConfigError for any other value.
        """
        if use not in MASK_USES:
            raise ConfigError(
                f"{type(self).__name__}: mask_use is {short_repr(use)}, expected one of {sorted(MASK_USES)}"
            )
        self.mask_use = use
        if use not in KERAS3_USES:
            vars(self)["supports_masking"] = use == "passed"

    @property
    def rows_are_independent(self) -> bool:
        """Whether, in inference, each row of the output depends only on the same row of the inputs."""
        return True

    # Overridden in subclasses.

    def build(self, *input_shapes: Any) -> None:
        """Creates the weights. Takes the shape (or nested shapes) of each positional argument."""

    def forward(self, context: CallContext, w: Weights, x: Any) -> Any:
        """Computes the outputs: a tensor or a nested structure of tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the outputs as the class above does: `super().call(inputs)` in the `call` of a subclass.

        Raises GraphError outside of such a `call`.
        """
        return call_above(self, args, kwargs)

    @with_context
    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """Computes the outputs' masks from the first argument and its masks. By default masks pass through."""
        return mask

    def add_loss(self, loss: Any) -> None:
        """Adds to the training loss, within `call`: a scalar, or the sum of a tensor (keras.layers.Layer.add_loss).

        Raises GraphError outside of a call.
        """
        add_loss(self, loss)

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Adapts weights to the shapes of the layer's own arrays in a file, before the shapes are compared."""

    def load_asset(self, name: str, content: bytes) -> None:
        """Loads one of `storage.assets` from a file. Raises ConfigError if it is invalid."""

    # Calls.

    def compute_output_shape(self, *input_shapes: Any) -> Any:
        """Shape of the output, or nested shapes, by the shape (or nested shapes) of each argument. Builds the layer.

        Raises GraphError if the layer can't be called on such shapes.
        """
        args = tuple(self._of_shape(shape) for shape in input_shapes)
        self.build_for(args)
        outputs = self.output_structure(self.infer(Invocation(self, args, {})))
        return map_structure(lambda output: output.shape, outputs)

    def _of_shape(self, shape: Any) -> Structure:
        if isinstance(shape, Mapping):
            return {name: self._of_shape(part) for name, part in shape.items()}
        if all(length is None or isinstance(length, int) for length in shape):
            return Tensor(tuple(shape), self.compute_dtype, History(self, -1, 0))
        return [self._of_shape(part) for part in shape]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer: on symbolic tensors it adds a node; on arrays it computes and returns torch tensors."""
        training = kwargs.pop("training", None)
        args, kwargs = self._positional(args, kwargs)
        if any(isinstance(leaf, Tensor) for leaf in flatten([list(args), kwargs])):
            return self._connect(args, kwargs, training)
        return self._compute(args, kwargs, training)

    def _positional(
        self, args: tuple[Structure, ...], kwargs: dict[str, Structure]
    ) -> tuple[tuple[Structure, ...], dict[str, Structure]]:
        """Moves keyword arguments to their positions where possible, so that each call has one canonical form."""
        names = self.call_argument_names
        if not names and type(self).forward is Layer.forward:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): the class has neither `call` nor `forward`, expected "
                "`call(self, inputs)`, which returns the outputs"
            )
        unknown = [name for name in kwargs if name not in names]
        if unknown or len(args) > len(names):
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): called with {len(args)} arguments and {sorted(kwargs)}, "
                f"expected {list(names)}"
            )
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        while (
            len(args) < len(names) and names[len(args)] in kwargs and names[len(args)] not in self.mask_argument_names
        ):
            args = (*args, kwargs.pop(names[len(args)]))
        if not args:
            raise GraphError(f"layer '{self.name}' ({type(self).__name__}): called without '{names[0]}'")
        return args, kwargs

    @property
    def removes_masks(self) -> bool:
        """Whether later calls don't find the masks of the tensors that this layer was called on."""
        return False

    def build_for(self, args: tuple[Structure, ...]) -> None:
        """Creates the weights for these arguments, unless the layer is built already."""
        if not self.built:
            with scopes.building(self):
                self.build(*(map_structure(lambda leaf: getattr(leaf, "shape", None), arg) for arg in args))
            self.built = True

    def _connect(self, args: tuple[Structure, ...], kwargs: dict[str, Structure], training: bool | None) -> Any:
        self.build_for(args)
        invocation = Invocation(self, args, kwargs, training)
        inferred = self.infer(invocation)
        flat = flatten(inferred)
        index = len(self.inbound_nodes)
        name = self.name + (f"_{index}" if index else "")
        outputs = [
            output.tensor(History(self, index, i), f"{name}_{i}" if len(flat) > 1 else name)
            for i, output in enumerate(flat)
        ]
        structure = self.output_structure(pack(inferred, outputs))
        Node(self, args, kwargs, structure, training)
        return structure

    def infer(self, invocation: Invocation) -> Structure:
        """Infers a call's outputs, each as Inferred, in the structure that `forward` returns. Raises GraphError if the
        call fails.
        """
        return infer(invocation)

    def output_structure(self, outputs: Structure) -> Structure:
        """What a call returns of what `forward` has returned: a single output itself, several as a list."""
        return single_or_list(flatten(outputs))

    def _compute(self, args: tuple[Structure, ...], kwargs: dict[str, Structure], training: bool | None) -> Any:
        values: list[Any] = []

        def symbolic(leaf: Any) -> Any:
            if isinstance(leaf, (np.ndarray, torch.Tensor, Strings)):
                value = _as_value(leaf)
                values.append(value)
                return Tensor(tuple(value.shape), dtype_name(value.dtype), History(self, -1, 0))
            return leaf

        args = tuple(map_structure(symbolic, arg) for arg in args)
        kwargs = {name: map_structure(symbolic, kwargs[name]) for name in sorted(kwargs)}
        self.build_for(args)
        invocation = Invocation(self, args, kwargs, training)
        outputs, _ = invocation.structured(
            CallContext(losses=None), bind_values(self), values, [None] * len(values), want_masks=False
        )
        return self.output_structure(outputs)

    def execute(
        self,
        context: CallContext,
        w: Weights,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        previous_mask: Any,
        *,
        want_masks: bool,
    ) -> tuple[Any, Any]:
        """Computes one call's outputs and, if `want_masks`, their masks. Adds activity regularisation to the context's
        losses.
        """
        outputs = self.forward(context, w, *args, **kwargs)
        self.penalize(context, outputs)
        if not want_masks or not self.supports_masking:
            return outputs, None
        return outputs, self.compute_mask(context, args[0], previous_mask)

    def penalize(self, context: CallContext, outputs: Any) -> None:
        """Adds activity regularisation of the outputs to the context's losses."""
        if context.losses is None or self.activity_regularizer is None:
            return
        for output in flatten(outputs):
            # Keras divides by the batch size, so that the strength doesn't depend on it.
            rows = 1 if context.rules.sums_activities else max(output.shape[0], 1)
            context.losses.append(self.activity_regularizer(output) / rows)

    def bind(self, binder: Binder) -> Any:
        """Returns the bound weights, the `w` of `forward`."""
        return binder.own(self)

    def walk_layers(self) -> Iterator[Layer]:
        """Yields this layer and all sublayers, recursively, each once."""
        seen: set[int] = set()
        waiting: list[Layer] = [self]
        while waiting:
            layer = waiting.pop()
            if id(layer) not in seen:
                seen.add(id(layer))
                yield layer
                waiting.extend(reversed(list(layer.sublayers.values())))

    # Config.

    def get_config(self) -> dict[str, Any]:
        """Name, trainable and dtype, then the layer's own options, as Keras 3 writes them."""
        config = super().get_config()
        config["dtype"] = self.dtype_policy.name
        if config["activity_regularizer"] is None and not self.storage.null_regularizer:
            del config["activity_regularizer"]
        return {key: config[key] for key in ("name", "trainable", "dtype")} | config

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"


def _as_value(array: Any) -> Any:
    if isinstance(array, Strings):
        return array
    if isinstance(array, np.ndarray) and dtype_name(array.dtype) == Strings.dtype:
        return Strings.of(array)
    return torch.as_tensor(array)


def _announced_shape(kwargs: dict[str, Any], options: Container[str]) -> Shape | None:
    """Removes Keras's keywords for a first layer's input shape from `kwargs`, except those that are options."""
    given = {
        name: kwargs.pop(name)
        for name in ("batch_input_shape", "input_shape", "input_dim")
        if name not in options and name in kwargs
    }
    rows = kwargs.pop("batch_size", None) if given and "batch_size" not in options else None
    if "batch_input_shape" in given:
        return tuple(given["batch_input_shape"])
    if "input_shape" in given:
        return (rows, *given["input_shape"])
    return (rows, given["input_dim"]) if "input_dim" in given else None
