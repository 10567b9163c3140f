"""Options that every layer has, and its weights, with those of the layers inside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from layergraph.config.options import Configurable, boolean, option, optional, unicode_text
from layergraph.constraints import constraint as constraint_of
from layergraph.errors import GraphError
from layergraph.functional import scopes
from layergraph.functional.dtypes import DTypePolicy, dtype_name, dtype_policy
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.weight import Weight
from layergraph.initializers import initializer as initializer_of
from layergraph.regularizers import regularizer as regularizer_of

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: Positional arguments of `add_weight`: with the name first, and in Keras's order.
_OUR_ORDER = ("name", "shape", "initializer")
_KERAS_ORDER = ("shape", "initializer", "dtype")


class _LayerOptions(Configurable):
    """Options that every layer has.

    Some layers also take `activity_regularizer` by position: they redeclare it, without a type, since type checkers
    want a field to stay in the class that first declares it.
    """

    name: str = option(optional(unicode_text), default=None, kw_only=True)
    trainable: bool = option(boolean, default=True, kw_only=True)
    dtype: Any = option(dtype_policy, default=None, kw_only=True)
    activity_regularizer: Any = option(regularizer_of, default=None, kw_only=True)


class LayerWeights(_LayerOptions):
    """The weights of a layer: its own, and those of its sublayers, which are frozen if it is."""

    #: How the layer is stored in files.
    storage: ClassVar[StorageLayout] = StorageLayout()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.own_weights: list[Weight] = []
        self.sublayers: dict[str, Layer] = {}
        self._trainable = True
        super().__init__(*args, **kwargs)

    def add_weight(
        self,
        *args: Any,
        name: str | None = None,
        shape: Any = (),
        initializer: Any = None,
        trainable: bool = True,
        dtype: Any = None,
        autocast: bool = True,
        memory_order: tuple[int, ...] | None = None,
        regularizer: Any = None,
        constraint: Any = None,
    ) -> Weight:
        """Creates a weight: `w.<name>` in `forward`; in `call`, the attribute that it is assigned to.

        shape                    length of each axis, all known; () for a scalar
        initializer              a name, an object or a function (shape, dtype) -> tensor; by default "glorot_uniform"
                                 for floating-point types and "zeros" for others
        regularizer, constraint  names, objects or functions of the tensor
        dtype                    by default the layer's dtype

        Positional arguments: name, shape, initializer, or in Keras's order shape, initializer, dtype. Raises GraphError
        if an axis has an unknown length, ConfigError for unknown names. Source: keras.layers.Layer.add_weight.
        """
        if args:
            order = _OUR_ORDER if isinstance(args[0], str) else _KERAS_ORDER
            given = dict(zip(order, args, strict=False))
            name, shape = given.get("name", name), given.get("shape", shape)
            initializer, dtype = given.get("initializer", initializer), given.get("dtype", dtype)
        name = name or self._free_weight_name()
        lengths = (shape,) if isinstance(shape, int) else tuple(shape or ())
        if any(length is None for length in lengths):
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): weight '{name}' would have shape {lengths}; "
                "every axis that its shape depends on must have a known length"
            )
        dtype = self.dtype if dtype is None else dtype_name(dtype)
        if initializer is None:
            initializer = "glorot_uniform" if "float" in dtype else "zeros"
        weight = Weight(
            scopes.path(self, self.storage.scope),
            name,
            tuple(int(length) for length in lengths),
            dtype,
            _resolved(initializer, initializer_of),
            trainable=trainable,
            autocast=autocast,
            memory_order=memory_order,
            regularizer=_resolved(regularizer, regularizer_of),
            constraint=_resolved(constraint, constraint_of),
        )
        self.own_weights.append(weight)
        weight.trainable = trainable and self._trainable
        return weight

    def add_weight_by_options(
        self, name: str, shape: Any, *, options: str = "", initializer: Any = None, **how: Any
    ) -> Weight:
        """Creates a weight with the layer's options `<name>_initializer`, `<name>_regularizer`, `<name>_constraint`.

        options       what the options are named after, if not after the weight
        initializer   instead of that of the options
        how           other arguments of `add_weight`
        """
        given = {key: getattr(self, f"{options or name}_{key}") for key in ("regularizer", "constraint")}
        if initializer is None:
            initializer = getattr(self, f"{options or name}_initializer")
        return self.add_weight(name, shape, initializer, **given, **how)

    def _free_weight_name(self) -> str:
        """Returns the next of `variable`, `variable_1`, ..., Keras's names of weights without a name."""
        taken = {weight.name for weight in self.own_weights}
        return next(name for n in itertools.count() if (name := f"variable_{n}" if n else "variable") not in taken)

    @property
    def keeps_statistics(self) -> bool:
        """Whether calls in training update weights of the layer outside of the optimizer, such as moving averages."""
        return any(not weight.created_trainable for weight in self.own_weights)

    @property  # type: ignore[misc]  # the option sets it
    def dtype(self) -> str:
        """Dtype of the weights."""
        return self.dtype_policy.variable_dtype

    @dtype.setter
    def dtype(self, policy: DTypePolicy) -> None:
        self.dtype_policy = policy

    @property
    def compute_dtype(self) -> str:
        """Dtype of the computation."""
        return self.dtype_policy.compute_dtype

    @property  # type: ignore[misc]  # the option sets it
    def trainable(self) -> bool:
        """Whether training may change the layer's weights. Setting it sets all sublayers, too."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for weight in self.own_weights:
            weight.trainable = self._trainable and weight.created_trainable
        for layer in self.sublayers.values():
            layer.trainable = value

    @property
    def weights(self) -> list[Weight]:
        """All weights, in Keras's order: the layer's own trainable ones, its other ones, then those of sublayers."""
        own = [w for w in self.own_weights if w.created_trainable]
        own += [w for w in self.own_weights if not w.created_trainable]
        below = [weight for layer in self.sublayers.values() for weight in layer.weights]
        return list(dict.fromkeys([*own, *below]))

    @property
    def trainable_weights(self) -> list[Weight]:
        """The weights that training changes."""
        return [weight for weight in self.weights if weight.trainable] if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Weight]:
        """The weights that training doesn't change."""
        trainable = set(self.trainable_weights)
        return [weight for weight in self.weights if weight not in trainable]

    def get_weights(self) -> list[np.ndarray[Any, Any]]:
        """Returns copies of all weights, in Keras's order."""
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, values: list[Any]) -> None:
        """Sets all weights, in Keras's order. Raises GraphError if their number differs, DataError if a shape does."""
        weights = self.weights
        if len(values) != len(weights):
            raise GraphError(f"layer '{self.name}': got {len(values)} weights, expected {len(weights)}")
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)

    def count_params(self) -> int:
        """Number of elements of all weights."""
        return sum(weight.size for weight in self.weights)


def _resolved(given: Any, by_name: Callable[[Any], Any]) -> Any:
    """Returns functions unchanged; classes, names and serialised forms are resolved by the table of their kind."""
    return by_name(given) if isinstance(given, (str, Mapping, type)) else given
