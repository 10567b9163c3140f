"""Table of TensorFlow functions that Keras 2 stored as layers, with their operations and arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Function:
    """How one TensorFlow function maps to an operation.

    operation   class name of the operation
    tensors     names of the arguments after the first, in the operation's order
    options     argument -> option of the operation
    arguments   argument -> argument of the operation's call
    fixed       options implied by the function
    defaults    options -> the function's defaults, where the operation's differ
    joined      whether the first argument is a list of tensors
    """

    operation: str
    tensors: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    joined: bool = False


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


#: Names of a reduction's arguments in all versions.
_REDUCED = {"axis": "axis", "reduction_indices": "axis", "keepdims": "keepdims", "keep_dims": "keepdims"}

#: Functions of one tensor.
_UNARY = {
    "Abs": "math.abs",
    "Angle": "math.angle",
    "Arccos": "math.acos",
    "Arccosh": "math.acosh",
    "Arcsin": "math.asin",
    "Arcsinh": "math.asinh",
    "Arctan": "math.atan",
    "Arctanh": "math.atanh",
    "BitwiseInvert": "bitwise.invert",
    "Ceil": "math.ceil",
    "Cholesky": "linalg.cholesky",
    "Cos": "math.cos",
    "Cosh": "math.cosh",
    "Det": "linalg.det",
    "Erf": "math.erf",
    "Erfc": "math.erfc",
    "Erfinv": "math.erfinv",
    "Exp": "math.exp",
    "Expm1": "math.expm1",
    "Floor": "math.floor",
    "HSVToRGB": "image.hsv_to_rgb",
    "I0": "math.bessel_i0",
    "Imag": "math.imag",
    "Isfinite": "math.is_finite",
    "Isinf": "math.is_inf",
    "Isnan": "math.is_nan",
    "Log": "math.log",
    "Log1p": "math.log1p",
    "LogSigmoid": "math.log_sigmoid",
    "Logdet": "linalg.logdet",
    "LogicalNot": "math.logical_not",
    "Ndim": "rank",
    "Negative": "math.negative",
    "RGBToGrayscale": "image.rgb_to_grayscale",
    "RGBToHSV": "image.rgb_to_hsv",
    "Real": "math.real",
    "Reciprocal": "math.reciprocal",
    "Relu": "nn.relu",
    "Relu6": "nn.relu6",
    "Round": "math.round math.rint",
    "Rsqrt": "math.rsqrt",
    "Selu": "nn.selu",
    "Sigmoid": "math.sigmoid",
    "Sign": "math.sign",
    "Sin": "math.sin",
    "Sinh": "math.sinh",
    "Size": "size",
    "SobelEdges": "image.sobel_edges",
    "Softplus": "math.softplus",
    "Softsign": "nn.softsign",
    "Sqrt": "math.sqrt",
    "Square": "math.square",
    "StopGradient": "stop_gradient",
    "Tan": "math.tan",
    "Tanh": "math.tanh",
    "tf>Adjoint": "linalg.adjoint",
    "tf>BatchFlatten": "keras.backend.batch_flatten",
    "tf>BesselI0e": "math.bessel_i0e",
    "tf>BesselI1": "math.bessel_i1",
    "tf>BesselI1e": "math.bessel_i1e",
    "tf>Conj": "math.conj",
    "tf>Digamma": "math.digamma",
    "tf>Eigh": "linalg.eigh",
    "tf>Eigvalsh": "linalg.eigvalsh",
    "tf>Erfcinv": "math.erfcinv",
    "tf>Expm": "linalg.expm",
    "tf>Fft": "signal.fft",
    "tf>Fft2d": "signal.fft2d",
    "tf>FlipLeftRight": "image.flip_left_right",
    "tf>FlipUpDown": "image.flip_up_down",
    "tf>GrayscaleToRGB": "image.grayscale_to_rgb",
    "tf>Identity": "identity convert_to_tensor debugging.check_numerics ensure_shape",
    "tf>Ifft": "signal.ifft",
    "tf>Ifft2d": "signal.ifft2d",
    "tf>InvertPermutation": "math.invert_permutation",
    "tf>IsNonDecreasing": "math.is_non_decreasing",
    "tf>IsStrictlyIncreasing": "math.is_strictly_increasing",
    "tf>L2Loss": "nn.l2_loss",
    "tf>Lbeta": "math.lbeta",
    "tf>Lgamma": "math.lgamma",
    "tf>Mfccs": "signal.mfccs_from_log_mel_spectrograms",
    "tf>Ndtri": "math.ndtri",
    "tf>RGBToYIQ": "image.rgb_to_yiq",
    "tf>RGBToYUV": "image.rgb_to_yuv",
    "tf>ReciprocalNoNan": "math.reciprocal_no_nan",
    "tf>Standardize": "image.per_image_standardization",
    "tf>TensorDiag": "linalg.tensor_diag",
    "tf>TensorDiagPart": "linalg.tensor_diag_part",
    "tf>TotalVariation": "image.total_variation",
    "tf>Trace": "linalg.trace",
    "tf>TransposeImage": "image.transpose",
    "tf>Unique": "unique",
    "tf>YIQToRGB": "image.yiq_to_rgb",
    "tf>YUVToRGB": "image.yuv_to_rgb",
    "tf>ZeroFraction": "math.zero_fraction",
}
#: Functions of two operands with broadcasting.
_BINARY = {
    "Add": "math.add __operators__.add",
    "Arctan2": "math.atan2",
    "BitwiseAnd": "bitwise.bitwise_and",
    "BitwiseLeftShift": "bitwise.left_shift",
    "BitwiseOr": "bitwise.bitwise_or",
    "BitwiseRightShift": "bitwise.right_shift",
    "BitwiseXor": "bitwise.bitwise_xor",
    "Equal": "math.equal __operators__.eq",
    "Fmod": "truncatemod",
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
    "Multiply": "math.multiply __operators__.mul math.scalar_mul",
    "Nextafter": "math.nextafter",
    "NotEqual": "math.not_equal __operators__.ne",
    "Power": "math.pow",
    "Subtract": "math.subtract __operators__.sub",
    "tf>DivideNoNan": "math.divide_no_nan",
    "tf>FloorDivide": "math.floordiv math.floor_div",
    "tf>Igamma": "math.igamma",
    "tf>Igammac": "math.igammac",
    "tf>MultiplyNoNan": "math.multiply_no_nan",
    "tf>Polygamma": "math.polygamma",
    "tf>SquaredDifference": "math.squared_difference",
    "tf>TrueDivide": "math.truediv math.divide __operators__.truediv realdiv",
    "tf>TruncateDiv": "truncatediv",
    "tf>Xdivy": "math.xdivy",
    "tf>Xlog1py": "math.xlog1py",
    "tf>Xlogy": "math.xlogy",
    "tf>Zeta": "math.zeta",
}
_REDUCTIONS = {
    "All": "math.reduce_all",
    "Any": "math.reduce_any",
    "Logsumexp": "math.reduce_logsumexp",
    "Max": "math.reduce_max",
    "Min": "math.reduce_min",
    "Prod": "math.reduce_prod",
    "Std": "math.reduce_std",
    "Sum": "math.reduce_sum",
    "Var": "math.reduce_variance",
}
#: Operations with the function's own arguments: names of the function, and of its arguments after the first.
_DIRECT = {
    "tf>AdjustBrightness": ("image.adjust_brightness", "delta"),
    "tf>AdjustContrast": ("image.adjust_contrast", "contrast_factor"),
    "tf>AdjustGamma": ("image.adjust_gamma", "gamma gain"),
    "tf>AdjustHue": ("image.adjust_hue", "delta"),
    "tf>AdjustSaturation": ("image.adjust_saturation", "saturation_factor"),
    "tf>ArgMax": ("math.argmax", "axis output_type dimension"),
    "tf>ArgMin": ("math.argmin", "axis output_type dimension"),
    "tf>Argsort": ("argsort", "axis direction stable"),
    "tf>AvgPool": ("nn.avg_pool nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d", "ksize strides padding data_format"),
    "tf>BandPart": ("linalg.band_part", "num_lower num_upper"),
    "tf>BatchToSpace": ("batch_to_space batch_to_space_nd", "block_shape crops"),
    "tf>Betainc": ("math.betainc", "b x"),
    "tf>BiasAdd": ("nn.bias_add", "bias data_format"),
    "tf>Bincount": ("math.bincount", "weights minlength maxlength dtype"),
    "tf>BooleanMask": ("boolean_mask", "mask axis"),
    "tf>CentralCrop": ("image.central_crop", "central_fraction"),
    "tf>Clip": ("clip_by_value", "clip_value_min clip_value_max"),
    "tf>ClipByNorm": ("clip_by_norm", "clip_norm axes"),
    "tf>Complex": ("dtypes.complex", "imag"),
    "tf>ConfusionMatrix": ("math.confusion_matrix", "predictions num_classes weights dtype"),
    "tf>ConvertImage": ("image.convert_image_dtype", "dtype saturate"),
    "tf>Convolution": (
        "nn.conv1d nn.conv2d nn.conv3d nn.convolution",
        "filters filter strides stride padding data_format dilations dilation_rate",
    ),
    "tf>ConvolutionTranspose": (
        "nn.conv1d_transpose nn.conv2d_transpose nn.conv3d_transpose nn.conv_transpose",
        "filters filter output_shape strides padding data_format dilations",
    ),
    "tf>CountNonzero": ("math.count_nonzero", "axis keepdims dtype"),
    "tf>Crelu": ("nn.crelu", "axis"),
    "tf>CropAndResize": (
        "image.crop_and_resize",
        "boxes box_indices box_ind crop_size method extrapolation_value",
    ),
    "tf>CropOrPad": ("image.resize_with_crop_or_pad", "target_height target_width"),
    "tf>CropTo": ("image.crop_to_bounding_box", "offset_height offset_width target_height target_width"),
    "tf>Cumprod": ("math.cumprod", "axis exclusive reverse"),
    "tf>Cumsum": ("math.cumsum", "axis exclusive reverse"),
    "tf>CumulativeLogsumexp": ("math.cumulative_logsumexp", "axis exclusive reverse"),
    "tf>Dct": ("signal.dct", "type n axis norm"),
    "tf>DepthwiseConvolution": (
        "nn.depthwise_conv2d nn.depthwise_conv2d_native",
        "filter strides padding data_format dilations rate",
    ),
    "tf>Diag": ("linalg.diag", "k"),
    "tf>DiagPart": ("linalg.diag_part", "k"),
    "tf>Dilation": ("nn.dilation2d", "filters strides padding data_format dilations"),
    "tf>Erosion": ("nn.erosion2d", "filters strides padding data_format dilations"),
    "tf>ExtractPatches": ("image.extract_patches", "sizes strides rates padding"),
    "tf>Eye": ("eye", "num_columns batch_shape dtype"),
    "tf>Fftshift": ("signal.fftshift", "axes"),
    "tf>Frame": ("signal.frame", "frame_length frame_step pad_end pad_value axis"),
    "tf>Gather": ("gather nn.embedding_lookup", "indices axis batch_dims ids"),
    "tf>GatherNd": ("gather_nd", "indices batch_dims"),
    "tf>Histogram": ("histogram_fixed_width", "value_range nbins dtype"),
    "tf>Idct": ("signal.idct", "type n axis norm"),
    "tf>Ifftshift": ("signal.ifftshift", "axes"),
    "tf>InTopK": ("math.in_top_k", "targets k"),
    "tf>Inv": ("linalg.inv", "adjoint"),
    "tf>InverseStft": ("signal.inverse_stft", "frame_length frame_step fft_length window_fn"),
    "tf>Irfft": ("signal.irfft", "fft_length"),
    "tf>L2Normalize": ("math.l2_normalize", "axis epsilon dim"),
    "tf>Linspace": ("linspace", "stop num axis"),
    "tf>LocalResponseNormalization": ("nn.local_response_normalization", "depth_radius bias alpha beta"),
    "tf>Matmul": ("linalg.matmul", "b transpose_a transpose_b adjoint_a adjoint_b"),
    "tf>MatrixRank": ("linalg.matrix_rank", "tol"),
    "tf>Matvec": ("linalg.matvec", "b transpose_a adjoint_a"),
    "tf>MaxPool": ("nn.max_pool nn.max_pool1d nn.max_pool2d nn.max_pool3d", "ksize strides padding data_format"),
    "tf>Norm": ("norm", "ord axis keepdims"),
    "tf>NormalizeBy": ("linalg.normalize", "ord axis"),
    "tf>OneHot": ("one_hot", "depth on_value off_value axis dtype"),
    "tf>Ones": ("ones", "dtype"),
    "tf>OverlapAndAdd": ("signal.overlap_and_add", "frame_step"),
    "tf>PadTo": ("image.pad_to_bounding_box", "offset_height offset_width target_height target_width"),
    "tf>Pinv": ("linalg.pinv", "rcond"),
    "tf>Polyval": ("math.polyval", "x"),
    "tf>Pool": ("nn.pool", "window_shape pooling_type padding strides data_format dilation_rate dilations"),
    "tf>Psnr": ("image.psnr", "b max_val"),
    "tf>Qr": ("linalg.qr", "full_matrices"),
    "tf>Repeat": ("repeat", "repeats axis"),
    "tf>Resize": ("image.resize", "size method preserve_aspect_ratio antialias"),
    "tf>ResizeWithPad": ("image.resize_with_pad", "target_height target_width method antialias"),
    "tf>ReverseSequence": ("reverse_sequence", "seq_lengths seq_axis batch_axis seq_dim batch_dim"),
    "tf>Rfft": ("signal.rfft", "fft_length"),
    "tf>Rot90": ("image.rot90", "k"),
    "tf>ScatterAdd": ("tensor_scatter_nd_add", "indices updates"),
    "tf>ScatterMax": ("tensor_scatter_nd_max", "indices updates"),
    "tf>ScatterMin": ("tensor_scatter_nd_min", "indices updates"),
    "tf>ScatterNd": ("scatter_nd", "updates shape"),
    "tf>ScatterSub": ("tensor_scatter_nd_sub", "indices updates"),
    "tf>ScatterUpdate": ("tensor_scatter_nd_update", "indices updates"),
    "tf>SearchSorted": ("searchsorted", "values side out_type right"),
    "tf>SegmentMax": ("math.segment_max math.unsorted_segment_max", "segment_ids num_segments"),
    "tf>SegmentMean": ("math.segment_mean math.unsorted_segment_mean", "segment_ids num_segments"),
    "tf>SegmentMin": ("math.segment_min math.unsorted_segment_min", "segment_ids num_segments"),
    "tf>SegmentProd": ("math.segment_prod math.unsorted_segment_prod", "segment_ids num_segments"),
    "tf>SegmentSum": ("math.segment_sum math.unsorted_segment_sum", "segment_ids num_segments"),
    "tf>SeparableConvolution": (
        "nn.separable_conv2d",
        "depthwise_filter pointwise_filter strides padding data_format dilations rate",
    ),
    "tf>SequenceMask": ("sequence_mask", "maxlen dtype"),
    "tf>SetDiag": ("linalg.set_diag", "diagonal k"),
    "tf>Shape": ("shape", "out_type"),
    "tf>SigmoidCrossEntropy": ("nn.sigmoid_cross_entropy_with_logits", "logits"),
    "tf>Silu": ("nn.silu nn.swish", "beta"),
    "tf>Slice": ("slice", "begin size"),
    "tf>SoftmaxCrossEntropy": (
        "nn.softmax_cross_entropy_with_logits nn.softmax_cross_entropy_with_logits_v2",
        "logits axis",
    ),
    "tf>Solve": ("linalg.solve", "rhs adjoint"),
    "tf>Sort": ("sort", "axis direction"),
    "tf>SpaceToBatch": ("space_to_batch space_to_batch_nd nn.space_to_batch", "block_shape paddings"),
    "tf>SparseSoftmaxCrossEntropy": ("nn.sparse_softmax_cross_entropy_with_logits", "logits"),
    "tf>Ssim": ("image.ssim", "img2 max_val filter_size filter_sigma k1 k2"),
    "tf>Stft": ("signal.stft", "frame_length frame_step fft_length window_fn pad_end"),
    "tf>Svd": ("linalg.svd", "full_matrices compute_uv"),
    "tf>TriangularSolve": ("linalg.triangular_solve", "rhs lower adjoint"),
    "tf>Zeros": ("zeros", "dtype"),
}
_OLD_SIZES = _same("size", "align_corners", "half_pixel_centers", "method")


def _named(table: Mapping[str, str], function: Callable[[str], Function]) -> Iterator[tuple[str, Function]]:
    for operation, names in table.items():
        for name in names.split():
            yield name, function(operation)


#: TensorFlow name -> operation; names in `compat.v1` have no prefix. Other functions aren't supported.
FUNCTIONS: Mapping[str, Function] = {
    **dict(_named(_UNARY, Function)),
    **dict(_named(_BINARY, lambda operation: Function(operation, ("y", "other", "x2", "x", "q")))),
    **dict(_named(_REDUCTIONS, lambda operation: Function(operation, options=_REDUCED))),
    **{
        name: Function(operation, arguments=_same(*arguments.split()))
        for operation, (names, arguments) in _DIRECT.items()
        for name in names.split()
    },
    "__operators__.getitem": Function("GetItem", ("slice_spec",)),
    "broadcast_to": Function("BroadcastTo", options=_same("shape")),
    "cast": Function("Cast", options=_same("dtype")),
    "concat": Function("Concatenate", options=_same("axis"), joined=True),
    "dtypes.saturate_cast": Function("SaturateCast", options=_same("dtype")),
    "expand_dims": Function("ExpandDims", options={"axis": "axis", "dim": "axis"}),
    "fill": Function("Full", ("dims",)),
    "identity_n": Function("tf>IdentityN", joined=True),
    "image.resize_area": Function("tf>ResizeArea", arguments=_same("size")),
    "image.resize_bilinear": Function("tf>ResizeOld", arguments=_OLD_SIZES),
    "image.resize_images": Function("tf>ResizeOld", arguments=_OLD_SIZES),
    "image.resize_nearest_neighbor": Function("tf>ResizeNearestOld", arguments=_OLD_SIZES),
    "keras.backend.binary_crossentropy": Function("BinaryCrossentropy", ("output",), _same("from_logits")),
    "keras.backend.categorical_crossentropy": Function(
        "CategoricalCrossentropy", ("output",), _same("from_logits", "axis")
    ),
    "keras.backend.sparse_categorical_crossentropy": Function(
        "SparseCategoricalCrossentropy", ("output",), _same("from_logits", "axis")
    ),
    "linalg.cross": Function("Cross", ("b",)),
    "linalg.matrix_transpose": Function("Swapaxes", fixed={"axis1": -1, "axis2": -2}),
    "math.accumulate_n": Function("tf>AddN", joined=True),
    "math.add_n": Function("tf>AddN", joined=True),
    "math.reduce_euclidean_norm": Function("tf>EuclideanNorm", arguments=_REDUCED),
    "math.reduce_mean": Function("tf>Mean", arguments=_REDUCED),
    "math.top_k": Function("tf>TopK", arguments=_same("k", "sorted")),
    "nn.depth_to_space": Function("DepthToSpace", options=_same("block_size")),
    "nn.elu": Function("Elu"),
    "nn.gelu": Function("Gelu", options=_same("approximate"), defaults={"approximate": False}),
    "nn.leaky_relu": Function("LeakyRelu", options={"alpha": "negative_slope"}),
    "nn.log_softmax": Function("LogSoftmax", options=_same("axis")),
    "nn.softmax": Function("Softmax", options=_same("axis")),
    "nn.space_to_depth": Function("SpaceToDepth", options=_same("block_size")),
    "ones_like": Function("OnesLike", options=_same("dtype")),
    "pad": Function("Pad", ("constant_values",), {"paddings": "pad_width", "mode": "mode"}),
    "range": Function("Arange", ("limit", "delta"), _same("dtype")),
    "reshape": Function("Reshape", options={"shape": "newshape"}),
    "reverse": Function("Flip", options=_same("axis")),
    "roll": Function("Roll", options=_same("shift", "axis")),
    "split": Function("Split", options={"num_or_size_splits": "indices_or_sections", "axis": "axis"}),
    "squeeze": Function("Squeeze", options={"axis": "axis", "squeeze_dims": "axis"}),
    "stack": Function("Stack", options=_same("axis"), joined=True),
    "strided_slice": Function("GetItem"),
    "tensordot": Function("Tensordot", ("b",), _same("axes")),
    "tile": Function("Tile", options={"multiples": "repeats"}),
    "to_double": Function("Cast", fixed={"dtype": "float64"}),
    "to_float": Function("Cast", fixed={"dtype": "float32"}),
    "to_int32": Function("Cast", fixed={"dtype": "int32"}),
    "to_int64": Function("Cast", fixed={"dtype": "int64"}),
    "transpose": Function("Transpose", options={"perm": "axes"}),
    "unstack": Function("Unstack", options=_same("num", "axis")),
    "where": Function("Where", ("x", "y")),
    "zeros_like": Function("ZerosLike", options=_same("dtype")),
}

#: Functions with operands that files don't contain, and a description of these.
LOST: Mapping[str, str] = {
    "einsum": "its operands",
    "meshgrid": "its coordinates after the first",
    "__operators__.eq": "its second operand",
    "__operators__.ne": "its second operand",
}

#: TensorFlow modules in which a function's last name is unambiguous.
_MODULES = ("math.", "nn.", "linalg.", "debugging.", "dtypes.", "")


def function_named(name: Any) -> Function | None:
    """Returns the entry of a name, which may be that of another module or of `compat.v1`; None if there is none."""
    if not isinstance(name, str):
        return None
    plain = name.removeprefix("compat.v1.")
    known = FUNCTIONS.get(plain)
    module, _, last = plain.rpartition(".")
    if known is not None or (module and f"{module}." not in _MODULES):
        return known
    return next((FUNCTIONS[m + last] for m in _MODULES if m + last in FUNCTIONS), None)
