"""Lower precision is used if outputs stay within the golden tolerances, and refused otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import CorruptFileError
from layergraph.execution.engines import low_precision as reduced
from layergraph.execution.engines.engine import UnfitError
from layergraph.execution.engines.onnx import quantization
from layergraph.execution.tuning import agreement
from layergraph.execution.tuning import precision as tuning
from layergraph.golden import Golden, GoldenMismatchError, make_golden, write_golden
from layergraph.lower_precision import calibration_path, read_calibration, reduce_precision


@pytest.fixture(autouse=True)
def only_int8(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """For models as small as these float32 may be as fast."""
    if "float32" not in request.node.name:
        monkeypatch.setattr(tuning, "FLOAT32", {})


X = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")


def model() -> layergraph.Model:
    x = layergraph.Input((6,), name="x")
    y = layers.Dense(16, activation="relu")(x)
    return layergraph.Model(x, [layers.Dense(3, name="a")(y), layers.Dense(2, activation="sigmoid", name="b")(y)])


def golden(made: layergraph.Model, path: Path, tolerance: float) -> Path:
    golden = make_golden(made)
    write_golden(Golden(golden.inputs, golden.outputs, rtol=0.0, atol=tolerance), path)
    return path


@pytest.mark.parametrize(("precision", "package"), [("int8", "onnxruntime"), ("bfloat16", "openvino")])
def test_a_model_computes_in_less_where_its_golden_file_allows_it(precision: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    made = model()
    expected = made.plan().run({"x": X})
    # With the rows that it is calibrated with.
    write_golden(Golden({"x": X}, expected, rtol=0.0, atol=0.5), tmp_path / "golden.npz")
    reduce_precision(made, tmp_path / "golden.npz", precision, threads=1)
    assert [choice.rows for choice in made.engines] == ([1, 8, 32] if precision == "int8" else [1])
    for choice in made.engines:
        assert choice.engine.startswith(precision)
        assert choice.difference < 0.5
    for _ in range(2):  # the first time with the lengths of that data, then as known ones
        got = made.plan().run({"x": X})
        assert list(got) == ["a", "b"]
        for name, value in expected.items():
            assert got[name].dtype == value.dtype
            np.testing.assert_allclose(got[name], value, atol=0.5)
    if precision == "int8":
        assert all(choice.difference > 0 for choice in made.engines)
        assert all(choice.milliseconds.keys() <= reduced.INT8.keys() for choice in made.engines)
        assert max(np.abs(got[name] - expected[name]).max() for name in expected) > 1e-6, "it is computed in less"


def test_a_golden_file_that_is_too_strict_keeps_the_precision(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = model()
    with pytest.raises(GoldenMismatchError, match="output 'a' differs by"):
        reduce_precision(made, golden(made, tmp_path / "golden.npz", 1e-9), "int8")
    assert made.engines == ()


IMAGES = np.random.default_rng(1).uniform(-1, 1, (6, 9, 9, 3)).astype("float32")


class Folder(tuning.TemporaryWorkshop):
    """Keeps the graphs in a folder, and counts how often they are made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = 0

    @contextmanager
    def graphs(self, calibration: Any, write: Any) -> Iterator[Path]:
        if not self.path.exists():
            self.path.mkdir()
            self.made += 1
            write(self.path)
            quantization.quantize(self.path)
        yield self.path


def convolutional() -> layergraph.Model:
    """Two convolutions with normalization, whose statistics aren't those of a new layer, beside a skip connection."""
    x = layergraph.Input((9, 9, 3), name="x")
    y = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x)))
    y = layers.Add()([y, layers.DepthwiseConv2D(3, padding="same", activation="relu6")(y)])
    made = layergraph.Model(x, layers.Dense(4, activation="softmax", name="y")(layers.GlobalAveragePooling2D()(y)))
    made.layers[2].set_weights([np.full(8, value, "float32") for value in (0.9, 0.1, 0.2, 1.5)])
    return made


def proof(made: layergraph.Model, path: Path, atol: float) -> Path:
    write_golden(Golden({"x": IMAGES}, made.plan().run({"x": IMAGES}), rtol=0.0, atol=atol), path)
    return path


def scales(path: Path) -> dict[str, Any]:
    """The scale of each input of a QuantizeLinear, and of each kernel of 8 bits."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    found = {node.input[0]: arrays[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"}
    kernels = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in arrays]
    return found | {n.output[0]: arrays[n.input[1]] for n in kernels if arrays[n.input[0]].dtype == np.int8}


def has_range(found: dict[str, Any], array: Any) -> bool:
    """Whether a tensor has the 256 steps of this array's range: the input, or what it is once moved."""
    wanted = (array.max() - array.min()) / 255
    return any(scale.ndim == 0 and abs(scale - wanted) < 1e-3 * wanted for scale in found.values())


def test_convolutions_have_kernels_of_8_bits_with_a_scale_for_each_channel(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made, kept = convolutional(), Folder(tmp_path / "graphs")
    reduce_precision(made, proof(made, tmp_path / "golden.npz", 0.05), "int8", threads=1, workshop=kept)
    onnx = pytest.importorskip("onnx")
    found = scales(tmp_path / "graphs" / quantization.STATIC)
    graph = onnx.load(tmp_path / "graphs" / quantization.STATIC).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [found[node.input[1]].shape for node in convolutions] == [(8,), (8,)]
    assert has_range(found, IMAGES)
    # A softmax of 8 bits would give multiples of a 256th.
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    assert softmax.output[0] not in found
    got, expected = made.plan().run({"x": IMAGES})["y"], made.predict(IMAGES)
    assert 0 < np.abs(got - expected).max() < 0.05


def test_ranges_are_those_of_the_calibration_beside_the_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made, kept = convolutional(), Folder(tmp_path / "graphs")
    np.savez(tmp_path / "calibration.npz", **{"input/x": IMAGES[:2] * 4})
    golden = proof(made, tmp_path / "golden.npz", 0.1)
    reduce_precision(made, golden, "int8", calibration=tmp_path / "calibration.npz", workshop=kept)
    found = scales(tmp_path / "graphs" / quantization.STATIC)
    assert has_range(found, IMAGES[:2] * 4)
    assert not has_range(found, IMAGES)


def test_what_was_chosen_is_not_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    made, kept = convolutional(), Folder(tmp_path / "graphs")
    golden = proof(made, tmp_path / "golden.npz", 0.05)
    reduce_precision(made, golden, "int8", threads=1, workshop=kept)
    first = [(one.rows, one.engine, one.milliseconds, one.difference) for one in made.engines]
    monkeypatch.setattr(tuning, "lower_quartiles", lambda *_: 1 / 0)
    reduce_precision(made, golden, "int8", threads=1, workshop=kept)
    assert [(one.rows, one.engine, one.milliseconds, one.difference) for one in made.engines] == first
    assert kept.made == 1
    # The proof is compared each time.
    with pytest.raises(GoldenMismatchError):
        reduce_precision(made, golden, "int8", threads=1, atol=1e-9, workshop=kept)


@pytest.mark.parametrize("faster", ["onnxruntime", "int8-onnxruntime"])
def test_float32_is_used_where_it_is_the_fastest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
    """For one row here, and for more rows if `faster` is an engine of float32."""
    pytest.importorskip("onnxruntime")
    counts: list[int] = []

    def times(calls: Any, seconds: float) -> dict[str, float]:
        counts.append(len(counts))
        fastest = "onnxruntime" if len(counts) == 1 else faster
        return {name: 1e-6 if name == fastest else 2e-6 for name in calls}

    monkeypatch.setattr(tuning, "lower_quartiles", times)
    made, kept = convolutional(), Folder(tmp_path / "graphs")
    golden = proof(made, tmp_path / "golden.npz", 0.05)
    for _ in range(2):  # the second time with what was noted
        if faster == "onnxruntime":
            with pytest.raises(UnfitError, match=r"int8 takes 0.002 ms for 1 row, float32 0.001 ms"):
                reduce_precision(made, golden, "int8", threads=1, workshop=kept)
            assert made.engines == ()
        else:
            reduce_precision(made, golden, "int8", threads=1, workshop=kept)
            assert [choice.engine for choice in made.engines] == ["onnxruntime", faster, faster]
            assert made.engines[0].difference < 1e-6 < made.engines[1].difference
            got, expected = made.plan().run({"x": IMAGES[:1]})["y"], made.predict(IMAGES[:1])
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert len(counts) == 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "{}", "[1]", "[{}]", '[{"rows": 1, "engine": "eager", "milliseconds": {}}]'),
        '[{"rows": 0, "engine": "int8-dynamic", "milliseconds": {}}]',
    ],
)
def test_a_note_that_is_damaged_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "engines.json").write_text(text)
    assert tuning._recall(tmp_path / "engines.json") == []


def test_products_have_kernels_of_8_bits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    made, kept = model(), Folder(tmp_path / "graphs")
    reduce_precision(made, golden(made, tmp_path / "golden.npz", 1.0), "int8", threads=1, workshop=kept)
    graph = onnx.load(tmp_path / "graphs" / quantization.DYNAMIC).graph
    products = [node.op_type for node in graph.node if "MatMul" in node.op_type or node.op_type == "Gemm"]
    assert len(products) == 3
    assert set(products) == {"MatMulInteger"}


def test_packages_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(folder: Path) -> None:
        raise ImportError("no onnxruntime")

    monkeypatch.setattr(quantization, "quantize", missing)
    made = model()
    with pytest.raises(UnfitError, match="the packages 'onnxruntime' and 'onnx' aren't installed"):
        reduce_precision(made, golden(made, tmp_path / "golden.npz", 1.0), "int8")


def test_a_model_without_products_has_nothing_to_quantize(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = layergraph.Input((6,), name="x")
    made = layergraph.Model(x, layers.Activation("relu", name="y")(x))
    with pytest.raises(UnfitError, match="neither convolutions nor matrix products"):
        reduce_precision(made, golden(made, tmp_path / "golden.npz", 1.0), "int8")
    assert made.engines == ()


def test_a_model_of_text_is_refused_by_name(tmp_path: Path) -> None:
    words = layergraph.Input((1,), dtype="string", name="words")
    made = layergraph.Model(words, layers.StringLookup(vocabulary=["a", "b"], name="y")(words))
    np.savez(tmp_path / "golden.npz", **{"input/words": np.zeros((1, 1)), "output/y": np.zeros((1, 1))})
    with pytest.raises(UnfitError, match="input 'words' is of dtype string"):
        reduce_precision(made, tmp_path / "golden.npz", "int8")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"a": IMAGES, "b": IMAGES}, "has no array 'input/x', got 'a'"),
        ({"x": IMAGES[..., :2]}, "is not for this model: array 'input/x': got shape"),
        ({"x": IMAGES[:0]}, "array 'input/x' is empty, expected rows of inputs"),
        ({"x": IMAGES.astype("complex64")}, "is no array of numbers"),
    ],
)
def test_a_calibration_of_another_model_is_refused(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    np.savez(tmp_path / "calibration.npz", **arrays)
    with pytest.raises(CorruptFileError, match=problem.replace("(", r"\(")):
        read_calibration(convolutional(), tmp_path / "calibration.npz")


def test_a_calibration_has_the_same_number_of_rows_for_all_inputs_and_not_too_many(tmp_path: Path) -> None:
    a, b = layergraph.Input((2,), name="a"), layergraph.Input((2,), name="b")
    made = layergraph.Model([a, b], layers.Add(name="y")([a, b]))
    np.savez(tmp_path / "calibration.npz", a=np.ones((3, 2)), b=np.ones((2, 2)))
    with pytest.raises(CorruptFileError, match="expected the same number of rows in all"):
        read_calibration(made, tmp_path / "calibration.npz")
    np.savez(tmp_path / "calibration.npz", first=np.ones((1000, 2)), second=np.zeros((1000, 2)))
    found = read_calibration(made, tmp_path / "calibration.npz")
    assert {name: (array.shape, array[0, 0]) for name, array in found.items()} == {
        "a": ((512, 2), 1.0),
        "b": ((512, 2), 0.0),
    }


def test_a_calibration_lies_beside_its_model() -> None:
    assert calibration_path(Path("golden/3/model.keras")) == Path("golden/3/calibration.npz")
    assert calibration_path(Path("models/golden.npz.keras")) == Path("models/golden.npz.calibration.npz")


def test_types_of_16_bits_are_the_gpus_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(reduced, "cuda", lambda *given: asked.append(("cuda", *given)))
    monkeypatch.setattr(reduced, "open_vino", lambda *given: asked.append(("openvino", *given)))
    for there in (True, False):
        monkeypatch.setattr(reduced.torch.cuda, "is_available", lambda there=there: there)
        for precision in ("bfloat16", "float16"):
            reduced.PRECISIONS[precision]("source")  # type: ignore[arg-type]
    assert asked == [
        ("cuda", "source", "bfloat16"),
        ("cuda", "source", "float16"),
        ("openvino", "source", "bf16"),
        ("openvino", "source", "f16"),
    ]


def test_without_a_gpu_there_is_no_tf32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reduced.torch.cuda, "is_available", lambda: False)
    made = model()
    with pytest.raises(UnfitError, match="there is no CUDA device"):
        reduce_precision(made, golden(made, tmp_path / "golden.npz", 1.0), "tf32")
    assert made.engines == ()


def test_outputs_of_less_precision_have_the_same_shapes_and_types() -> None:
    ones = np.ones((2, 3), "float32")
    assert agreement.same_kind([ones, ones + 5], [ones, ones])
    assert not agreement.same_kind([ones, ones.T], [ones, ones])
    assert not agreement.same_kind([ones.astype("float16"), ones], [ones, ones])
