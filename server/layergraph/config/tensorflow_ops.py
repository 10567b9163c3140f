"""TensorFlow functions that Keras 2 stored as layers (TFOpLambda, SlicingOpLambda), as operations of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layergraph.config.spec import CallSpec, TensorRef
from layergraph.config.tensorflow_functions import LOST, function_named

#: Layer classes that hold a TensorFlow function.
CLASSES = frozenset({"TFOpLambda", "SlicingOpLambda"})


class UnknownFunctionError(Exception):
    """A function, or one of its arguments, isn't in the table. The text names it."""


#: Arguments without effect, with the values for which that holds; None means any value.
_HARMLESS: Mapping[str, tuple[Any, ...] | None] = {
    "a_is_sparse": (False,),
    "b_is_sparse": (False,),
    "bad_indices_policy": ("", "DEFAULT"),
    "conjugate": (False,),
    "data_format": ("NHWC",),
    "dtype_hint": None,
    "message": None,
    "name": None,
    "optimize": None,
    "out_idx": ("int32",),
    "out_type": ("int32",),
    "output_dtype": None,
    "partition_strategy": None,
    "preferred_dtype": None,
    "shape": None,
    "use_cudnn_on_gpu": None,
    "validate_indices": None,
    "validate_shape": None,
    "var": None,
}


def translated(function: Any, call: CallSpec) -> tuple[str, dict[str, Any], CallSpec]:
    """Returns class name and options of the operation, and its call. Raises UnknownFunctionError."""
    known = function_named(function)
    if known is None:
        lost = LOST.get(function) if isinstance(function, str) else None
        reason = f"can't be loaded: files don't contain {lost}" if lost else "is not supported"
        raise UnknownFunctionError(f"function {str(function)[:80]!r} of TensorFlow {reason}")
    # None as a window function means no window; for other arguments it means the default.
    kept = {*known.tensors, "window_fn"}
    given = {name: value for name, value in call.kwargs.items() if value is not None or name in kept}
    operation, options = known.operation, {**known.defaults, **known.fixed}
    args = list(call.args)
    if known.joined and len(args) == 1 and not isinstance(args[0], list):
        args = [[args[0]]]
    kwargs: dict[str, Any] = {}
    for name, value in given.items():
        if name in known.arguments:
            kwargs[known.arguments[name]] = value
        elif name in known.options:
            key = known.options[name]
            if holds_tensor(value):
                kwargs[key] = value
                options.pop(key, None)
            else:
                options[key] = value
        elif name not in known.tensors and (function, name) not in _READ and not _is_harmless(name, value):
            argument = f"{name[:40]}={str(value)[:40]!r}"
            raise UnknownFunctionError(f"function {function!r} of TensorFlow is not supported with {argument}")
    args += [given[name] for name in known.tensors if name in given]
    if function in LOST and len(args) < 2:
        raise UnknownFunctionError(
            f"function {function!r} of TensorFlow can't be loaded: files don't contain {LOST[function]}"
        )
    special = _SPECIAL.get(operation)
    if special is not None:
        operation, options, args, kwargs = special(options, args, kwargs, given)
    return operation, options, CallSpec(tuple(args), kwargs)


def holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor of the graph, or a list that contains one."""
    if isinstance(value, (list, tuple)):
        return any(holds_tensor(item) for item in value)
    return isinstance(value, TensorRef)


def _key(value: Any) -> Any:
    """Converts a subscript to Python's form; slices with tensors as ends are returned unchanged."""
    if isinstance(value, list):
        return tuple(_key(item) for item in value)
    if isinstance(value, Mapping) and not any(isinstance(end, TensorRef) for end in value.values()):
        return slice(*(value.get(name) for name in ("start", "stop", "step")))
    return value


def _is_harmless(name: str, value: Any) -> bool:
    if name not in _HARMLESS:
        return False
    harmless = _HARMLESS[name]
    return harmless is None or any(value is known or value == known for known in harmless)


def subscript(
    begin: Sequence[Any], end: Sequence[Any], strides: Sequence[Any], masks: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Converts the arguments of tf.strided_slice to a Python subscript."""
    bits = {
        name: int(masks.get(f"{name}_mask") or 0) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    key: list[Any] = []
    for i, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << i
        if bits["ellipsis"] & bit:
            key.append(Ellipsis)
        elif bits["new_axis"] & bit:
            key.append(None)
        elif bits["shrink_axis"] & bit:
            key.append(first)
        else:
            start, stop = None if bits["begin"] & bit else first, None if bits["end"] & bit else last
            key.append({"start": start, "stop": stop, "step": step})
    return tuple(key)


# Special cases.

_Parts = tuple[str, dict[str, Any], list[Any], dict[str, Any]]
_Special = Callable[[dict[str, Any], list[Any], dict[str, Any], Mapping[str, Any]], _Parts]


def _pad(options: dict[str, Any], args: list[Any], kwargs: dict[str, Any], given: Mapping[str, Any]) -> _Parts:
    if "pad_width" in kwargs:
        raise UnknownFunctionError("function 'pad' of TensorFlow is not supported with widths that are tensors")
    return "Pad", {**options, "mode": str(options.get("mode", "constant")).lower()}, args, kwargs


def _split(options: dict[str, Any], args: list[Any], kwargs: dict[str, Any], given: Mapping[str, Any]) -> _Parts:
    if not isinstance(options.get("indices_or_sections"), list):
        return "Split", options, args, kwargs
    sizes = options.pop("indices_or_sections")
    return "tf>SplitSizes", {**options, "sizes": sizes}, args, kwargs


def _fill(options: dict[str, Any], args: list[Any], kwargs: dict[str, Any], given: Mapping[str, Any]) -> _Parts:
    # `dims` comes first in TensorFlow, and may hold tensors.
    return "Full", options, [given.get("value", 0)], {"shape": args[0]}


def _item(options: dict[str, Any], args: list[Any], kwargs: dict[str, Any], given: Mapping[str, Any]) -> _Parts:
    if "begin" not in given:
        return "GetItem", options, [args[0], *(_key(key) for key in args[1:])], kwargs
    begin, end = given["begin"], given.get("end") or []
    strides = given.get("strides") or [1] * (len(begin) if isinstance(begin, list) else 0)
    if not all(isinstance(value, list) and len(value) == len(strides) for value in (begin, end, strides)):
        raise UnknownFunctionError(
            "function 'strided_slice' of TensorFlow is not supported with positions that aren't lists"
        )
    return "GetItem", options, [args[0], subscript(begin, end, strides, given)], kwargs


def _where(options: dict[str, Any], args: list[Any], kwargs: dict[str, Any], given: Mapping[str, Any]) -> _Parts:
    return ("Where" if len(args) > 1 else "tf>Where"), options, [arg for arg in args if arg is not None], kwargs


#: Operation -> converter of options and call, for cases that the table doesn't cover.
_SPECIAL: Mapping[str, _Special] = {
    "Full": _fill,
    "GetItem": _item,
    "Pad": _pad,
    "Split": _split,
    "Where": _where,
}
#: Arguments that these converters read.
_READ = frozenset(
    {
        *(
            (name, argument)
            for name in ("strided_slice", "compat.v1.strided_slice")
            for argument in (
                "begin",
                "end",
                "strides",
                "begin_mask",
                "end_mask",
                "ellipsis_mask",
                "new_axis_mask",
                "shrink_axis_mask",
            )
        ),
        ("fill", "value"),
    }
)
