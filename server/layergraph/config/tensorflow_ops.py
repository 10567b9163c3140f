"""Functions of TensorFlow that Keras 2 kept as layers (TFOpLambda, SlicingOpLambda) -> operations of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from layergraph.config.spec import CallSpec, TensorRef

#: Layers that hold a function of TensorFlow.
CLASSES = frozenset({"TFOpLambda", "SlicingOpLambda"})


class UnknownFunctionError(Exception):
    """A function, or one of its arguments, isn't in the table. The text says which."""


@dataclass(frozen=True, slots=True)
class Function:
    """How one function is an operation.

    operation   class name of the operation
    tensors     names of the arguments after the first, in the order in which the operation takes them
    options     argument -> option of the operation
    fixed       options that the function means
    defaults    arguments -> what the function means without them, where the operation means something else
    joined      whether the first argument is a list of tensors
    """

    operation: str
    tensors: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    joined: bool = False


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_REDUCED = {"axis": "axis", "reduction_indices": "axis", "keepdims": "keepdims", "keep_dims": "keepdims"}
_CAST = Function("Cast", options=_same("dtype"))

_UNARY = {
    "Abs": "math.abs abs",
    "Arccos": "math.acos",
    "Arccosh": "math.acosh",
    "Arcsin": "math.asin",
    "Arcsinh": "math.asinh",
    "Arctan": "math.atan",
    "Arctanh": "math.atanh",
    "Ceil": "math.ceil",
    "Cos": "math.cos",
    "Cosh": "math.cosh",
    "Erf": "math.erf",
    "Erfc": "math.erfc",
    "Erfinv": "math.erfinv",
    "Exp": "math.exp",
    "Expm1": "math.expm1",
    "Floor": "math.floor",
    "Isfinite": "math.is_finite",
    "Isinf": "math.is_inf",
    "Isnan": "math.is_nan",
    "Log": "math.log",
    "Log1p": "math.log1p",
    "LogSigmoid": "math.log_sigmoid",
    "LogicalNot": "math.logical_not",
    "Negative": "math.negative",
    "Reciprocal": "math.reciprocal",
    "Relu": "nn.relu",
    "Relu6": "nn.relu6",
    "Rsqrt": "math.rsqrt",
    "Round": "math.round math.rint",
    "Selu": "nn.selu",
    "Sigmoid": "math.sigmoid nn.sigmoid",
    "Sign": "math.sign",
    "Silu": "nn.silu nn.swish",
    "Sin": "math.sin",
    "Sinh": "math.sinh",
    "Softplus": "math.softplus nn.softplus",
    "Softsign": "nn.softsign math.softsign",
    "Sqrt": "math.sqrt",
    "Square": "math.square",
    "StopGradient": "stop_gradient",
    "Tan": "math.tan",
    "Tanh": "math.tanh nn.tanh",
    "tf>Identity": "identity convert_to_tensor debugging.check_numerics compat.v1.identity",
    "tf>Shape": "shape compat.v1.shape",
    "Size": "size compat.v1.size",
    "Ndim": "rank",
}
_BINARY = {
    "Add": "math.add __operators__.add add",
    "Arctan2": "math.atan2",
    "Divide": "math.divide",
    "DivideNoNan": "math.divide_no_nan",
    "Equal": "math.equal __operators__.eq",
    "FloorDivide": "math.floordiv math.floor_div compat.v1.floor_div",
    "Greater": "math.greater",
    "GreaterEqual": "math.greater_equal",
    "Less": "math.less",
    "LessEqual": "math.less_equal",
    "LogicalAnd": "math.logical_and",
    "LogicalOr": "math.logical_or",
    "LogicalXor": "math.logical_xor",
    "Maximum": "math.maximum",
    "Minimum": "math.minimum",
    "Mod": "math.floormod math.mod",
    "Multiply": "math.multiply __operators__.mul",
    "NotEqual": "math.not_equal __operators__.ne",
    "Power": "math.pow",
    "Subtract": "math.subtract __operators__.sub",
    "TrueDivide": "math.truediv __operators__.truediv compat.v1.div",
    "tf>SquaredDifference": "math.squared_difference",
    "tf>TruncateDiv": "truncatediv",
    "tf>Xdivy": "math.xdivy",
    "tf>Xlogy": "math.xlogy",
}
_REDUCTIONS = {
    "All": "math.reduce_all compat.v1.reduce_all",
    "Any": "math.reduce_any compat.v1.reduce_any",
    "Logsumexp": "math.reduce_logsumexp compat.v1.reduce_logsumexp",
    "Max": "math.reduce_max compat.v1.reduce_max",
    "Mean": "math.reduce_mean compat.v1.reduce_mean",
    "Min": "math.reduce_min compat.v1.reduce_min",
    "Prod": "math.reduce_prod compat.v1.reduce_prod",
    "Std": "math.reduce_std",
    "Sum": "math.reduce_sum compat.v1.reduce_sum",
    "Var": "math.reduce_variance",
}


def _named(table: Mapping[str, str], function: Callable[[str], Function]) -> Iterator[tuple[str, Function]]:
    for operation, names in table.items():
        for name in names.split():
            yield name, function(operation)


#: Name in TensorFlow -> operation. What isn't here is refused by name.
FUNCTIONS: Mapping[str, Function] = {
    **dict(_named(_UNARY, Function)),
    **dict(_named(_BINARY, lambda operation: Function(operation, ("y", "other", "x2", "x")))),
    **dict(_named(_REDUCTIONS, lambda operation: Function(operation, options=_REDUCED))),
    "__operators__.getitem": Function("GetItem", ("slice_spec",)),
    "cast": _CAST,
    "clip_by_value": Function("Clip", options={"clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "compat.v1.argmax": Function("Argmax", options={"axis": "axis", "dimension": "axis"}),
    "compat.v1.gather": Function("Take", ("indices",), {"axis": "axis"}, defaults={"axis": 0}),
    "compat.v1.pad": Function("Pad", ("constant_values",), {"paddings": "pad_width", "mode": "mode"}),
    "compat.v1.squeeze": Function("Squeeze", options={"axis": "axis", "squeeze_dims": "axis"}),
    "compat.v1.transpose": Function("Transpose", options={"perm": "axes"}),
    "compat.v1.where": Function("Where", ("x", "y")),
    "concat": Function("Concatenate", options=_same("axis"), joined=True),
    "expand_dims": Function("ExpandDims", options=_same("axis")),
    "compat.v1.expand_dims": Function("ExpandDims", options={"axis": "axis", "dim": "axis"}),
    "fill": Function("Full", ("dims",)),
    "gather": Function("Take", ("indices",), {"axis": "axis"}, defaults={"axis": 0}),
    "image.resize": Function("Resize", options={"size": "size", "method": "interpolation", "antialias": "antialias"}),
    "image.rgb_to_grayscale": Function("RGBToGrayscale"),
    "image.rgb_to_hsv": Function("RGBToHSV"),
    "image.hsv_to_rgb": Function("HSVToRGB"),
    "compat.v1.image.resize_bilinear": Function(
        "tf>ResizeOld", options=_same("size", "align_corners", "half_pixel_centers")
    ),
    "compat.v1.image.resize_nearest_neighbor": Function(
        "tf>ResizeOld", options=_same("size", "align_corners", "half_pixel_centers"), fixed={"nearest": True}
    ),
    "image.resize_bilinear": Function("tf>ResizeOld", options=_same("size", "align_corners", "half_pixel_centers")),
    "image.resize_nearest_neighbor": Function(
        "tf>ResizeOld", options=_same("size", "align_corners", "half_pixel_centers"), fixed={"nearest": True}
    ),
    "linalg.matmul": Function("tf>Matmul", ("b", "y"), _same("transpose_a", "transpose_b")),
    "linalg.norm": Function("Norm", options=_same("ord", "axis", "keepdims")),
    "compat.v1.norm": Function("Norm", options=_same("ord", "axis", "keepdims")),
    "linalg.l2_normalize": Function("Normalize", options=_same("axis", "epsilon"), defaults={"epsilon": 1e-12}),
    "linalg.matrix_transpose": Function("Swapaxes", fixed={"axis1": -1, "axis2": -2}),
    "math.add_n": Function("tf>AddN", joined=True),
    "math.accumulate_n": Function("tf>AddN", joined=True),
    "math.argmax": Function("Argmax", options=_same("axis"), defaults={"axis": 0}),
    "math.argmin": Function("Argmin", options=_same("axis"), defaults={"axis": 0}),
    "math.cumprod": Function("Cumprod", options=_same("axis"), defaults={"axis": 0}),
    "math.cumsum": Function("Cumsum", options=_same("axis"), defaults={"axis": 0}),
    "math.l2_normalize": Function("Normalize", options=_same("axis", "epsilon"), defaults={"epsilon": 1e-12}),
    "math.reduce_euclidean_norm": Function("Norm", options=_same("axis", "keepdims")),
    "math.top_k": Function("TopK", options=_same("k", "sorted"), defaults={"k": 1}),
    "nn.elu": Function("Elu"),
    "nn.gelu": Function("Gelu", options=_same("approximate"), defaults={"approximate": False}),
    "nn.l2_normalize": Function("Normalize", options=_same("axis", "epsilon"), defaults={"epsilon": 1e-12}),
    "nn.leaky_relu": Function("LeakyRelu", options={"alpha": "negative_slope"}),
    "nn.log_softmax": Function("LogSoftmax", options=_same("axis")),
    "nn.softmax": Function("Softmax", options=_same("axis")),
    "one_hot": Function("OneHot", options={"depth": "num_classes", "axis": "axis", "dtype": "dtype"}),
    "ones_like": Function("OnesLike", options=_same("dtype")),
    "pad": Function("Pad", ("constant_values",), {"paddings": "pad_width", "mode": "mode"}),
    "range": Function("Arange", ("limit", "delta")),
    "repeat": Function("Repeat", options=_same("repeats", "axis")),
    "reshape": Function("Reshape", options={"shape": "newshape"}),
    "reverse": Function("Flip", options=_same("axis")),
    "roll": Function("Roll", options=_same("shift", "axis")),
    "space_to_depth": Function("SpaceToDepth", options=_same("block_size")),
    "nn.space_to_depth": Function("SpaceToDepth", options=_same("block_size")),
    "nn.depth_to_space": Function("DepthToSpace", options=_same("block_size")),
    "sort": Function("Sort", options=_same("axis")),
    "argsort": Function("Argsort", options=_same("axis")),
    "split": Function("Split", options={"num_or_size_splits": "indices_or_sections", "axis": "axis"}),
    "squeeze": Function("Squeeze", options=_same("axis")),
    "stack": Function("Stack", options=_same("axis"), joined=True),
    "tensordot": Function("Tensordot", ("b",), _same("axes")),
    "tile": Function("Tile", options={"multiples": "repeats"}),
    "transpose": Function("Transpose", options={"perm": "axes"}),
    "unstack": Function("Unstack", options=_same("num", "axis")),
    "broadcast_to": Function("BroadcastTo", options=_same("shape")),
    "where": Function("Where", ("x", "y")),
    "zeros_like": Function("ZerosLike", options=_same("dtype")),
}

#: Arguments that change nothing, with the values for which that holds; any value for those with None.
_HARMLESS: Mapping[str, tuple[Any, ...] | None] = {
    "name": None,
    "validate_indices": None,
    "out_type": None,
    "output_type": None,
    "optimize": None,
    "conjugate": (False,),
    "batch_dims": (0,),
    "adjoint_a": (False,),
    "adjoint_b": (False,),
    "a_is_sparse": (False,),
    "b_is_sparse": (False,),
    "exclusive": (False,),
    "reverse": (False,),
    "on_value": (None, 1),
    "off_value": (None, 0),
    "preserve_aspect_ratio": (False,),
    "data_format": (None, "NHWC"),
    "direction": ("ASCENDING",),
    "stable": None,
    "var": None,
    "message": None,
    "dtype_hint": None,
}


def translated(function: Any, call: CallSpec) -> tuple[str, dict[str, Any], CallSpec]:
    """Class name and options of the operation, and its call. Raises UnknownFunctionError."""
    known = FUNCTIONS.get(function) if isinstance(function, str) else None
    if known is None:
        raise UnknownFunctionError(f"function {str(function)[:80]!r} of TensorFlow is not supported")
    given = {name: value for name, value in call.kwargs.items() if value is not None or name in known.tensors}
    operation, options = known.operation, {**known.defaults, **known.fixed}
    args = list(call.args)
    if known.joined and len(args) == 1 and not isinstance(args[0], list):
        args = [[args[0]]]
    if operation == "Full":
        # `dims` comes first in TensorFlow, and may hold tensors.
        return operation, {}, CallSpec((given.get("value", 0),), {"shape": args[0]})
    kwargs: dict[str, Any] = {}
    for name, value in given.items():
        if name in known.options:
            key = known.options[name]
            if holds_tensor(value):
                kwargs[key] = value
                options.pop(key, None)
            else:
                options[key] = value
        elif name not in known.tensors and not _is_harmless(name, value):
            raise UnknownFunctionError(f"function {function!r} of TensorFlow with {name[:40]}={str(value)[:40]!r}")
    args += [given[name] for name in known.tensors if name in given]
    if operation == "GetItem":
        args[1:] = [_key(key) for key in args[1:]]
    special = _SPECIAL.get(operation)
    if special is not None:
        operation = special(operation, options, given)
    return operation, options, CallSpec(tuple(args), kwargs)


def holds_tensor(value: Any) -> bool:
    """Whether a tensor of the graph stands anywhere in lists."""
    if isinstance(value, (list, tuple)):
        return any(holds_tensor(item) for item in value)
    return isinstance(value, TensorRef)


def _key(value: Any) -> Any:
    """A subscript as Python has it; slices whose ends are tensors stay as they are."""
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


def _pad(operation: str, options: dict[str, Any], given: Mapping[str, Any]) -> str:
    options["mode"] = str(options.get("mode", "constant")).lower()
    return operation


def _resize(operation: str, options: dict[str, Any], given: Mapping[str, Any]) -> str:
    method = options.get("interpolation", "bilinear")
    # A member of an enumeration of numbers, in old files.
    options["interpolation"] = {0: "bilinear", 1: "nearest", 2: "bicubic", 3: "area"}.get(method, method)
    return operation


def _normalize(operation: str, options: dict[str, Any], given: Mapping[str, Any]) -> str:
    # TensorFlow bounds the square of the length.
    options["epsilon"] = float(options["epsilon"]) ** 0.5
    return operation


def _split(operation: str, options: dict[str, Any], given: Mapping[str, Any]) -> str:
    sizes = options.get("indices_or_sections")
    if isinstance(sizes, list):
        options["sizes"] = options.pop("indices_or_sections")
        return "tf>SplitSizes"
    return operation


def _matmul(operation: str, options: dict[str, Any], given: Mapping[str, Any]) -> str:
    if any(options.get(key) for key in ("transpose_a", "transpose_b")):
        return operation
    options.clear()
    return "Matmul"


_SPECIAL: Mapping[str, Callable[[str, dict[str, Any], Mapping[str, Any]], str]] = {
    "Normalize": _normalize,
    "Pad": _pad,
    "Resize": _resize,
    "Split": _split,
    "tf>Matmul": _matmul,
}
