"""Table of TensorFlow's graph operations that Keras 2.2 to 2.4 stored as layers, with the operations of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from layergraph.config.spec import CallSpec
from layergraph.config.tensorflow_ops import UnknownFunctionError, holds_tensor, subscript

#: Class name, options, call.
Operation = tuple[str, dict[str, Any], CallSpec]


@dataclass(frozen=True, slots=True)
class Node:
    """The operation name of a graph node, and its attributes as plain values."""

    op: str
    attributes: Mapping[str, Any]


#: Converts a node and all its inputs, some of them constants, to an operation.
Build = Callable[[Node, list[Any]], Operation]


def _listed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _plain(operation: str) -> Build:
    """Passes all inputs as arguments."""
    return lambda node, inputs: (operation, {}, CallSpec(tuple(_listed(value) for value in inputs)))


def _called(operation: str, names: str = "", attributes: str = "") -> Build:
    """Passes the inputs after the first as the named arguments, and attributes as well: `argument=attribute`, or one
    name for both.
    """
    pairs = [(pair.partition("=")[0], pair.rpartition("=")[2]) for pair in attributes.split()]

    def build(node: Node, inputs: list[Any]) -> Operation:
        kwargs = {name: _listed(value) for name, value in zip(names.split(), inputs[1:], strict=False)}
        kwargs |= {name: node.attributes[key] for name, key in pairs if node.attributes.get(key) is not None}
        if kwargs.get("padding") == "EXPLICIT":
            raise UnknownFunctionError(f"operation {node.op!r} of TensorFlow is not supported with explicit paddings")
        return operation, {}, CallSpec((_listed(inputs[0]),), kwargs)

    return build


def _with_options(operation: str, attributes: str) -> Build:
    """Uses attributes as options of the same name."""
    return lambda node, inputs: (
        operation,
        {key: node.attributes[key] for key in attributes.split() if node.attributes.get(key) is not None},
        CallSpec(tuple(inputs)),
    )


def _reduction(operation: str, *, called: bool = False) -> Build:
    def build(node: Node, inputs: list[Any]) -> Operation:
        options = {"axis": _listed(inputs[1]), "keepdims": bool(node.attributes.get("keep_dims", False))}
        if options["axis"] == []:
            return "tf>Identity", {}, CallSpec((inputs[0],))
        return (
            (operation, {}, CallSpec((inputs[0],), options)) if called else (operation, options, CallSpec((inputs[0],)))
        )

    return build


def _with_option(operation: str, option: str) -> Build:
    """Uses the second input as an option, or as an argument of that name if it isn't a constant."""

    def build(node: Node, inputs: list[Any]) -> Operation:
        if holds_tensor(inputs[1]):
            return operation, {}, CallSpec((_listed(inputs[0]),), {option: inputs[1]})
        return operation, {option: _listed(inputs[1])}, CallSpec((_listed(inputs[0]),))

    return build


def _concat(node: Node, inputs: list[Any]) -> Operation:
    return "Concatenate", {"axis": int(_listed(inputs[-1]))}, CallSpec(([_listed(value) for value in inputs[:-1]],))


def _pack(node: Node, inputs: list[Any]) -> Operation:
    return "Stack", {"axis": node.attributes.get("axis") or 0}, CallSpec(([_listed(value) for value in inputs],))


def _unpack(node: Node, inputs: list[Any]) -> Operation:
    return "Unstack", {"axis": node.attributes.get("axis") or 0}, CallSpec((inputs[0],))


def _split(node: Node, inputs: list[Any]) -> Operation:
    options = {"indices_or_sections": node.attributes["num_split"], "axis": int(_listed(inputs[0]))}
    return "Split", options, CallSpec((inputs[1],))


def _split_sizes(node: Node, inputs: list[Any]) -> Operation:
    return "tf>SplitSizes", {"sizes": _listed(inputs[1]), "axis": int(_listed(inputs[2]))}, CallSpec((inputs[0],))


def _cast(node: Node, inputs: list[Any]) -> Operation:
    return "Cast", {"dtype": node.attributes["DstT"]}, CallSpec((inputs[0],))


def _squeeze(node: Node, inputs: list[Any]) -> Operation:
    return "Squeeze", {"axis": node.attributes.get("squeeze_dims") or None}, CallSpec((inputs[0],))


def _roll(node: Node, inputs: list[Any]) -> Operation:
    return "Roll", {"shift": _listed(inputs[1]), "axis": _listed(inputs[2])}, CallSpec((inputs[0],))


def _pad(node: Node, inputs: list[Any]) -> Operation:
    args = (inputs[0], *(_listed(value) for value in inputs[2:3]))
    return "Pad", {"pad_width": _listed(inputs[1]), "mode": "constant"}, CallSpec(args)


def _mirror_pad(node: Node, inputs: list[Any]) -> Operation:
    mode = str(node.attributes.get("mode", "REFLECT")).lower()
    return "Pad", {"pad_width": _listed(inputs[1]), "mode": mode}, CallSpec((inputs[0],))


def _fill(node: Node, inputs: list[Any]) -> Operation:
    return "Full", {}, CallSpec((_listed(inputs[1]),), {"shape": _listed(inputs[0])})


def _leaky(node: Node, inputs: list[Any]) -> Operation:
    return "LeakyRelu", {"negative_slope": node.attributes.get("alpha", 0.2)}, CallSpec((inputs[0],))


def _diagonal(operation: str, extra: int) -> Build:
    """Supports a single diagonal only: several have a list of two, and a fill value other than 0."""

    def build(node: Node, inputs: list[Any]) -> Operation:
        k = _listed(inputs[extra])
        k = k[0] if isinstance(k, list) and len(set(k)) == 1 else k
        if not isinstance(k, int) or any(_listed(value) not in (-1, 0, 0.0, False) for value in inputs[extra + 1 :]):
            raise UnknownFunctionError(f"operation {node.op!r} of TensorFlow is not supported with several diagonals")
        return operation, {}, CallSpec(tuple(inputs[:extra]), {"k": k})

    return build


def _einsum(node: Node, inputs: list[Any]) -> Operation:
    return "Einsum", {"subscripts": node.attributes["equation"]}, CallSpec(tuple(_listed(value) for value in inputs))


def _transposed(node: Node, inputs: list[Any]) -> Operation:
    """Converts Conv2DBackpropInput, whose inputs are the output shape, the kernel, and the tensor."""
    _, _, call = _called("", "filters output_shape", "strides padding data_format dilations")(
        node, [inputs[2], inputs[1], inputs[0]]
    )
    return "tf>ConvolutionTranspose", {}, call


def _upper_bound(node: Node, inputs: list[Any]) -> Operation:
    operation, options, call = _called("tf>SearchSorted", "values", "out_type")(node, inputs)
    return operation, options, CallSpec(call.args, {**call.kwargs, "side": "right"})


def _batch_normalized(node: Node, inputs: list[Any]) -> Operation:
    if node.attributes.get("is_training") is not False:
        raise UnknownFunctionError(f"operation {node.op!r} of TensorFlow is not supported in training mode")
    x, scale, offset, mean, variance = (_listed(value) for value in inputs)
    axis = 1 if node.attributes.get("data_format") == "NCHW" else -1
    options = {"axis": axis, "epsilon": node.attributes.get("epsilon", 1e-4)}
    return "BatchNorm", options, CallSpec((x, mean, variance, offset, scale))


def _strided_slice(node: Node, inputs: list[Any]) -> Operation:
    """Converts x[begin:end:strides] with its five masks to a subscript."""
    x, begin, end, strides = (inputs[0], *(_listed(value) for value in inputs[1:4]))
    if not all(isinstance(places, list) for places in (begin, end, strides)):
        masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
        kwargs = {"begin": begin, "end": end, "strides": strides}
        return "tf>StridedSlice", {}, CallSpec((x,), kwargs | {name: node.attributes.get(name) or 0 for name in masks})
    return "GetItem", {}, CallSpec((x, subscript(begin, end, strides, node.attributes)))


#: Operations whose inputs are the arguments: TensorFlow's name and, if different, ours.
_SAME = (
    "Abs Acos:Arccos Acosh:Arccosh Angle Asin:Arcsin Asinh:Arcsinh Atan:Arctan Atan2:Arctan2 Atanh:Arctanh "
    "BesselI0:I0 BesselI0e:tf>BesselI0e BesselI1:tf>BesselI1 BesselI1e:tf>BesselI1e Ceil Cholesky ComplexAbs:Abs "
    "Conj:tf>Conj Cos Cosh Diag:tf>TensorDiag DiagPart:tf>TensorDiagPart Digamma:tf>Digamma Elu Erf Erfc Erfinv "
    "Exp Expm1 FFT:tf>Fft FFT2D:tf>Fft2d Floor HSVToRGB "
    "IFFT:tf>Ifft IFFT2D:tf>Ifft2d Identity:tf>Identity Imag Inv:Reciprocal Invert:BitwiseInvert "
    "InvertPermutation:tf>InvertPermutation IsFinite:Isfinite IsInf:Isinf IsNan:Isnan L2Loss:tf>L2Loss "
    "Lgamma:tf>Lgamma Log Log1p LogSoftmax LogicalNot MatrixDeterminant:Det Ndtri:tf>Ndtri Neg:Negative RGBToHSV Real "
    "Reciprocal Relu Relu6 Rint:Round Round Rsqrt Selu Shape:tf>Shape Sigmoid Sign Sin Sinh Size Softmax Softplus "
    "Softsign Sqrt Square StopGradient Tan Tanh Unique:tf>Unique Where:tf>Where ZerosLike OnesLike "
    "CheckNumerics:tf>Identity Snapshot:tf>Identity "
    "Add AddV2:Add BitwiseAnd BitwiseOr BitwiseXor Cross Div:tf>TrueDivide DivNoNan:tf>DivideNoNan Equal "
    "FloorDiv:tf>FloorDivide FloorMod:Mod Greater GreaterEqual Igamma:tf>Igamma Igammac:tf>Igammac "
    "LeftShift:BitwiseLeftShift Less LessEqual LogicalAnd LogicalOr Maximum Minimum Mul:Multiply "
    "MulNoNan:tf>MultiplyNoNan NextAfter:Nextafter NotEqual Polygamma:tf>Polygamma Pow:Power RealDiv:tf>TrueDivide "
    "RightShift:BitwiseRightShift SquaredDifference:tf>SquaredDifference Sub:Subtract TruncateDiv:tf>TruncateDiv "
    "TruncateMod:Fmod Xdivy:tf>Xdivy Xlog1py:tf>Xlog1py Xlogy:tf>Xlogy Zeta:tf>Zeta "
    "Range:Arange Select:Where SelectV2:Where"
)
_CONVOLUTION = "strides padding data_format dilations"
_POOL = "ksize strides padding data_format"
_SEGMENTS = ("Max", "Mean", "Min", "Prod", "Sum")

#: TensorFlow's name -> converter of its nodes. Other operations aren't supported.
NODES: Mapping[str, Build] = {
    **{name: _plain(ours or name) for name, _, ours in (pair.partition(":") for pair in _SAME.split())},
    **{name: _reduction(name) for name in ("Sum", "Max", "Min", "Prod", "Any", "All")},
    **{name: _reduction(f"tf>{name}", called=True) for name in ("EuclideanNorm", "Mean")},
    **{f"Segment{how}": _called(f"tf>Segment{how}", "segment_ids") for how in _SEGMENTS},
    **{f"UnsortedSegment{how}": _called(f"tf>Segment{how}", "segment_ids num_segments") for how in _SEGMENTS},
    **{
        f"TensorScatter{how}": _called(f"tf>Scatter{how}", "indices updates")
        for how in ("Add", "Max", "Min", "Sub", "Update")
    },
    "AddN": lambda node, inputs: ("tf>AddN", {}, CallSpec((inputs,))),
    "AdjustContrastv2": _called("tf>AdjustContrast", "contrast_factor"),
    "AdjustHue": _called("tf>AdjustHue", "delta"),
    "AdjustSaturation": _called("tf>AdjustSaturation", "saturation_factor"),
    "ArgMax": _called("tf>ArgMax", "axis", "output_type"),
    "ArgMin": _called("tf>ArgMin", "axis", "output_type"),
    "AvgPool": _called("tf>AvgPool", "", _POOL),
    "AvgPool3D": _called("tf>AvgPool", "", _POOL),
    "BatchMatMul": _called("tf>Matmul", "b", "adjoint_a=adj_x adjoint_b=adj_y"),
    "BatchMatMulV2": _called("tf>Matmul", "b", "adjoint_a=adj_x adjoint_b=adj_y"),
    "BatchToSpaceND": _called("tf>BatchToSpace", "block_shape crops"),
    "Betainc": _called("tf>Betainc", "b x"),
    "BiasAdd": _called("tf>BiasAdd", "bias", "data_format"),
    "BroadcastTo": _with_option("BroadcastTo", "shape"),
    "Cast": _cast,
    "ClipByValue": _called("tf>Clip", "clip_value_min clip_value_max"),
    "Complex": _called("tf>Complex", "imag"),
    "ConcatV2": _concat,
    "Conv2D": _called("tf>Convolution", "filters", _CONVOLUTION),
    "Conv2DBackpropInput": _transposed,
    "Conv3D": _called("tf>Convolution", "filters", _CONVOLUTION),
    "CropAndResize": _called("tf>CropAndResize", "boxes box_indices crop_size", "method extrapolation_value"),
    "Cumprod": _called("tf>Cumprod", "axis", "exclusive reverse"),
    "Cumsum": _called("tf>Cumsum", "axis", "exclusive reverse"),
    "CumulativeLogsumexp": _called("tf>CumulativeLogsumexp", "axis", "exclusive reverse"),
    "DepthToSpace": _with_options("DepthToSpace", "block_size"),
    "DepthwiseConv2dNative": _called("tf>DepthwiseConvolution", "filter", _CONVOLUTION),
    "Dilation2D": _called("tf>Dilation", "filters", "strides padding dilations=rates"),
    "Einsum": _einsum,
    "ExpandDims": _with_option("ExpandDims", "axis"),
    "ExtractImagePatches": _called("tf>ExtractPatches", "", "sizes=ksizes strides rates padding"),
    "Fill": _fill,
    "FusedBatchNormV3": _batch_normalized,
    "GatherNd": _called("tf>GatherNd", "indices"),
    "GatherV2": _called("tf>Gather", "indices axis", "batch_dims"),
    "HistogramFixedWidth": _called("tf>Histogram", "value_range nbins"),
    "IRFFT": _called("tf>Irfft", "fft_length"),
    "InTopKV2": _called("tf>InTopK", "targets k"),
    "LRN": _called("tf>LocalResponseNormalization", "", "depth_radius bias alpha beta"),
    "LeakyRelu": _leaky,
    "LowerBound": _called("tf>SearchSorted", "values", "out_type"),
    "MatMul": _called("tf>Matmul", "b", "transpose_a transpose_b"),
    "MatrixBandPart": _called("tf>BandPart", "num_lower num_upper"),
    "MatrixDiagPartV3": _diagonal("tf>DiagPart", 1),
    "MatrixDiagV3": _diagonal("tf>Diag", 1),
    "MatrixInverse": _called("tf>Inv", "", "adjoint"),
    "MatrixSetDiagV3": _diagonal("tf>SetDiag", 2),
    "MatrixSolve": _called("tf>Solve", "rhs", "adjoint"),
    "MatrixTriangularSolve": _called("tf>TriangularSolve", "rhs", "lower adjoint"),
    "MaxPool": _called("tf>MaxPool", "", _POOL),
    "MaxPool3D": _called("tf>MaxPool", "", _POOL),
    "MirrorPad": _mirror_pad,
    "OneHot": _called("tf>OneHot", "depth on_value off_value", "axis dtype=T"),
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "RFFT": _called("tf>Rfft", "fft_length"),
    "Reshape": _with_option("Reshape", "newshape"),
    "ResizeArea": _called("tf>ResizeArea", "size"),
    "ResizeBilinear": _called("tf>ResizeOld", "size", "align_corners half_pixel_centers"),
    "ResizeNearestNeighbor": _called("tf>ResizeNearestOld", "size", "align_corners half_pixel_centers"),
    "ReverseSequence": _called("tf>ReverseSequence", "seq_lengths", "seq_dim batch_dim"),
    "ReverseV2": _with_option("Flip", "axis"),
    "Roll": _roll,
    "ScatterNd": _called("tf>ScatterNd", "updates shape"),
    "Slice": _called("tf>Slice", "begin size"),
    "SpaceToBatchND": _called("tf>SpaceToBatch", "block_shape paddings"),
    "SpaceToDepth": _with_options("SpaceToDepth", "block_size"),
    "Split": _split,
    "SplitV": _split_sizes,
    "Squeeze": _squeeze,
    "StridedSlice": _strided_slice,
    "Tile": _with_option("Tile", "repeats"),
    "TopKV2": _called("tf>TopK", "k", "sorted"),
    "Transpose": _with_option("Transpose", "axes"),
    "Unpack": _unpack,
    "UpperBound": _upper_bound,
}
