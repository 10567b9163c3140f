"""Nodes of TensorFlow's graphs that Keras 2.2 to 2.4 kept as layers (TensorFlowOpLayer) -> operations of Keras 3.

A node is a NodeDef (tensorflow/core/framework/node_def.proto): as JSON, or as the bytes of a protobuf in text or
base64. Its constant inputs stand beside it by position.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from layergraph.config.spec import CallSpec
from layergraph.config.tensorflow_ops import UnknownFunctionError, holds_tensor, subscript

_MOST_BYTES = 1_000_000
#: Element types by number (tensorflow/core/framework/types.proto).
_TYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_TYPE_NAMES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    **{f"DT_{name.upper()}": name for name in _TYPES.values()},
}

Operation = tuple[str, dict[str, Any], CallSpec]


@dataclass(frozen=True, slots=True)
class _Node:
    """What counts of a node: its operation, and its attributes as plain values."""

    op: str
    attributes: Mapping[str, Any]


def graph_node(node_def: Any, constants: Any, call: CallSpec) -> Operation:
    """Class name and options of the operation, and its call. Raises UnknownFunctionError."""
    node = _node(node_def)
    build = _NODES.get(node.op)
    if build is None:
        raise UnknownFunctionError(f"operation {node.op[:80]!r} of TensorFlow is not supported")
    try:
        return build(node, _inputs(constants, call))
    except (KeyError, IndexError, TypeError, ValueError) as wrong:
        raise UnknownFunctionError(f"operation {node.op!r} of TensorFlow has a form that can't be read") from wrong


def _inputs(constants: Any, call: CallSpec) -> list[Any]:
    """All inputs in order: the constants at their positions, the tensors at the others."""
    first = call.args[0]
    tensors = iter(first if isinstance(first, list) else [first])
    known = {int(position): value for position, value in constants.items()} if isinstance(constants, Mapping) else {}
    result: list[Any] = []
    waiting = True
    while waiting or len(result) in known:
        if len(result) in known:
            result.append(known[len(result)])
            continue
        tensor = next(tensors, None)
        waiting = tensor is not None
        if waiting:
            result.append(tensor)
    return result


# --- the forms of a node ----------------------------------------------------------------------------------------------


def _node(node_def: Any) -> _Node:
    if isinstance(node_def, Mapping):
        attributes = node_def.get("attr")
        items = attributes.items() if isinstance(attributes, Mapping) else ()
        return _Node(str(node_def.get("op")), {str(key): _json_attribute(value) for key, value in items})
    if isinstance(node_def, str) and len(node_def) <= _MOST_BYTES:
        candidates = [node_def.encode("utf-8", "surrogateescape")]
        with suppress(binascii.Error, ValueError):
            candidates.append(base64.b64decode(node_def, validate=True))
        for data in candidates:
            try:
                return _from_protobuf(data)
            except (_WireError, UnicodeDecodeError, struct.error):
                continue
    raise UnknownFunctionError("node_def has no form that can be read")


def _json_attribute(value: Any) -> Any:
    """{"i": "1"}, {"b": true}, {"type": "DT_FLOAT"}, {"s": base64}, {"list": {"i": [...]}} as a plain value."""
    if not isinstance(value, Mapping):
        return None
    for key, item in value.items():
        if key == "i":
            return int(item)
        if key == "type":
            return _TYPE_NAMES.get(item)
        if key == "s":
            return base64.b64decode(item).decode("utf-8", "replace")
        if key == "list":
            numbers = item.get("i", []) if isinstance(item, Mapping) else []
            return [int(number) for number in numbers]
        return item
    return None


class _WireError(Exception):
    """The bytes are no protobuf."""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value: int | bytes
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise _WireError
        if at > len(data) or tag >> 3 == 0:
            raise _WireError
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _WireError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _WireError


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _WireError
    return value


def _from_protobuf(data: bytes) -> _Node:
    op = ""
    attributes: dict[str, Any] = {}
    for number, value in _fields(data):
        if number == 2:
            op = _bytes(value).decode("utf-8")
        elif number == 5:
            entry = dict(_fields(_bytes(value)))
            attributes[_bytes(entry.get(1, b"")).decode("utf-8")] = _attribute(_bytes(entry.get(2, b"")))
    if not op:
        raise _WireError
    return _Node(op, attributes)


def _attribute(data: bytes) -> Any:
    for number, value in _fields(data):
        if number == 1:
            return [n for field, n in _fields(_bytes(value)) if field == 3 for n in _numbers(n)]
        if number == 2:
            return _bytes(value).decode("utf-8", "replace")
        if number == 3:
            return _signed(value)
        if number == 4:
            return struct.unpack("<f", _bytes(value))[0]
        if number == 5:
            return bool(value)
        if number == 6:
            return _TYPES.get(value) if isinstance(value, int) else None
    return None


def _signed(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _WireError
    return value - 2**64 if value >= 2**63 else value


def _numbers(value: int | bytes) -> Iterator[int]:
    """A repeated integer: one, or several packed."""
    if isinstance(value, int):
        yield _signed(value)
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield _signed(number)


# --- the table --------------------------------------------------------------------------------------------------------

Build = Callable[[_Node, list[Any]], Operation]


def _plain(operation: str, **options: Any) -> Build:
    """All inputs are arguments."""
    return lambda node, inputs: (operation, dict(options), CallSpec(tuple(inputs)))


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _reduction(operation: str) -> Build:
    def build(node: _Node, inputs: list[Any]) -> Operation:
        options = {"axis": _listed(inputs[1]), "keepdims": bool(node.attributes.get("keep_dims", False))}
        if options["axis"] == []:
            return "tf>Identity", {}, CallSpec((inputs[0],))
        return operation, options, CallSpec((inputs[0],))

    return build


def _with_option(operation: str, option: str) -> Build:
    """The second input is an option, or an argument of that name where it is no constant."""

    def build(node: _Node, inputs: list[Any]) -> Operation:
        if holds_tensor(inputs[1]):
            return operation, {}, CallSpec((inputs[0],), {option: inputs[1]})
        return operation, {option: _listed(inputs[1])}, CallSpec((inputs[0],))

    return build


def _concat(node: _Node, inputs: list[Any]) -> Operation:
    return "Concatenate", {"axis": int(_listed(inputs[-1]))}, CallSpec((inputs[:-1],))


def _pack(node: _Node, inputs: list[Any]) -> Operation:
    return "Stack", {"axis": node.attributes.get("axis") or 0}, CallSpec((inputs,))


def _unpack(node: _Node, inputs: list[Any]) -> Operation:
    return "Unstack", {"axis": node.attributes.get("axis") or 0}, CallSpec((inputs[0],))


def _split(node: _Node, inputs: list[Any]) -> Operation:
    options = {"indices_or_sections": node.attributes["num_split"], "axis": int(_listed(inputs[0]))}
    return "Split", options, CallSpec((inputs[1],))


def _split_sizes(node: _Node, inputs: list[Any]) -> Operation:
    return "tf>SplitSizes", {"sizes": _listed(inputs[1]), "axis": int(_listed(inputs[2]))}, CallSpec((inputs[0],))


def _cast(node: _Node, inputs: list[Any]) -> Operation:
    return "Cast", {"dtype": node.attributes["DstT"]}, CallSpec((inputs[0],))


def _matmul(node: _Node, inputs: list[Any]) -> Operation:
    names = (("transpose_a", "adj_x"), ("transpose_b", "adj_y"))
    options = {name: bool(node.attributes.get(name) or node.attributes.get(other)) for name, other in names}
    return (
        ("tf>Matmul", options, CallSpec(tuple(inputs)))
        if any(options.values())
        else ("Matmul", {}, CallSpec(tuple(inputs)))
    )


def _squeeze(node: _Node, inputs: list[Any]) -> Operation:
    return "Squeeze", {"axis": node.attributes.get("squeeze_dims") or None}, CallSpec((inputs[0],))


def _gather(node: _Node, inputs: list[Any]) -> Operation:
    if node.attributes.get("batch_dims"):
        raise UnknownFunctionError("operation 'GatherV2' of TensorFlow with batch_dims")
    axis = int(_listed(inputs[2])) if len(inputs) > 2 else 0
    return "Take", {"axis": axis}, CallSpec((inputs[0], _listed(inputs[1])))


def _argument(operation: str) -> Build:
    return lambda node, inputs: (operation, {"axis": int(_listed(inputs[1]))}, CallSpec((inputs[0],)))


def _pad(node: _Node, inputs: list[Any]) -> Operation:
    args = (inputs[0], *(_listed(value) for value in inputs[2:3]))
    return "Pad", {"pad_width": _listed(inputs[1]), "mode": "constant"}, CallSpec(args)


def _mirror_pad(node: _Node, inputs: list[Any]) -> Operation:
    mode = str(node.attributes.get("mode", "REFLECT")).lower()
    return "Pad", {"pad_width": _listed(inputs[1]), "mode": mode}, CallSpec((inputs[0],))


def _fill(node: _Node, inputs: list[Any]) -> Operation:
    return "Full", {}, CallSpec((_listed(inputs[1]),), {"shape": _listed(inputs[0])})


def _leaky(node: _Node, inputs: list[Any]) -> Operation:
    return "LeakyRelu", {"negative_slope": node.attributes.get("alpha", 0.2)}, CallSpec((inputs[0],))


def _resize(nearest: bool) -> Build:
    def build(node: _Node, inputs: list[Any]) -> Operation:
        options = {
            "size": _listed(inputs[1]),
            "nearest": nearest,
            "align_corners": bool(node.attributes.get("align_corners")),
            "half_pixel_centers": bool(node.attributes.get("half_pixel_centers")),
        }
        return "tf>ResizeOld", options, CallSpec((inputs[0],))

    return build


def _strided_slice(node: _Node, inputs: list[Any]) -> Operation:
    """x[begin:end:strides] with its five masks, as a subscript."""
    x, begin, end, strides = (inputs[0], *(_listed(value) for value in inputs[1:4]))
    return "GetItem", {}, CallSpec((x, subscript(begin, end, strides, node.attributes)))


_SAME = (
    "Abs:Abs Acos:Arccos Acosh:Arccosh Asin:Arcsin Asinh:Arcsinh Atan:Arctan Atan2:Arctan2 Atanh:Arctanh Ceil:Ceil "
    "Cos:Cos Cosh:Cosh Elu:Elu Erf:Erf Erfc:Erfc Exp:Exp Expm1:Expm1 Floor:Floor Identity:tf>Identity "
    "IsFinite:Isfinite IsInf:Isinf IsNan:Isnan Log:Log Log1p:Log1p LogSoftmax:LogSoftmax LogicalNot:LogicalNot "
    "Neg:Negative Reciprocal:Reciprocal Inv:Reciprocal Relu:Relu Relu6:Relu6 Rint:Round Round:Round Rsqrt:Rsqrt "
    "Selu:Selu Shape:tf>Shape Sigmoid:Sigmoid Sign:Sign Sin:Sin Sinh:Sinh Size:Size Softmax:Softmax "
    "Softplus:Softplus Softsign:Softsign Sqrt:Sqrt Square:Square StopGradient:StopGradient Tan:Tan Tanh:Tanh "
    "ZerosLike:ZerosLike OnesLike:OnesLike CheckNumerics:tf>Identity Snapshot:tf>Identity "
    "Add:Add AddV2:Add BiasAdd:Add Sub:Subtract Mul:Multiply RealDiv:TrueDivide Div:TrueDivide DivNoNan:tf>DivideNoNan "
    "FloorDiv:tf>FloorDivide FloorMod:Mod Pow:Power Maximum:Maximum Minimum:Minimum "
    "SquaredDifference:tf>SquaredDifference Equal:Equal NotEqual:NotEqual Greater:Greater GreaterEqual:GreaterEqual "
    "Less:Less LessEqual:LessEqual LogicalAnd:LogicalAnd LogicalOr:LogicalOr Select:Where SelectV2:Where"
)

_NODES: Mapping[str, Build] = {
    **{name: _plain(operation) for name, operation in (pair.split(":") for pair in _SAME.split())},
    **{name: _reduction(name) for name in ("Sum", "Mean", "Max", "Min", "Prod", "Any", "All")},
    "AddN": lambda node, inputs: ("tf>AddN", {}, CallSpec((inputs,))),
    "ArgMax": _argument("Argmax"),
    "ArgMin": _argument("Argmin"),
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "BroadcastTo": _with_option("BroadcastTo", "shape"),
    "Cast": _cast,
    "ConcatV2": _concat,
    "Cumsum": _argument("Cumsum"),
    "ExpandDims": _with_option("ExpandDims", "axis"),
    "Fill": _fill,
    "GatherV2": _gather,
    "LeakyRelu": _leaky,
    "MatMul": _matmul,
    "MirrorPad": _mirror_pad,
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _with_option("Reshape", "newshape"),
    "ResizeBilinear": _resize(nearest=False),
    "ResizeNearestNeighbor": _resize(nearest=True),
    "ReverseV2": _with_option("Flip", "axis"),
    "Split": _split,
    "SplitV": _split_sizes,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _with_option("Tile", "repeats"),
    "Transpose": _with_option("Transpose", "axes"),
    "Unpack": _unpack,
}
