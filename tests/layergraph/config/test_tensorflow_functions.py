"""TensorFlow functions as layers, layers that Keras 3 lacks, and cuDNN's weights: the numbers of tf.keras 2.15."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
import torch
from layergraph.config.graph_nodes import graph_node
from layergraph.config.nodes import keras2_call
from layergraph.config.spec import CallSpec, TensorRef
from layergraph.config.tensorflow_functions import FUNCTIONS
from layergraph.config.tensorflow_ops import UnknownFunctionError, translated
from layergraph.errors import GraphError
from layergraph.ops.table import OPERATIONS
from model_files import check_fixture
from oracles import assert_close, keras, perturb

FIXTURES = Path(__file__).parents[2] / "fixtures"
FILES = sorted(
    path
    for folder in ("functions", "operations", "nodes")
    for path in (FIXTURES / f"tensorflow_{folder}").glob("*.[hk]*")
)
X = TensorRef("x", 0, 0)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_files_of_tf_keras_215_give_its_numbers(path: Path) -> None:
    check_fixture(path, 1e-4)


def in_cudnn_layout(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray, gates: int) -> list[np.ndarray]:
    """Keras 2.3's conversion of ordinary weights to cuDNN's."""
    inputs = np.hstack([gate.T.reshape(gate.shape, order="C") for gate in np.hsplit(kernel, gates)])
    states = np.hstack([gate.T for gate in np.hsplit(recurrent, gates)])
    return [inputs, states, np.tile(0.5 * bias, 2) if gates == 4 else bias.reshape(-1)]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_cudnn_weights_are_told_by_their_bias(kind: str, tmp_path: Path) -> None:
    x = keras.Input((5, 4), name="x")
    model = keras.Model(x, getattr(keras.layers, kind)(3, name="r")(x))
    perturb(model)
    path = tmp_path / "model.h5"
    model.save(path)
    weights = in_cudnn_layout(*model.get_weights(), 4 if kind == "LSTM" else 3)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/r"]
        for name, value in zip(group.attrs["weight_names"], weights, strict=True):
            del group[name]
            group[name] = value
    data = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
    assert_close(next(iter(layergraph.load_model(path).plan().run({"x": data}).values())), model.predict_on_batch(data))


def test_a_new_axis_by_itself_is_a_subscript() -> None:
    call = keras2_call(["x", 0, 0, {"slice_spec": None}], "SlicingOpLambda", 0, {})
    assert translated("__operators__.getitem", call) == ("GetItem", {}, CallSpec((X, None)))


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(UnknownFunctionError, match=r"'math\.sobol_sample'"):
        translated("math.sobol_sample", CallSpec((X,)))
    with pytest.raises(UnknownFunctionError, match="experimental"):
        translated("math.cumsum", CallSpec((X,), {"axis": 1, "experimental": True}))


def test_padding_by_tensors_is_refused() -> None:
    with pytest.raises(UnknownFunctionError, match=r"'pad' .* widths that are tensors"):
        translated("compat.v1.pad", CallSpec((X,), {"paddings": [[0, 0], [0, TensorRef("n", 0, 0)]]}))


@pytest.mark.parametrize("name", ["einsum", "meshgrid", "__operators__.eq", "__operators__.ne"])
def test_a_function_whose_operands_are_lost_is_refused(name: str) -> None:
    with pytest.raises(UnknownFunctionError, match="files don't contain"):
        translated(name, CallSpec((X,)))


@pytest.mark.parametrize("name", ["sqrt", "compat.v1.sqrt", "compat.v1.math.sqrt", "math.sqrt", "nn.sqrt"])
def test_a_function_has_several_names(name: str) -> None:
    assert translated(name, CallSpec((X,)))[0] == "Sqrt"


@pytest.mark.parametrize("name", ["strings.split", "sparse.add", "ragged.range", "random.normal", "io.read_file"])
def test_functions_of_the_same_name_for_other_things_are_refused(name: str) -> None:
    with pytest.raises(UnknownFunctionError, match="not supported"):
        translated(name, CallSpec((X,)))


#: Other names of functions in the fixtures; functions that TensorFlow 2.15 decomposes before they become layers, and
#: those that it rejects as layers, which older releases may not.
WITHOUT_CASE = [
    "__operators__.eq",
    "__operators__.mul",
    "__operators__.ne",
    "__operators__.sub",
    "__operators__.truediv",
    "batch_to_space",
    "image.sobel_edges",
    "image.total_variation",
    "linalg.logdet",
    "linalg.matvec",
    "math.divide",
    "math.floor_div",
    "math.floordiv",
    "math.logical_xor",
    "math.mod",
    "nn.conv3d_transpose",
    "nn.conv_transpose",
    "nn.depthwise_conv2d_native",
    "nn.softmax_cross_entropy_with_logits",
    "nn.space_to_batch",
    "nn.swish",
    "signal.irfft",
    "signal.rfft",
    "space_to_batch",
    "to_double",
    "to_float",
    "to_int32",
    "to_int64",
]


def operation(name: str, *args: Any, **kwargs: Any) -> np.ndarray:
    """Applies a TensorFlow function by its name in files."""
    kind, options, call = translated(name, CallSpec(args, kwargs))
    result = OPERATIONS[kind](name="op", **options)(*call.args, **call.kwargs)
    return np.asarray(result.detach().numpy())


def test_total_variation_is_that_of_neighbours() -> None:
    images = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype("float32")
    expected = sum(np.abs(np.diff(images, axis=axis)).sum((1, 2, 3)) for axis in (1, 2))
    np.testing.assert_allclose(operation("image.total_variation", torch.from_numpy(images)), expected, rtol=1e-5)
    single = operation("image.total_variation", torch.from_numpy(images[1]))
    np.testing.assert_allclose(single, expected[1], rtol=1e-5)


#: Results of tf.raw_ops.ResizeNearestNeighbor of TensorFlow 2.15 for five pixels with aligned corners, with neither
#: option, and with half-pixel centres.
NEAREST = {
    2: ([0, 4], [0, 2], [1, 3]),
    3: ([0, 2, 4], [0, 1, 3], [0, 2, 4]),
    4: ([0, 1, 3, 4], [0, 1, 2, 3], [0, 1, 3, 4]),
    7: ([0, 1, 1, 2, 3, 3, 4], [0, 0, 1, 2, 2, 3, 4], [0, 1, 1, 2, 3, 3, 4]),
    9: ([0, 1, 1, 2, 2, 3, 3, 4, 4], [0, 0, 1, 1, 2, 2, 3, 3, 4], [0, 0, 1, 1, 2, 3, 3, 4, 4]),
}


@pytest.mark.parametrize("size", NEAREST)
def test_the_nearest_pixels_are_tensorflows(size: int) -> None:
    pixels = torch.arange(5.0).reshape(1, 5, 1, 1)
    ways: list[dict[str, Any]] = [{"align_corners": True}, {}, {"half_pixel_centers": True}]
    for options, expected in zip(ways, NEAREST[size], strict=True):
        resized = OPERATIONS["tf>ResizeNearestOld"](name="op")(pixels, [size, 1], **options)
        assert resized.flatten().tolist() == expected


def test_every_function_has_a_case() -> None:
    seen: set[str] = set()
    for path in FILES:
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                config = json.loads(file.attrs["model_config"])
            names = (layer["config"].get("function") for layer in config["config"]["layers"])
            seen |= {name.removeprefix("compat.v1.") for name in names if name}
    assert sorted(set(FUNCTIONS) - seen - {*WITHOUT_CASE}) == []


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


NODE = field(1, b"mul") + field(2, b"Mul") + field(3, b"x") + field(5, field(1, b"T") + field(2, b"\x30\x01"))
SLICE = {"op": "StridedSlice", "attr": {"begin_mask": {"i": "1"}, "end_mask": {"i": "3"}, "T": {"type": "DT_FLOAT"}}}


@pytest.mark.parametrize(
    ("node", "constants", "expected"),
    [
        (NODE.decode("latin-1"), {"1": 2.0}, ("Multiply", {}, (X, 2.0))),
        (base64.b64encode(NODE).decode(), {"0": 2.0}, ("Multiply", {}, (2.0, X))),
        ({"op": "Mul"}, {1: 3}, ("Multiply", {}, (X, 3))),
        ({"op": "Max", "attr": {"keep_dims": {"b": True}}}, {"1": 1}, ("Max", {"axis": 1, "keepdims": True}, (X,))),
        (
            SLICE,
            {"1": [0, 1], "2": [0, 0], "3": [1, 1]},
            ("GetItem", {}, (X, (slice(None, None, 1), slice(1, None, 1)))),
        ),
    ],
)
def test_a_graph_node_is_an_operation(node: Any, constants: Any, expected: Any) -> None:
    operation, options, call = graph_node(node, constants, CallSpec((X,)))
    args = tuple(
        tuple(slice(k["start"], k["stop"], k["step"]) for k in arg) if isinstance(arg, tuple) else arg
        for arg in call.args
    )
    assert (operation, options, args) == expected


@pytest.mark.parametrize("node", ["\x12", "a" * 50, "", None, [], {"op": "PyFunc"}, {"op": ["Mul"]}])
def test_a_damaged_node_is_refused(node: Any) -> None:
    with pytest.raises(UnknownFunctionError):
        graph_node(node, {}, CallSpec((X,)))


def test_a_constant_of_lists_that_differ_is_refused() -> None:
    x = layergraph.Input((2,))
    product = OPERATIONS["Tensordot"](axes=1)
    with pytest.raises(GraphError):
        product(x, [[0.3, 0.3], [0.3]])
