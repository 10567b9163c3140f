"""Exported files: opened by ONNX Runtime and torch.export, they compute the model's outputs for any open length."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from layergraph import Input, Model, layers, ops
from layergraph.errors import ConfigError, DataError, ExportError
from layergraph.exporting import onnx_file
from layergraph.exporting.cases import Case, differences, find_cases
from layergraph.exporting.simpler import FOR_ONNX
from synced import Disk

Arrays = Mapping[str, np.ndarray[Any, Any]]

SUFFIXES = (".onnx", ".pt2")


def dense() -> Model:
    x = Input((4,), name="x")
    return Model(x, layers.Dense(3, activation="gelu", name="y")(layers.BatchNormalization()(x)), name="dense")


def images() -> Model:
    x = Input((9, 8, 3), name="image")
    y = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    y = layers.MaxPooling2D(2, padding="same")(layers.DepthwiseConv2D(3, padding="same")(y))
    return Model(x, [layers.GlobalAveragePooling2D(name="mean")(y), layers.Flatten(name="flat")(y)])


def masked_words() -> Model:
    x = Input((None,), dtype="int32", name="words")
    y = layers.Embedding(20, 5, mask_zero=True, name="table")(x)
    y = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(y)
    return Model(x, {"last": layers.GRU(3, reset_after=False)(y), "steps": layers.Dense(2, name="dense")(y)})


def states() -> Model:
    x, start = Input((None, 3), name="x"), Input((4,), name="start")
    y, h, c = layers.LSTM(4, return_state=True, go_backwards=True, name="lstm")(
        layers.Masking()(x), initial_state=[start, start]
    )
    return Model([x, start], [y, h, c])


def odd_activations() -> Model:
    x = Input((None, 3), name="x")
    y = layers.LSTM(4, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True)(x)
    return Model(x, layers.SimpleRNN(3, activation="sigmoid", return_sequences=True, name="y")(y))


def films() -> Model:
    x = Input((None, 6, 5, 2), name="film")
    return Model(x, layers.ConvLSTM2D(3, 3, padding="same", go_backwards=True, name="y")(x))


def shared_and_nested() -> Model:
    a, b = Input((4,), name="a"), Input((4,), name="b")
    inner = dense()
    shared = layers.Dense(3, name="shared")
    return Model({"a": a, "b": b}, [shared(a), shared(b), layers.Add(name="sum")([inner(a), inner(b)])])


def flags() -> Model:
    x, keep = Input((3,), dtype="int64", name="numbers"), Input((3,), dtype="bool", name="keep")
    return Model([x, keep], [ops.where(keep, x, -x), ops.logical_not(keep), ops.argmax(x, axis=1)])


def attention() -> Model:
    x, y = Input((None, 4), name="query"), Input((None, 4), name="value")
    return Model([x, y], layers.MultiHeadAttention(2, 3, name="attended")(x, y))


def checked() -> Model:
    x = Input((3, 4), dtype="int32", name="x")
    # Sorting has equal numbers, whose order must stay.
    return Model(x, [ops.take(x, [2, -1], axis=1), x // (ops.abs(x) + 1), ops.argsort(x, axis=2)])


def doubles() -> Model:
    x = Input((4,), dtype="float64", name="x")
    return Model(x, layers.Dense(3, dtype="float64", name="y")(x))


def halves() -> Model:
    x = Input((None, 4), name="x")
    return Model(x, layers.LSTM(3, dtype="mixed_float16", name="y")(x))


def short_halves() -> Model:
    """bfloat16 as input, in a loop, in attention and as output."""
    x = Input((None, 4), dtype="bfloat16", name="x")
    y = layers.SimpleRNN(4, return_sequences=True, dtype="mixed_bfloat16", name="y")(x)
    return Model(x, [y, layers.MultiHeadAttention(2, 3, dtype="mixed_bfloat16", name="attended")(y, y)])


def small_types() -> Model:
    """ONNX Runtime adds no truth values, and splits and joins no small integers."""
    keep, x = Input((4,), dtype="bool", name="keep"), Input((4,), dtype="int8", name="x")
    joined = ops.hstack([x, ops.cast(x, "float32")])
    numbers = [keep + 1, ops.maximum(x, 1), ops.power(x, 2), ops.where(keep, x, 1), ops.arctan2(x, 2)]
    return Model([keep, x], [keep + keep, *numbers, *ops.array_split(x, 3, axis=1), joined])


def remainders() -> Model:
    x, whole = Input((4,), name="x"), Input((4,), dtype="int32", name="whole")
    large = ops.round(x * 10) / 10
    return Model([x, whole], [large % 0.1, large // 0.1, ops.round(whole * 7 + 8, 2), whole // 3, whole % 3, x // -0.7])


def open_lengths() -> Model:
    x = Input((None, 3), name="x")
    return Model(x, [ops.cumprod(x, axis=1), ops.diagonal(x, offset=1, axis1=1, axis2=2)])


def shared_numbers() -> Model:
    """torch's exporter changes -1 in place for the axis of a repetition."""
    x = Input((3, 4), name="x")
    return Model(x, [ops.clip(x, -1, 1), ops.repeat(x, 2, axis=-1)])


def own_names() -> Model:
    x = Input((4,), name="größe 1")
    return Model(x, [x, layers.Dense(3, name="a:0/b")(x)])


MODELS = (
    *(dense, images, masked_words, states, odd_activations, films, shared_and_nested, flags, attention, checked),
    *(doubles, halves, own_names, short_halves, small_types, remainders, open_lengths, shared_numbers),
)


def made(make: Callable[[], Model]) -> Model:
    """The model with weights away from zeros and ones."""
    model, rng = make(), np.random.default_rng(1)
    model.set_weights([w + rng.uniform(0.1, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def inputs(model: Model, rows: int, length: int) -> dict[str, np.ndarray[Any, Any]]:
    """Random inputs; each further open axis is one longer."""
    rng, lengths = np.random.default_rng(rows), itertools.count(length)
    given = {}
    for spec in model.input_specs:
        shape = [rows if axis == 0 else next(lengths) if n is None else n for axis, n in enumerate(spec.shape)]
        whole = "float" not in spec.dtype
        dtype = "float32" if spec.dtype == "bfloat16" else spec.dtype
        given[spec.name] = (rng.integers(0, 2, shape) if whole else rng.standard_normal(shape)).astype(dtype)
    return given


def run_onnx(path: Path) -> Callable[[Arrays], dict[str, np.ndarray[Any, Any]]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, dict(given)), strict=True))


def run_program(path: Path) -> Callable[[Arrays], dict[str, np.ndarray[Any, Any]]]:
    module = torch.export.load(path).module()
    return lambda given: {n: y.numpy() for n, y in module({n: torch.from_numpy(a) for n, a in given.items()}).items()}


OPEN = {".onnx": run_onnx, ".pt2": run_program}


#: Loops of torch.export take seconds to record: see the test of a program that opens without layergraph.
LOOPS = (masked_words, states, odd_activations, films, doubles, halves, short_halves)
CASES = [(make, ".onnx") for make in MODELS] + [(make, ".pt2") for make in MODELS if make not in LOOPS]


@pytest.mark.parametrize(("make", "suffix"), CASES, ids=[f"{make.__name__}{suffix}" for make, suffix in CASES])
def test_the_file_computes_the_model_for_any_rows_and_lengths(make: Any, suffix: str, tmp_path: Path) -> None:
    model = made(make)
    report = model.export(tmp_path / f"m{suffix}")
    run = OPEN[suffix](tmp_path / f"m{suffix}")
    names = [one.name for one in report.outputs]
    if make is not own_names:
        assert names == model.output_names
    for rows, length in ((1, 7), (5, 3), (4, 1)):
        given = inputs(model, rows, length)
        want, got = list(model.plan().run(given).values()), run(given)
        assert list(got) == names
        assert max(differences([Case([], want)], [list(got.values())])) <= report.tolerance
    assert [path.name for path in tmp_path.iterdir()] == [f"m{suffix}"]


def test_bfloat16_is_float32_outside_of_an_onnx_file(tmp_path: Path) -> None:
    report = made(short_halves).export(tmp_path / "m.onnx")
    assert {one.dtype for one in (*report.inputs, *report.outputs)} == {"float32"}
    # Its kernels are those of float32, rounded as torch's are; those of attention aren't.
    assert report.outputs[0].difference == 0.0


def test_the_number_of_axes_is_a_condition_where_it_depends_on_lengths(tmp_path: Path) -> None:
    x = Input((None,), dtype="int32", name="x")
    report = Model(x, layers.CategoryEncoding(5, "one_hot", name="y")(x)).export(tmp_path / "m.onnx")
    assert report.text().splitlines()[-1] == "  only for lengths with 3 axes in output 'y'"


def test_names_shapes_and_open_axes_are_in_the_onnx_file(tmp_path: Path) -> None:
    report = made(masked_words).export(tmp_path / "m.onnx", opset_version=18)
    model = onnx.load(tmp_path / "m.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]

    def shapes(values: Any) -> dict[str, list[Any]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    assert shapes(model.graph.input) == {"words": ["batch", "words_1"]}
    assert shapes(model.graph.output) == {"last": ["batch", 3], "steps": ["batch", "words_1", 2]}
    assert {one.name for one in model.graph.initializer} >= {"table/embeddings", "dense/kernel"}
    # Paths of the machine that wrote the file.
    assert b"layergraph/" not in (tmp_path / "m.onnx").read_bytes()
    assert report.text().splitlines()[1:] == [
        "  input words: (batch, words_1) int32",
        f"  output last: (batch, 3) float32, largest difference {report.outputs[0].difference:.2g}",
        f"  output steps: (batch, words_1, 2) float32, largest difference {report.outputs[1].difference:.2g}",
        f"  compared on {report.compared} inputs, tolerance 1e-05 of the largest value",
    ]


def masked_loop() -> Model:
    x = Input((None,), dtype="int32", name="words")
    return Model(x, layers.GRU(3, return_sequences=True, name="steps")(layers.Embedding(20, 5, mask_zero=True)(x)))


def test_a_program_opens_without_layergraph(tmp_path: Path) -> None:
    model = made(masked_loop)
    model.export(tmp_path / "m.pt2")
    given = inputs(model, 3, 11)["words"]
    np.save(tmp_path / "x.npy", given)
    code = (
        "import sys, numpy, torch; p = torch.export.load('m.pt2').module()\n"
        "numpy.save('y.npy', p({'words': torch.from_numpy(numpy.load('x.npy'))})['steps'].numpy())\n"
        "assert not any(name.startswith('layer') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, check=True, env={})
    want = model.plan().run({"words": given})["steps"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), want, rtol=1e-5, atol=1e-6)


def test_weights_above_the_limit_of_protobuf_are_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 50)
    x = Input((40,), name="x")
    model = Model(x, layers.Dense(30, name="y")(x))
    report = model.export(tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert report.files == (str(tmp_path / "m.onnx"), str(tmp_path / "m.onnx.data"))
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (tmp_path / "m.onnx").stat().st_size < 40 * 30 * 4
    given = inputs(model, 2, 0)
    np.testing.assert_allclose(run_onnx(tmp_path / "m.onnx")(given)["y"], model.plan().run(given)["y"], rtol=1e-5)
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(FileExistsError, match=r"m\.onnx\.data"):
        model.export(tmp_path / "m.onnx", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx.data"]


def texts() -> Model:
    x = Input((1,), dtype="string", name="text")
    return Model(x, layers.Embedding(4, 2)(layers.StringLookup(vocabulary=["a", "b"], name="lookup")(x)))


def hashed() -> Model:
    x = Input((2,), dtype="int64", name="x")
    return Model(x, layers.Embedding(4, 2)(layers.Hashing(4, name="hash")(x)))


def training() -> Model:
    x = Input((2,), name="x")
    return Model(x, layers.Dropout(0.5, name="noise")(x, training=True))


def test_a_length_that_a_program_cannot_leave_open_is_named(tmp_path: Path) -> None:
    x = Input((3,), name="x")
    text = r"layer 'diff\w*' \(Diff\): torch\.export can't leave open the length x\.shape\[0\]$"
    with pytest.raises(ExportError, match=text):
        Model(x, ops.diff(x, axis=0)).export(tmp_path / "m.pt2")


def test_a_kernel_that_onnx_runtime_lacks_is_named(tmp_path: Path) -> None:
    """Numbers of float64 don't fit float32, so there are no casts."""
    x = Input((4, 2), dtype="float64", name="x")
    text = r"layer 'up' \(Conv1DTranspose\): ONNX Runtime has no ConvTranspose for a type that the model computes in$"
    with pytest.raises(ExportError, match=text):
        Model(x, layers.Conv1DTranspose(3, 2, dtype="float64", name="up")(x)).export(tmp_path / "m.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=f"requires {package}.*: pip install {package}$"):
        dense().export(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_of_tensors_without_elements_is_refused(tmp_path: Path) -> None:
    x = Input((4,), name="x")
    with pytest.raises(ExportError, match="the model computes with tensors without elements"):
        Model(x, x[:, 4:]).export(tmp_path / "m.pt2")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (texts, r"layer 'lookup' \(StringLookup\) takes or returns text"),
        (hashed, r"layer 'hash' \(Hashing\)"),
        (training, r"layer 'noise' \(Dropout\) is called with training=True"),
    ],
)
def test_what_a_format_lacks_is_refused_by_name_and_leaves_nothing(
    make: Any, text: str, suffix: str, tmp_path: Path
) -> None:
    kind = {".onnx": "onnx", ".pt2": "torch"}[suffix]
    with pytest.raises(ExportError, match=rf"^model '\w+' can't be exported as {kind}: .*{text}"):
        make().export(tmp_path / f"m{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_numbers_is_refused_with_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.onnx").write_text("before")
    model = made(shared_and_nested)
    written = onnx_file._initializer

    def wrong(name: str, value: torch.Tensor) -> Any:
        return written(name, value + 0.01 if name == "shared/kernel" else value)

    monkeypatch.setattr(onnx_file, "_initializer", wrong)
    with pytest.raises(
        ExportError, match=r"output 'shared:0:0' differs by 0\.\d+ of its largest value, expected at most"
    ):
        model.export(tmp_path / "m.onnx")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m.onnx", "before")]
    assert model.export(tmp_path / "m.onnx", tolerance=1.0).tolerance == 1.0


def test_the_layer_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOR_ONNX, torch.trunc, torch.floor)
    x = Input((4,), name="x")
    model = Model(x, layers.Dense(2)(ops.trunc(layers.Dense(9, name="before")(x))))
    with pytest.raises(ExportError, match=r"from layer 'trunc\w*' \(Trunc\): its output differs by"):
        made(lambda: model).export(tmp_path / "m.onnx")


def test_inputs_on_which_rounding_decides_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For inputs near 1, the last digit decides about the sine."""
    x = Input((4,), name="x")
    model = Model(x, ops.sin(ops.square(x) * 1e6))
    monkeypatch.setitem(FOR_ONNX, torch.square, lambda x: x * x * (1 + 2**-23))
    with pytest.raises(ExportError, match="the outputs depend on the last digits of inputs and weights"):
        model.export(tmp_path / "m.onnx")
    # One input that decides is enough.
    small = {"x": np.full((2, 4), 1e-4, "float32")}
    assert model.export(tmp_path / "m.onnx", examples=[small]).outputs[0].difference <= 1e-6
    monkeypatch.setitem(FOR_ONNX, torch.square, lambda x: x * x * 1.001)
    with pytest.raises(ExportError, match="differs by"):
        model.export(tmp_path / "m.onnx", examples=[small])


def test_differences_due_to_rounding_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sine's own error is about as large for each input, but small."""
    x = Input((4,), name="x")
    model = Model(x, ops.sin(ops.square(x) * 2e3))
    monkeypatch.setitem(FOR_ONNX, torch.square, lambda x: x * x * (1 + 2**-23))
    report = model.export(tmp_path / "m.onnx")
    assert report.compared == 0
    assert report.rounded > 1
    assert report.outputs[0].difference > report.tolerance
    assert report.text().splitlines()[-1] == f"  on {report.rounded} inputs, larger differences are due to rounding"
    monkeypatch.setitem(FOR_ONNX, torch.square, lambda x: x * x * (1 + 2**-18))
    with pytest.raises(ExportError, match="differs by"):
        model.export(tmp_path / "m.onnx")


def test_an_error_is_found_where_changed_last_digits_would_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digits after 2 ** -20 are exact, although they change with the last digits of inputs."""
    x = Input((4,), name="x")
    scaled = x * 2.0**20
    model = Model(x, scaled - ops.floor(scaled))
    assert model.export(tmp_path / "m.onnx").outputs[0].difference == 0.0
    monkeypatch.setitem(FOR_ONNX, torch.floor, lambda x: torch.floor(x) - 0.25)
    with pytest.raises(ExportError, match=r"differs by 0\.\d+ of its largest value"):
        model.export(tmp_path / "m.onnx")


def test_the_tolerance_of_an_output_depends_on_the_types_that_compute_it(tmp_path: Path) -> None:
    """Operations compute in the type of their inputs, whatever the policy is."""
    x, half = Input((4,), name="x"), Input((4,), dtype="float16", name="half")
    outputs = [ops.softmax(half), layers.Dense(2, dtype="mixed_bfloat16")(x), layers.Dense(2)(x), layers.Dense(2)(half)]
    report = Model([x, half], outputs).export(tmp_path / "m.pt2")
    assert [one.tolerance for one in report.outputs] == [1e-2, 6e-2, 1e-5, 1e-5]
    assert report.tolerance == 6e-2
    assert report.text().endswith(" inputs, tolerance 1e-05 or 0.01 or 0.06 of the largest value")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_formats_are_compared_too(suffix: str, tmp_path: Path) -> None:
    model = made(masked_words)
    report = model.export(tmp_path / f"m{suffix}")
    assert [one.difference for one in report.outputs] == [0.0, 0.0]
    assert layergraph.load_model(tmp_path / f"m{suffix}").output_names == model.output_names
    assert len(list(tmp_path.iterdir())) == 1


def test_text_models_are_saved_without_a_comparison(tmp_path: Path) -> None:
    assert "not compared" in texts().export(tmp_path / "m.keras").text()


def test_without_open_lengths_each_number_of_rows_is_compared_once() -> None:
    assert [len(case.inputs[0]) for case in find_cases(made(dense).plan()).compared] == [2, 3, 1, 3]


def test_examples_are_compared(tmp_path: Path) -> None:
    model = made(dense)
    several = [inputs(model, 3, 0), inputs(model, 8, 0)]
    alone, more = (model.export(tmp_path / "m.onnx", examples=given).compared for given in ((), several))
    assert more == alone + 2
    with pytest.raises(DataError, match="got shape"):
        model.export(tmp_path / "m.onnx", examples=[{"x": np.zeros((3, 5), "float32")}])


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("m.pb", {}, r"ends in \.keras or \.h5 or \.onnx or \.pt2"),
        ("m", {"format": "tf_saved_model"}, "'tf_saved_model' isn't supported, expected one of keras, h5, onnx, torch"),
        ("m.onnx", {"format": "onx"}, "unknown format 'onx'; did you mean 'onnx'"),
        ("m.onnx", {"opset_version": 16}, "got opset 16, expected 17 to 20"),
        ("m.pt2", {"opset_version": 17}, "got opset 17 for format 'torch'"),
        ("m.onnx", {"tolerance": -1.0}, r"got tolerance -1\.0"),
        ("m.onnx", {"input_signature": []}, "input_signature, expected None"),
    ],
)
def test_invalid_arguments(name: str, arguments: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        dense().export(tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_the_format_is_independent_of_the_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = made(dense)
    assert model.export(tmp_path / "model", "torch", verbose=True).format == "torch"
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'model'}: format torch, ")
    assert run_program(tmp_path / "model")(inputs(model, 2, 0)).keys() == {"y"}
    assert model.export(tmp_path / "model", "keras").format == "keras"
    with pytest.raises(FileExistsError):
        model.export(tmp_path / "model", "onnx", overwrite=False)


def test_an_error_of_torch_is_the_reason_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.export, "export", refuse)
    x = Input((4,), name="x")
    with pytest.raises(ExportError, match="no such kernel"):
        Model(x, layers.Dense(2)(x)).export(tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.keras", "m.onnx"])
def test_an_exported_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch, name):
    disk = Disk(monkeypatch)
    report = dense().export(tmp_path / name)
    files = [Path(file) for file in report.files]
    assert disk.lost(*files) == []
    assert disk.taken[-1] == files[0]
