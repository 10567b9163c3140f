"""Engines execute plans with eager torch's numbers and refusals, and only where they are allowed to."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
import torch
from keras import layers, ops
from layergraph import load_model
from layergraph.errors import DataError
from layergraph.execution.engines.engine import Engine
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.engines.onnx.runtime import exported
from layergraph.execution.engines.table import ENGINES
from layergraph.execution.samples import NoSamplesError, Sampler
from layergraph.execution.tuning.result import Choice, Tuned, Tuning
from layergraph.execution.tuning.tuner import tune
from layergraph.functional.tensor import TensorSpec

THERE = {
    "cuda": torch.cuda.is_available(),
    "onnxruntime": importlib.util.find_spec("onnxruntime") is not None,
    "openvino": importlib.util.find_spec("openvino") is not None,
}
#: inductor compiles C++ for half a minute: `make -C lab engines` has it.
QUICK = [
    pytest.param(name, marks=pytest.mark.skipif(not THERE.get(name, True), reason="not there"))
    for name in ENGINES
    if name != "inductor"
]


def words() -> Any:
    """Ids, a mask, a recurrent layer and a second input."""
    entry, extra = keras.Input((12,), dtype="int32", name="ids"), keras.Input((3,), name="extra")
    x = layers.Embedding(50, 8, mask_zero=True)(entry)
    x = layers.Bidirectional(layers.LSTM(5))(x)
    return keras.Model([entry, extra], layers.Dense(4, activation="softmax")(layers.Concatenate()([x, extra])))


def images() -> Any:
    """Convolutions with normalisation, a residual sum, images of any size."""
    entry = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, padding="same")(entry)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    return keras.Model(entry, layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Add()([x, y]))))


def twins() -> Any:
    """A shared encoder, called on two inputs."""
    left, right = keras.Input((10, 6)), keras.Input((10, 6))
    inner = keras.Input((10, 6))
    encoder = keras.Model(inner, layers.GRU(7)(layers.Dense(6, activation="gelu")(inner)))
    both = layers.Concatenate()([encoder(left), encoder(right)])
    return keras.Model([left, right], layers.Dense(1, activation="sigmoid")(both))


def siamese() -> Any:
    """A shared layer, called on two inputs and merged: torch took the bias's length for the number of rows."""
    left, right, third = keras.Input((6,)), keras.Input((6,)), keras.Input((8,))
    shared = layers.Dense(8)
    return keras.Model([left, right, third], layers.Dense(3)(layers.Add()([shared(left), shared(right), third])))


def sequences() -> Any:
    """Attention over sequences of any length."""
    entry = keras.Input((None, 16))
    x = layers.MultiHeadAttention(2, 8)(entry, entry)
    return keras.Model(entry, layers.LayerNormalization()(layers.Add()([entry, x])))


MODELS = {"words": words, "images": images, "twins": twins, "siamese": siamese, "sequences": sequences}


@pytest.fixture(autouse=True)
def _timed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here asks how fast engines are: where none fits, eager torch would be timed for nearly a second."""
    monkeypatch.setattr(
        "layergraph.execution.tuning.tuner.lower_quartiles", lambda calls, *_, **__: dict.fromkeys(calls, 1e-5)
    )


@pytest.fixture
def plan() -> Any:
    """Of a small model."""
    entry, extra = layergraph.Input((4,)), layergraph.Input((3,))
    hidden = layergraph.layers.Dense(5, activation="tanh")(entry)
    return layergraph.Model(
        [entry, extra], layergraph.layers.Dense(4)(layergraph.layers.concatenate([hidden, extra]))
    ).plan()


def data(plan: Any, rows: int, length: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    made = {}
    for spec in plan.input_specs:
        shape = [rows, *(length if size is None else size for size in spec.shape[1:])]
        whole = "int" in spec.dtype
        made[spec.name] = (rng.integers(0, 50, shape) if whole else rng.standard_normal(shape)).astype(spec.dtype)
    return made


@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("name", MODELS)
def test_an_engine_gives_keras_numbers_for_any_rows_and_lengths(name: str, engine: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    stock = MODELS[name]()
    stock.save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    found = plan.tune(engines=(engine,), seconds=60, pin=True)
    assert not found.dropped
    assert [choice.engine for choice in found.choices] == [engine]
    for rows, length in ((1, 20), (2, 33), (7, 9)):
        inputs = data(plan, rows, length)
        arrays = list(inputs.values())
        expected = stock.predict_on_batch(arrays if len(arrays) > 1 else arrays[0])
        (got,) = plan.run(inputs).values()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_what_an_engine_would_compute_wrongly_is_refused_as_ever(tmp_path: Any) -> None:
    words().save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    plan.tune(engines=("torchscript",), pin=True)
    for wrong in (-1, 50):
        inputs = data(plan, 2)
        inputs["ids"][1, 3] = wrong
        with pytest.raises(DataError, match=f"got id {wrong}, expected 0 to 49"):
            plan.run(inputs)


@pytest.mark.parametrize("engine", QUICK)
def test_nan_stays_nan(engine: str, tmp_path: Any) -> None:
    images().save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    plan.tune(engines=(engine,), pin=True)
    inputs = data(plan, 2)
    inputs[plan.input_specs[0].name][1, 5, 5, 1] = np.nan
    (got,) = plan.run(inputs).values()
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize("engine", QUICK)
def test_what_is_not_finite_counts_wherever_it_is(engine: str) -> None:
    """Vector instructions for the maximum of two numbers return the second one if one is NaN."""
    entry = layergraph.Input((2, 2, 2))
    plan = layergraph.Model(entry, layergraph.layers.GlobalMaxPooling2D()(entry)).plan()
    plan.tune(engines=(engine,), pin=True)
    for value, place in itertools.product((np.nan, np.inf, -np.inf), range(8)):
        image = np.zeros((1, 2, 2, 2), "float32")
        image.reshape(-1)[place] = value
        (got,) = plan.run({plan.input_specs[0].name: image}).values()
        np.testing.assert_array_equal(got, plan.run_eagerly([image])[0])


@pytest.mark.parametrize("length", [0, 1, 2])
def test_what_is_empty_or_refused_on_the_way_reaches_no_engine(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's GRU crashes on sequences without timesteps or of negative length."""
    seen = []

    def watching(source: Any) -> Any:
        def run(arrays: Any) -> Any:
            seen.append(arrays[0].shape[1])
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"watching": watching})
    entry = layergraph.Input((None, 3))
    cut = layergraph.layers.Cropping1D(1)(entry) if length == 2 else entry[:, 1:]
    plan = layergraph.Model(entry, layergraph.layers.GRU(4)(cut)).plan()
    assert not plan.tune(engines=("watching",), pin=True).dropped
    seen.clear()
    inputs = data(plan, 3, length)
    for _ in range(2):
        if length == 2:
            with pytest.raises(DataError, match="2 long, expected at least 3"):
                plan.run(inputs)
        else:
            (got,) = plan.run(inputs).values()
            np.testing.assert_array_equal(got, np.zeros((3, 4)))
    assert not seen


def test_a_graph_with_an_empty_tensor_runs_on_eager_torch_only() -> None:
    entry = layergraph.Input((5, 3))
    plan = layergraph.Model(entry, layergraph.layers.GRU(4)(entry[:, 5:])).plan()
    assert "intermediate tensor is empty" in plan.tune(engines=("torchscript",), pin=True).dropped["torchscript"]


def test_a_graph_in_which_python_looks_at_data_runs_on_eager_torch_only(tmp_path: Any) -> None:
    entry = keras.Input((4,), dtype="int32")
    keras.Model(entry, ops.floor_divide(entry, entry)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    found = plan.tune(engines=("torchscript",))
    assert "branches on the values" in found.dropped["torchscript"]
    (got,) = plan.run({plan.input_specs[0].name: np.full((1, 4), 3, "int32")}).values()
    assert got.tolist() == [[1, 1, 1, 1]]


def test_weights_that_change_later_count(plan: Any) -> None:
    inputs = data(plan, 2)
    plan.tune(engines=("torchscript",), pin=True)
    before = next(iter(plan.run(inputs).values()))
    weight = plan.steps[-1].call.layer.weights[0]
    weight.assign(weight.numpy() * -2)
    np.testing.assert_array_equal(next(iter(plan.run(inputs).values())), plan.run_eagerly(list(inputs.values()))[0])
    assert not np.allclose(before, plan.run_eagerly(list(inputs.values()))[0])


def computing(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[ExportedGraph], Engine]:
    """An engine that computes as torch does, with changed outputs."""

    def made(source: ExportedGraph) -> Engine:
        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            tensors = [torch.from_numpy(array) for array in arrays]
            return [change(output.numpy()) for output in source.program(tensors)]

        return run

    return made


def off_by(error: float, value: float = 1.0) -> Callable[[np.ndarray], np.ndarray]:
    """Adds to the last number if it is `value` in the graph below."""
    return lambda array: array + np.where(array == value, np.float32(error), np.float32(0))


def ones_and_large() -> Any:
    """A graph whose outputs are 1 and 1000 for any data."""
    entry = layergraph.Input((4,))
    sides = [
        layergraph.layers.Dense(1, kernel_initializer="zeros", bias_initializer=kind)(entry) for kind in ("ones", BIG)
    ]
    return layergraph.Model(entry, layergraph.layers.Concatenate()(sides)).plan()


BIG = {"class_name": "Constant", "config": {"value": 1000.0}}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (off_by(0.0), True),
        (off_by(0.8e-5), True),
        (off_by(1.3e-5), False),
        (off_by(-1.3e-5), False),
        (off_by(0.8e-2, 1000.0), True),
        (off_by(1.3e-2, 1000.0), False),
        (lambda array: array.astype("float64"), False),
        (lambda array: array[:, :1], False),
        (lambda array: array * np.float32(np.nan), False),
    ],
)
def test_an_engine_is_held_to_a_hundred_thousandth(
    change: Callable[[np.ndarray], np.ndarray], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to max(1, |expected|)."""
    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": computing(change)})
    found = ones_and_large().tune(engines=("some",), rows=(1,), pin=True)
    assert [choice.engine for choice in found.choices] == ["some" if fits else "eager"]
    assert ("its outputs differ from eager torch's by" in found.dropped.get("some", "")) != fits


def test_an_engine_that_is_right_for_some_row_counts_alone_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "layergraph.execution.tuning.tuner.ENGINES",
        {
            f"wrong at {rows}": computing(lambda array, rows=rows: array + (len(array) == rows))
            for rows in (1, 3, 5, 8, 32)
        },
    )
    names = tuple(f"wrong at {rows}" for rows in (1, 3, 5, 8, 32))
    assert set(ones_and_large().tune(engines=names, seconds=60).dropped) == set(names)


def test_an_engine_that_crashes_is_dropped(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashing(source: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"crashing": crashing})
    found = plan.tune(engines=("crashing",), seconds=60)
    assert found.dropped == {"crashing": "no such instruction"}
    assert {choice.engine for choice in found.choices} == {"eager"}


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.astype("float64"),
        lambda x: x.astype(">f4"),
    ],
    ids=["as it is", "columns first", "with gaps", "wide", "other bytes"],
)
def test_an_engine_gets_arrays_as_it_wants_them(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In C order, of the input's dtype, in native byte order."""
    seen: list[np.ndarray] = []

    def engine(source: ExportedGraph) -> Engine:
        run = computing(lambda array: array)(source)
        return lambda arrays: (seen.extend(arrays), run(arrays))[1]

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": engine})
    entry = layergraph.Input((4,))
    plan = layergraph.Model(entry, layergraph.layers.ReLU()(entry)).plan()
    assert not plan.tune(engines=("some",), rows=(1,), pin=True).dropped
    seen.clear()
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    (got,) = plan.run({plan.input_specs[0].name: given(x)}).values()
    np.testing.assert_array_equal(got, np.maximum(x, 0))
    assert [(array.dtype, array.flags.c_contiguous) for array in seen] == [(np.dtype("float32"), True)]


def test_what_layers_demand_of_their_data_comes_behind_the_outputs() -> None:
    entry, other = (layergraph.Input((2,), dtype="int32") for _ in range(2))
    outputs = [layergraph.layers.Embedding(rows, 3)(x) for rows, x in ((5, entry), (7, other))]
    plan = layergraph.Model([entry, other], outputs).plan()
    samples = [[np.ones((rows, 2), "int32") for _ in range(2)] for rows in (2, 3)]
    source = ExportedGraph(plan.inference_program(packed=False, joined=True), *samples, 1, batched=True)
    assert source.assertion_count == 2
    for ids, met in (((4, 6), [True, True]), ((5, 6), [False, True]), ((4, -1), [True, False])):
        found = source.graph(*(torch.full((3, 2), number, dtype=torch.int32) for number in ids))
        assert [bool(assertion) for assertion in found[2:]] == met
    plain = layergraph.Model(entry, layergraph.layers.Rescaling(2.0)(entry)).plan()
    program = plain.inference_program(packed=False, joined=True)
    assert ExportedGraph(program, samples[0][:1], samples[1][:1], 1, batched=True).assertion_count == 0


@pytest.mark.parametrize(("error", "fits"), [(0.8e-4, True), (1.3e-4, False)])
def test_a_new_length_is_held_to_a_ten_thousandth(error: float, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of clients may be of any magnitude, with larger rounding errors."""
    entry = layergraph.Input((None, 4))
    plan = layergraph.Model(entry, layergraph.layers.ReLU()(entry)).plan()
    right, wrong = computing(lambda array: array), computing(lambda array: array + np.float32(error))
    lengths: list[int] = []

    def engine(source: ExportedGraph) -> Engine:
        engines = {False: right(source), True: wrong(source)}

        def run(arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            lengths.append(arrays[0].shape[1])
            return engines[arrays[0].shape[1] == 5](arrays)

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": engine})
    assert not plan.tune(engines=("some",), pin=True).dropped
    x = np.random.default_rng(0).standard_normal((2, 5, 4)).astype("float32")
    lengths.clear()
    answers = [next(iter(plan.run({plan.input_specs[0].name: x}).values())) for _ in range(3)]
    # The first answer is torch's, whatever the engine computes.
    np.testing.assert_array_equal(answers[0], np.maximum(x, 0))
    assert len(lengths) == (3 if fits else 1)
    np.testing.assert_allclose(answers[2], np.maximum(x, 0) + (error if fits else 0), atol=1e-6)


def test_an_engine_that_fails_later_leaves_the_call_to_eager_torch(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(source: Any) -> Any:
        def run(arrays: Any) -> Any:
            calls.append(len(arrays))
            if len(calls) > 40:
                raise RuntimeError("out of memory")
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"failing": failing})
    plan.tune(engines=("failing",), pin=True)
    calls.extend([0] * 50)
    inputs = data(plan, 2)
    expected = plan.run_eagerly(list(inputs.values()))
    np.testing.assert_array_equal(next(iter(plan.run(inputs).values())), expected[0])


def late_among_equals(array: np.ndarray) -> np.ndarray:
    return array + np.arange(array.shape[-1], dtype=array.dtype) * 1e-6 if array.dtype.kind == "f" else array


def through_floats(array: np.ndarray) -> np.ndarray:
    return array.astype("float32").astype(array.dtype)


@pytest.mark.parametrize(
    ("dtype", "operation", "changed"),
    [
        ("float32", ops.argmax, late_among_equals),
        ("int32", ops.abs, through_floats),
        ("int64", ops.abs, through_floats),
    ],
)
def test_an_engine_that_differs_on_unusual_data_only_is_dropped(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, operation: Any, changed: Any
) -> None:
    entry = keras.Input((9,), dtype=dtype)
    keras.Model(entry, operation(entry)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()

    def engine(source: Any) -> Any:
        return lambda arrays: [t.numpy() for t in source.program([torch.from_numpy(changed(a)) for a in arrays])]

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"some": engine})
    assert "its outputs differ" in plan.tune(engines=("some",), pin=True).dropped["some"]


def test_a_choice_goes_for_the_row_counts_that_are_nearest() -> None:
    few, many = (Tuned(name, lambda arrays: []) for name in ("few", "many"))
    found = Tuning((Choice(1, "few", {}, few), Choice(8, "eager", {}), Choice(32, "many", {}, many)), {})
    assert [found.for_rows(rows) for rows in (0, 1, 2, 3, 12, 20, 500)] == [few, few, few, None, None, many, many]
    assert Tuning((), {}).for_rows(3) is None


@pytest.mark.parametrize("engine", QUICK)
def test_lengths_that_are_padded_otherwise_stay_right(engine: str, tmp_path: Any) -> None:
    """An odd length gets one more zero, which a graph traced with even lengths doesn't add."""
    entry = keras.Input((None, None, 2))
    x = layers.SeparableConv2D(3, 2, strides=2, padding="same")(entry)
    keras.Model(entry, layers.Conv2D(2, 3, strides=2, padding="same")(x)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    plan.tune(engines=(engine,), pin=True)
    for shape in ((1, 8, 8, 2), (1, 7, 9, 2), (2, 6, 11, 2)):
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        for _ in range(3):
            (got,) = plan.run({plan.input_specs[0].name: x}).values()
            np.testing.assert_allclose(got, plan.run_eagerly([x])[0], rtol=1e-5, atol=1e-5)


def test_inputs_with_other_rows_than_one_another_are_eager_torchs(tmp_path: Any) -> None:
    """Merged calls need the same number of rows for each."""
    twins().save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    inputs = data(plan, 3)
    first = plan.input_specs[0].name
    inputs[first] = inputs[first][:1]
    with pytest.raises(DataError, match="don't fit the model"):
        plan.run(inputs)
    plan.tune(engines=("torchscript",), pin=True)
    with pytest.raises(DataError, match="don't fit the model"):
        plan.run(inputs)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="not there")
def test_an_engine_that_misses_nan_inside_is_dropped() -> None:
    """OpenVINO optimises away the NaN that appears, and is replaced later, for an image of one colour."""
    entry = layergraph.Input((7, 6, 3))
    plan = layergraph.Model(entry, layergraph.layers.AutoContrast()(entry)).plan()
    plan.tune(engines=("openvino",), pin=True)
    image = np.ones((1, 7, 6, 3), "float32")
    np.testing.assert_array_equal(next(iter(plan.run({plan.input_specs[0].name: image}).values())), image)


def test_a_graph_that_lengths_change_runs_on_eager_torch_only() -> None:
    entry = layergraph.Input((None, None, 3))
    layer = layergraph.layers.DepthwiseConv2D((2, 3), strides=(1, 3), padding="same")
    plan = layergraph.Model(entry, layer(entry)).plan()
    assert "depends on lengths" in plan.tune(engines=("torchscript",), pin=True).dropped["torchscript"]


@pytest.mark.parametrize("engine", [name for name in QUICK if "openvino" not in name.values])
@pytest.mark.parametrize("window", [2, 3])
def test_pooling_without_strides_takes_any_length(engine: str, window: int) -> None:
    entry = layergraph.Input((None, 3))
    x = layergraph.layers.MaxPooling1D(window, strides=1, padding="same")(entry)
    x = layergraph.layers.AveragePooling1D(window, strides=1, padding="same")(x)
    plan = layergraph.Model(entry, x).plan()
    tuned = plan.tune(engines=(engine,), pin=True).choices[0].tuned
    for length in (1, 4, 7):
        x = np.random.default_rng(0).standard_normal((2, length, 3)).astype("float32")
        np.testing.assert_allclose(tuned.run([x])[0], plan.run_eagerly([x])[0], rtol=1e-5, atol=1e-5)


def test_height_and_width_are_not_mistaken_for_each_other(tmp_path: Any) -> None:
    """Random inputs have the same length on both axes."""
    entry = keras.Input((None, None, 3))
    keras.Model(entry, layers.UpSampling2D(2, interpolation="bilinear")(entry)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    tuned = plan.tune(engines=("torchscript",), pin=True).choices[0].tuned
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype("float32")
    np.testing.assert_allclose(tuned.run([x])[0], plan.run_eagerly([x])[0], rtol=1e-5, atol=1e-5)


def test_random_inputs_never_take_a_servers_memory() -> None:
    """If no small ones fit, larger ones are tried, but not images of 12,000 x 12,000."""
    sizes = []

    def refuse(arrays: Any) -> None:
        sizes.extend(array.size for array in arrays)
        raise DataError("it fits nothing")

    with pytest.raises(NoSamplesError):
        Sampler((TensorSpec("x", (None, None, None, 3), "float32"),), refuse)
    assert max(sizes) < 10_000_000


@pytest.mark.parametrize(
    ("shape", "dtype", "longest"),
    [
        ((None, None), "float32", 12_000),
        ((None, None, 4), "float32", 12_000),
        ((None, None), "int32", 1024),
        ((None, None, None, 1), "float32", 1024),
    ],
)
def test_only_sequences_of_numbers_are_tried_with_thousands_of_steps(shape: Any, dtype: str, longest: int) -> None:
    """Attention to 12,000 ids would take gigabytes of a server's memory before it is refused."""
    tried: list[int] = []

    def refuse(arrays: list[np.ndarray]) -> None:
        tried.append(arrays[0].shape[1])
        raise DataError("not these")

    with pytest.raises(NoSamplesError):
        Sampler((TensorSpec("x", shape, dtype),), refuse)
    assert max(tried) == longest


def test_random_ids_stay_below_what_every_table_takes() -> None:
    """Not only the ids that were drawn first, which may be few."""
    entry, byte = layergraph.Input((1,), dtype="int32"), layergraph.Input((2,), dtype="uint8")
    x = layergraph.layers.Concatenate()(
        [layergraph.layers.Flatten()(layergraph.layers.Embedding(rows, 2)(i)) for rows, i in ((9, entry), (300, byte))]
    )
    plan = layergraph.Model([entry, byte], x).plan()
    sampler = Sampler(plan.input_specs, plan.run_eagerly)
    assert max(array.max() for seed in range(20) for array in sampler.rows(5, seed=seed)) == 2


@pytest.mark.parametrize("engine", QUICK)
def test_an_input_that_no_output_needs_keeps_no_engine_away(engine: str) -> None:
    first, second, third = (layergraph.Input((3,)) for _ in range(3))
    double = layergraph.layers.Dense(3)
    plan = layergraph.Model([first, second, third], layergraph.layers.subtract([double(third), first])).plan()
    assert not plan.tune(engines=(engine,), pin=True).dropped
    inputs = data(plan, 4)
    np.testing.assert_allclose(
        next(iter(plan.run(inputs).values())), plan.run_eagerly(list(inputs.values()))[0], rtol=1e-5, atol=1e-5
    )


def test_a_model_whose_layers_fail_for_random_rows_is_served_without_engines(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_two_rows(arrays: Any, run: Any = plan.run_eagerly) -> Any:
        return [array for pair in zip(run(arrays), [0] * (len(arrays[0]) - 1), strict=True) for array in pair[:1]]

    monkeypatch.setattr(plan, "run_eagerly", only_two_rows)
    found = plan.tune(engines=("torchscript",), pin=True)
    assert not found.choices
    assert "zip() argument 2 is shorter" in found.dropped["torchscript"]


def test_engines_that_are_unknown_are_refused(plan: Any) -> None:
    with pytest.raises(ValueError, match="unknown engine 'tensorrt', expected one of eager, "):
        tune(plan, engines=("tensorrt",))


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="not there")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_onnx_runtime_gets_nothing_in_16_bits(dtype: str) -> None:
    """An LSTM in float16 crashes the process when a session is created."""
    entry = layergraph.Input((5, 4))
    plan = layergraph.Model(entry, layergraph.layers.LSTM(3, dtype=dtype)(entry)).plan()
    assert "16 bits" in plan.tune(engines=("onnxruntime",), seconds=60).dropped["onnxruntime"]


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="not there")
def test_sizes_of_padding_are_constants_in_onnx() -> None:
    """Only then does ONNX Runtime fuse them into the convolution."""
    import onnx

    entry = layergraph.Input((8, 8, 3))
    conv = layergraph.layers.Conv2D(4, 3, strides=2, padding="same")
    plan = layergraph.Model(entry, conv(entry)).plan()
    samples = [np.zeros((rows, 8, 8, 3), "float32") for rows in (2, 3)]
    source = ExportedGraph(plan.inference_program(packed=False, joined=True), [samples[0]], [samples[1]], 1)
    graph = onnx.load_from_string(exported(source)).graph
    kinds = [node.op_type for node in graph.node if node.op_type != "Constant"]
    assert kinds == ["Transpose", "Pad", "Conv", "Transpose"]


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="not there")
def test_merged_calls_are_split_by_one_node_in_onnx() -> None:
    """torch's exporter computes the bounds of each part with several."""
    import onnx

    entries = [layergraph.Input((4,)) for _ in range(2)]
    shared = layergraph.layers.Dense(3)
    plan = layergraph.Model(entries, layergraph.layers.Subtract()([shared(entry) for entry in entries])).plan()
    samples = [[np.zeros((rows, 4), "float32")] * 2 for rows in (2, 3)]
    source = ExportedGraph(plan.inference_program(packed=False, joined=True), *samples, 1, batched=True)
    model = onnx.load_from_string(exported(source))
    kinds = [node.op_type for node in model.graph.node if node.op_type != "Constant"]
    assert kinds == ["Concat", "Gemm", "Split", "Sub"]
    onnx.checker.check_model(model)


@pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="not there")
@pytest.mark.parametrize(
    ("axis", "keepdims", "kind"),
    [
        ((1, 2), False, "GlobalAveragePool"),
        ((2, 1), True, "GlobalAveragePool"),
        (-1, False, "ReduceMean"),
        ((1, 3), True, "ReduceMean"),
    ],
)
def test_means_over_images_are_pooling_in_onnx(tmp_path: Any, axis: Any, keepdims: bool, kind: str) -> None:
    """ONNX Runtime computes pooling in the memory layout of its convolutions."""
    import onnx

    entry = keras.Input((8, 9, 3))
    keras.Model(entry, ops.mean(layers.Conv2D(4, 3)(entry), axis=axis, keepdims=keepdims)).save(tmp_path / "m.keras")
    plan = load_model(tmp_path / "m.keras").plan()
    samples = [np.zeros((rows, 8, 9, 3), "float32") for rows in (2, 3)]
    source = ExportedGraph(plan.inference_program(packed=False, joined=True), [samples[0]], [samples[1]], 1)
    kinds = [node.op_type for node in onnx.load_from_string(exported(source)).graph.node]
    assert kind in kinds
    assert not plan.tune(engines=("onnxruntime",), pin=True).dropped


@pytest.mark.parametrize("engine", QUICK)
def test_nan_that_comes_up_on_the_way_counts(engine: str, tmp_path: Any) -> None:
    """NaN of 0 / 0 among other numbers, which ONNX Runtime's ArgMin ignores."""
    entry = keras.Input((6,), dtype="int32")
    keras.Model(entry, ops.argmin(ops.divide(entry, entry), axis=-1)).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    plan.tune(engines=(engine,), pin=True)
    for place in range(6):
        x = np.arange(1, 7, dtype="int32")[None]
        x[0, place] = 0
        (got,) = plan.run({plan.input_specs[0].name: x}).values()
        assert got.tolist() == [place]


def test_different_rows_are_eager_torchs_where_rows_mix_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph may use the number of rows of one input for all of them."""
    seen = []

    def watching(source: Any) -> Any:
        def run(arrays: Any) -> Any:
            seen.append([len(array) for array in arrays])
            return [output.numpy() for output in source.program([torch.from_numpy(array) for array in arrays])]

        return run

    monkeypatch.setattr("layergraph.execution.tuning.tuner.ENGINES", {"watching": watching})
    one, two = keras.Input((3,)), keras.Input((3,))
    keras.Model([one, two], ops.sum(one, axis=0, keepdims=True) * two).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    assert not plan.batched
    assert not plan.tune(engines=("watching",), pin=True).dropped
    seen.clear()
    names = [spec.name for spec in plan.input_specs]
    for rows in ((1, 2), (2, 2)):
        plan.run(dict(zip(names, [np.ones((count, 3), "float32") for count in rows], strict=True)))
    assert seen == [[2, 2]]


@pytest.mark.parametrize("engine", QUICK)
def test_integers_keep_their_upper_half(engine: str) -> None:
    """OpenVINO's integers have 32 bits."""
    entry = layergraph.Input((3,), dtype="int64")
    layer = layergraph.layers.IntegerLookup(vocabulary=[5, 7])
    plan = layergraph.Model(entry, layer(entry)).plan()
    plan.tune(engines=(engine,), pin=True)
    (got,) = plan.run({plan.input_specs[0].name: np.array([[5, 5 + (1 << 32), 7 - (1 << 32)]])}).values()
    np.testing.assert_array_equal(got, [[1, 0, 0]])


@pytest.mark.parametrize("engine", QUICK)
def test_activations_are_right_far_from_zero(engine: str) -> None:
    """Unlike tuning's inputs: the logarithm of a value that is rounded to 0 is infinite."""
    entry = layergraph.Input((200,))
    kinds = ("log_sigmoid", "softplus", "mish", "silu", "gelu", "selu", "tanh", "sigmoid", "softmax", "log_softmax")
    plan = layergraph.Model(entry, [layergraph.layers.Activation(kind)(entry) for kind in kinds]).plan()
    assert not plan.tune(engines=(engine,), pin=True).dropped
    x = np.linspace(-150, 150, 200, dtype="float32")[None]
    for got, expected in zip(plan.run({plan.input_specs[0].name: x}).values(), plan.run_eagerly([x]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", QUICK)
def test_remainders_are_exact(engine: str, tmp_path: Any) -> None:
    x, y = keras.Input((100,)), keras.Input((100,))
    keras.Model([x, y], [ops.mod(x, y), ops.floor_divide(x, y)]).save(tmp_path / "model.keras")
    plan = load_model(tmp_path / "model.keras").plan()
    plan.tune(engines=(engine,), pin=True)
    tenths = np.arange(-50, 50, dtype="float32")[None] * np.float32(0.1)
    arrays = [tenths, np.where(np.arange(100) % 3, 0.1, -0.3).astype("float32")[None]]
    found = plan.run(dict(zip([spec.name for spec in plan.input_specs], arrays, strict=True))).values()
    for got, expected in zip(found, plan.run_eagerly(arrays), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_call_that_asks_for_training_stays_on_torch_and_moves_no_statistics() -> None:
    entry, layer = layergraph.Input((4,)), layergraph.layers.BatchNormalization()
    plan = layergraph.Model(entry, layer(entry, training=True)).plan()
    before = layer.get_weights()
    assert "has training=True" in plan.tune(engines=("torchscript",)).dropped["torchscript"]
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


#: Engines that have weights of their own in the process's memory.
WITH_COPIES = ("torchscript", "onnxruntime", "openvino")
#: Prints each fork, for each engine how many copies of the weights are left in memory after three loads, and what was
#: written into the home folder.
RELOADS = """
import ctypes, gc, os, sys
os.register_at_fork(before=lambda: print("forks", flush=True))
from pathlib import Path
from layergraph import Input, Model
from layergraph.layers import Dense

def resident():
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's, which keeps blocks between others otherwise.
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def load_and_forget(engine):
    x = Input((2048,))
    assert Model(x, Dense(1024)(x)).plan().tune(engines=(engine,), pin=True, rows=(1,)).choices

for engine in sys.argv[1:]:
    for _ in range(2):  # At first libraries are loaded, too.
        load_and_forget(engine)
    before = resident()
    for _ in range(3):
        load_and_forget(engine)
    print(engine, (resident() - before) / (2048 * 1024 * 4))
print("written", *(path for path in Path.home().rglob("*") if path.is_file()))
"""


@pytest.fixture(scope="module", name="printed")
def _printed(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What `RELOADS` prints."""
    engines = [engine for engine in WITH_COPIES if THERE.get(engine, True)]
    # In a separate process, whose memory is used by this alone.
    environment = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):  # Reports are off with them.
        environment.pop(name, None)
    command = [sys.executable, "-c", RELOADS, *engines]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the process's memory")
@pytest.mark.parametrize("engine", WITH_COPIES)
def test_weights_go_with_their_model(engine: str, printed: list[list[str]]) -> None:
    if not THERE.get(engine, True):
        pytest.skip("not there")
    # One block may stay between others.
    assert [float(copies[0]) < 2 for name, *copies in printed if name == engine] == [True]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the process's memory")
def test_openvino_reports_to_nobody(printed: list[list[str]]) -> None:
    """Its telemetry forks the process, and such a fork keeps the locks of a killed server.

    Two forks at once have deadlocked: h5py and concurrent.futures take their locks before a fork.
    """
    assert ["forks"] not in printed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the process's memory")
def test_no_engine_keeps_reports_for_its_makers(printed: list[list[str]]) -> None:
    """ONNX Runtime keeps what it will send in the home folder."""
    assert printed[-1] == ["written"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the thread's signal stack")
def test_signals_can_be_handled_after_openvino_has_freed_a_model() -> None:
    if not THERE["openvino"]:
        pytest.skip("not there")
    libc, size = ctypes.CDLL(None), 24  # stack_t: address, flags, size

    def signal_stack() -> bytes:
        held = ctypes.create_string_buffer(size)
        assert libc.sigaltstack(None, held) == 0
        return held.raw

    before = signal_stack()
    x = layergraph.Input((4,))
    model = layergraph.Model(x, layergraph.layers.Dense(2)(x))
    assert model.plan().tune(engines=("openvino",), pin=True).choices
    # OpenVINO sets a stack of its own for the thread in which it compiles, and frees it with the model.
    assert signal_stack() == before
