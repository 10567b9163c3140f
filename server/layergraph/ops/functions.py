"""Operations as functions with Keras's names (keras.ops), for symbolic tensors and torch tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from layergraph.config.names import snake_case
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten, map_structure
from layergraph.functional.tensor import Shape, Tensor
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, Typed
from layergraph.ops.table import OPERATIONS

#: Options of layers, which no function of Keras has.
_OF_LAYERS = frozenset({"name", "trainable", "dtype", "activity_regularizer"})
#: Keras's order of arguments, where it isn't tensors first, then options.
_ORDERS: Mapping[str, str] = {
    "average": "x axis weights",
    "bincount": "x weights minlength sparse",
    "convert_to_tensor": "x dtype sparse ragged",
    "full": "shape fill_value dtype",
    "geomspace": "start stop num endpoint dtype axis",
    "linspace": "start stop num endpoint retstep dtype axis",
    "logspace": "start stop num endpoint base dtype axis",
    "multi_hot": "x num_classes axis dtype sparse",
    "nanpercentile": "x q axis method keepdims",
    "nanquantile": "x q axis method keepdims",
    "one_hot": "x num_classes axis dtype sparse",
    "pad": "x pad_width mode constant_values",
    "percentile": "x q axis method keepdims",
    "quantile": "x q axis method keepdims",
}
#: Keras's names that aren't the class's in snake case.
_ALIASES: Mapping[str, str] = {"hard_swish": "hard_silu", "swish": "silu", "abs": "absolute"}
#: Name -> class of the operation.
_KINDS: dict[str, type[Operation]] = {}
#: Keras's names of the first argument.
_FIRST = ("x", "inputs", "variable", "operands", "xs")


def _function(name: str, kind: type[Operation]) -> Callable[..., Any]:
    takes = tuple("x" if argument in _FIRST else argument for argument in kind.call_argument_names)
    order = _ORDERS.get(name, "").split() or [
        *dict.fromkeys((*takes, *(option for option in kind._options if option not in _OF_LAYERS))),
        *(["dtype"] if issubclass(kind, Typed) else []),
    ]

    def function(*args: Any, **kwargs: Any) -> Any:
        if len(args) > len(order):
            raise GraphError(f"ops.{name}: got {len(args)} arguments by position, expected at most {order}")
        given = {**dict(zip(order, args, strict=False)), **{_first_as_x(key): value for key, value in kwargs.items()}}
        tensors = {key: value for key, value in given.items() if _is_call_argument(key, value, takes, kind)}
        options = {key: value for key, value in given.items() if key not in tensors}
        ordered = {_own_name(key, takes, kind): tensors[key] for key in takes if key in tensors}
        return _execute(name, kind, options, ordered)

    function.__name__ = name
    function.__doc__ = f"keras.ops.{name}({', '.join(order)}), of symbolic tensors or torch tensors."
    return function


def _first_as_x(key: str) -> str:
    return "x" if key in _FIRST else key


def _own_name(key: str, takes: tuple[str, ...], kind: type[Operation]) -> str:
    """The operation's own name of an argument."""
    return kind.call_argument_names[takes.index(key)]


def _is_call_argument(key: str, value: Any, takes: tuple[str, ...], kind: type[Operation]) -> bool:
    """Whether an argument is passed to the call. Some arguments are options if they contain no tensor."""
    if key not in takes:
        return False
    return key not in kind._options or any(isinstance(leaf, (Tensor, torch.Tensor)) for leaf in flatten(value))


def _execute(name: str, kind: type[Operation], options: dict[str, Any], given: dict[str, Structure]) -> Any:
    if any(isinstance(leaf, Tensor) for leaf in flatten(given)):
        return kind(**options)(**given)
    try:
        operation = _cached(name, tuple(options.items()))
    except TypeError:
        # Some options can't be hashed, such as lists.
        operation = kind(name=name, **options)
    args, kwargs = operation._positional((), _as_tensors(given))
    return operation.forward(CallContext(losses=None), Weights(), *args, **kwargs)


@functools.lru_cache(1024)
def _cached(name: str, options: tuple[tuple[str, Any], ...]) -> Operation:
    return _KINDS[name](name=name, **dict(options))


def _as_tensors(given: dict[str, Structure]) -> dict[str, Structure]:
    """Converts arrays to tensors on the device of the others; without any tensor, converts the first argument."""
    leaves = [leaf for leaf in flatten(given) if isinstance(leaf, torch.Tensor)]
    device = leaves[0].device if leaves else None

    def converted(leaf: Any) -> Any:
        return torch.as_tensor(leaf, device=device) if isinstance(leaf, (np.ndarray, np.generic)) else leaf

    made: dict[str, Structure] = {name: map_structure(converted, value) for name, value in given.items()}
    if made and not any(isinstance(leaf, torch.Tensor) for leaf in flatten(made)):
        first = next(iter(made))
        made[first] = torch.as_tensor(made[first])
    return made


def shape(x: Any) -> tuple[Any, ...]:
    """Lengths of the axes; None for unknown lengths of a symbolic tensor (keras.ops.shape)."""
    lengths: Shape = tuple(x.shape) if hasattr(x, "shape") else np.shape(x)
    return lengths


def zeros(shape: Any, dtype: Any = None) -> torch.Tensor:
    """A torch tensor of zeros, float32 by default (keras.ops.zeros)."""
    return torch.zeros(shape, dtype=_type(dtype))


def ones(shape: Any, dtype: Any = None) -> torch.Tensor:
    """A torch tensor of ones, float32 by default (keras.ops.ones)."""
    return torch.ones(shape, dtype=_type(dtype))


def convert_to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Returns a torch tensor's values as an array (keras.ops.convert_to_numpy)."""
    return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x)


def _type(dtype: Any) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else torch_dtype(dtype or "float32")


def _functions() -> dict[str, Callable[..., Any]]:
    kinds: dict[str, type[Layer]] = {name: kind for name, kind in OPERATIONS.items() if not name.startswith("tf>")}
    made: dict[str, Callable[..., Any]] = {}
    for class_name, kind in kinds.items():
        if issubclass(kind, Operation) and not kind.variadic:
            name = snake_case(class_name)
            _KINDS[name] = kind
            made[name] = _function(name, kind)
            # Keras's names vary: `MaxPool` is max_pool, but `LogSumExp` is logsumexp.
            made.setdefault(name.replace("_", ""), made[name])
    made.update({alias: made[name] for alias, name in _ALIASES.items() if name in made})
    own = {function.__name__: function for function in (shape, zeros, ones, convert_to_numpy)}
    return {**made, **own, "einsum": einsum}


def einsum(subscripts: str, *operands: Any) -> Any:
    """Sums of products of tensors in Einstein notation (keras.ops.einsum)."""
    if any(isinstance(operand, Tensor) for operand in operands):
        return OPERATIONS["Einsum"](subscripts=subscripts)(*operands)
    return torch.einsum(subscripts, *operands)


#: Name -> function.
FUNCTIONS: Mapping[str, Callable[..., Any]] = _functions()
