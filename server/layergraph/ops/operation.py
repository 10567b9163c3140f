"""Operations: layers without weights, which files list among the layers (keras.Operation)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from layergraph.config.options import Expected, short_repr
from layergraph.errors import ConfigError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import dtype, torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten, map_structure
from layergraph.functional.weights import Weights


class Operation(Layer):
    """An operation. Its options are those in the file; tensors and plain values are arguments of the call."""

    is_operation: ClassVar[bool] = True
    regularizes_activity: ClassVar[bool] = False
    # Operations compute in the dtypes of their arguments.
    autocast: ClassVar[bool] = False
    keras_module: ClassVar[str] = "keras.src.ops.numpy"
    #: Whether it accepts any number of tensors, and arguments of any name.
    variadic: ClassVar[bool] = False

    def _positional(
        self, args: tuple[Structure, ...], kwargs: dict[str, Structure]
    ) -> tuple[tuple[Structure, ...], dict[str, Structure]]:
        return (args, kwargs) if self.variadic and args else super()._positional(args, kwargs)

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
        """Computes the outputs. torch lacks most functions of uint16 and uint32: those are computed in int64."""
        try:
            return super().execute(context, w, args, kwargs, previous_mask, want_masks=want_masks)
        except NotImplementedError:
            given = [leaf.dtype for leaf in flatten([args, kwargs]) if isinstance(leaf, torch.Tensor)]
            unsigned = [kind for kind in (torch.uint16, torch.uint32) if kind in given]
            if not unsigned:
                raise
        args, kwargs = (map_structure(_in_int64, list(args)), map_structure(_in_int64, kwargs))
        outputs, masks = super().execute(context, w, args, kwargs, previous_mask, want_masks=want_masks)

        def narrowed(leaf: torch.Tensor) -> torch.Tensor:
            return leaf.to(unsigned[-1]) if leaf.dtype is torch.int64 else leaf

        return map_structure(narrowed, outputs), masks

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config of an operation: its name and its own options."""
        config = super().get_config()
        for key in ("trainable", "dtype"):
            del config[key]
        return config


def _in_int64(leaf: Any) -> Any:
    known = isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.uint16, torch.uint32)
    return leaf.to(torch.int64) if known else leaf


class Typed(Operation):
    """An operation with an option `dtype` for its result; None for no conversion."""

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        # The `dtype` of a layer is a policy, that of an operation isn't.
        self.element_type = None if dtype is None else self.validated("dtype", dtype)
        super().__init__(*args, **kwargs)

    @classmethod
    def validated(cls, name: str, value: Any) -> Any:
        """The normalised value of an option; for `dtype`, the name of a dtype. Raises ConfigError."""
        if name != "dtype" or value is None:
            return super().validated(name, value)
        try:
            return _element_type(value)
        except Expected as wrong:
            raise ConfigError(f"{cls.__name__}: option 'dtype' is {short_repr(value)}, expected {wrong}") from None

    def converted(self, x: torch.Tensor) -> torch.Tensor:
        """x in the dtype of the option."""
        return x if self.element_type is None else x.to(torch_dtype(self.element_type))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dtype": self.element_type}


def _element_type(value: Any) -> str:
    """Validator: a dtype; complex ones are allowed between operations."""
    return value if value in ("complex64", "complex128") else dtype(value)


def unknown_length(context: CallContext) -> int:
    """Placeholder, during shape inference, for a length that depends on the data."""
    return context.symbolic_dims.length if context.symbolic_dims is not None else 1


class Unary(Operation):
    """An elementwise function of one tensor."""

    computes_values = True

    function: ClassVar[Callable[[torch.Tensor], torch.Tensor]]

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> Any:
        return type(self).function(x)


class Binary(Operation):
    """A function of two operands, which broadcast. One of them may be a plain number."""

    computes_values = True

    function: ClassVar[Callable[[Any, Any], torch.Tensor]]

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> Any:  # type: ignore[override]
        return type(self).function(*as_tensors(x1, x2))


def as_tensors(x1: Any, x2: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Both operands as tensors. A plain number doesn't change the other's dtype, but a tensor without axes does, unlike
    in torch.
    """
    if isinstance(x1, torch.Tensor) and isinstance(x2, torch.Tensor):
        if x1.dtype is not x2.dtype and (x1.ndim == 0 or x2.ndim == 0):
            dtype = torch.promote_types(x1.dtype, x2.dtype)
            return x1.to(dtype), x2.to(dtype)
        return x1, x2
    like = x1 if isinstance(x1, torch.Tensor) else x2
    return _as_tensor(x1, like), _as_tensor(x2, like)


def as_floats(x: torch.Tensor) -> torch.Tensor:
    """x, converted to float32 unless it is floating-point or complex."""
    return x if x.is_floating_point() or x.is_complex() else x.to(torch.float32)


def _as_tensor(x: Any, like: torch.Tensor) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x
    if isinstance(x, float) and like.ndim == 0 and (like.is_floating_point() or like.is_complex()):
        return torch.tensor(x, device=like.device).to(like.dtype)
    # Not directly on `meta`, where torch doesn't read elements and so accepts lists of different lengths.
    made = torch.as_tensor(x).to(like.device)
    # Python integers are int32 in Keras if they fit.
    if made.dtype is torch.int64 and not isinstance(x, np.ndarray) and like.dtype is not torch.int64:
        narrow = made.to(torch.int32)
        return narrow if made.ndim or -(2**31) <= x < 2**31 else made
    return made


def function_node(name: str, function: Callable[..., Any], **flags: bool) -> type[Operation]:
    """An operation for a TensorFlow function, whose arguments are passed to `function` unchanged."""

    def forward(self: Operation, context: CallContext, w: Weights, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    members = {"forward": forward, "variadic": True, "keras_module": "layergraph.ops", "__doc__": function.__doc__}
    return type(name, (Operation,), {**members, **flags})


def operation(kind: type[Operation], name: str, module: str, function: Callable[..., Any]) -> type[Operation]:
    """An operation class with Keras's name and module, computed by `function`."""
    members = {"function": staticmethod(function), "keras_module": module, "__doc__": f"{module}.{name}."}
    return type(name, (kind,), members)
