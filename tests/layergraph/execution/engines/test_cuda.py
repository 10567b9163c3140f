"""The CUDA engine: its parts that need no GPU, and its results if there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution.engines.cuda import computed, cuda, in_halves, rung_of
from layergraph.execution.engines.devices import moved, weight_bytes
from layergraph.execution.engines.engine import UnfitError
from layergraph.execution.engines.exported_graph import ExportedGraph

with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def dense() -> Model:
    x = Input((6,))
    return Model(x, [layers.Dense(4, activation="gelu")(x), x * 2 + 1])


def images() -> Model:
    x = Input((12, 12, 3))
    y = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))))
    y = layers.add([y, layers.SeparableConv2D(8, 3, padding="same")(y)])
    return Model(x, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


def words() -> Model:
    ids = Input((7,), dtype="int32")
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(layers.Embedding(9, 4, mask_zero=True)(ids))
    return Model(ids, layers.GRU(3)(layers.MultiHeadAttention(2, 3)(y, y)))


def sequences() -> Model:
    x = Input((None, 4))
    return Model(x, layers.Conv1D(3, 2, padding="causal")(layers.LSTM(4, return_sequences=True)(x)))


MODELS: dict[str, Callable[[], Model]] = {"dense": dense, "images": images, "words": words, "sequences": sequences}


def random_rows(model: Model, count: int, length: int = 7) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    sizes = [(count, *(length if size is None else size for size in spec.shape[1:])) for spec in model.input_specs]
    specs = zip(sizes, model.input_specs, strict=True)
    return [
        rng.integers(0, 9, size).astype(spec.dtype)
        if spec.dtype == "int32"
        else rng.standard_normal(size, dtype="float32")
        for size, spec in specs
    ]


def source_of(model: Model) -> ExportedGraph:
    plan = model.plan()
    program = plan.inference_program(packed=False, joined=True)
    return ExportedGraph(program, random_rows(model, 2, 5), random_rows(model, 3, 6), 1, batched=plan.batched)


@pytest.mark.parametrize("name", MODELS)
def test_a_moved_graph_has_nothing_left_where_it_was(name: str) -> None:
    """On the meta device, which can't take part in operations on tensors with data."""
    model = MODELS[name]()
    source = source_of(model)
    graph = moved(source.graph, torch.device("meta"))
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        outputs = graph(*(sample.to("meta") for sample in source.samples))
    assert {output.device.type for output in outputs} == {"meta"}
    expected = model.plan().run_eagerly([sample.numpy() for sample in source.samples])
    assert [output.shape for output in outputs][: len(expected)] == [array.shape for array in expected]
    # A normalisation that is folded into a kernel has no weights left.
    assert weight_bytes(source.graph) > 3 * model.count_params()


def test_a_moved_graph_leaves_the_first_alone() -> None:
    source = source_of(words())
    before = source.graph(*source.samples)
    moved(source.graph, torch.device("meta"))
    for a, b in zip(source.graph(*source.samples), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_is_unfit_without_a_gpu() -> None:
    with pytest.raises(UnfitError, match="no CUDA device"):
        cuda(source_of(dense()))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_batch_too_large_for_the_memory_is_halved(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("freed"))

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(arrays[0]))
        if len(arrays[0]) > 3:
            raise error("CUDA out of memory")
        return [arrays[0] * 2, arrays[1] + 1, np.array((arrays[0] < 9).all())]

    arrays = [np.arange(11.0), np.arange(22).reshape(11, 2)]
    doubled, increased, assertion = in_halves(run, 1, arrays)
    assert np.array_equal(doubled, arrays[0] * 2)
    assert np.array_equal(increased, arrays[1] + 1)
    assert not assertion
    assert calls == [11, "freed", 5, "freed", 2, 3, 6, "freed", 3, 3]


def test_other_errors_and_single_rows_are_not_halved() -> None:
    for text, rows in (("out of memory", 1), ("sizes don't match", 4)):

        def run(arrays: Sequence[np.ndarray], text: str = text) -> list[np.ndarray]:
            raise RuntimeError(text)

        with pytest.raises(RuntimeError, match=text):
            in_halves(run, 0, [np.zeros((rows, 2))])


def test_rungs_are_powers_of_two() -> None:
    assert [rung_of(rows) for rows in (1, 2, 3, 4, 5, 32, 33, 256)] == [1, 2, 4, 4, 8, 32, 64, 256]


@pytest.mark.parametrize("name", ["dense", "words"])
def test_graphs_compute_in_16_bits(name: str) -> None:
    """By autocast, which CPUs have as well, except for convolutions in traced graphs."""
    source = source_of(MODELS[name]())
    with torch.inference_mode():
        exact = computed(source.graph, "float32", source.samples)
        rounded = computed(source.graph, "bfloat16", source.samples)
    for got, want in zip(rounded, exact, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.float(), want.float(), rtol=3e-2, atol=3e-2)
    assert not all(torch.equal(got, want) for got, want in zip(rounded, exact, strict=True))


@with_gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_on_a_gpu(precision: str) -> None:
    model = images()
    arrays = random_rows(model, 5)
    (got,) = cuda(source_of(model), precision)(arrays)
    np.testing.assert_allclose(got, model.plan().run_eagerly(arrays)[0], rtol=3e-2, atol=3e-2)


@with_gpu
@pytest.mark.parametrize("name", MODELS)
def test_numbers_on_a_gpu(name: str) -> None:
    model = MODELS[name]()
    engine = cuda(source_of(model))
    for rows in (1, 3, 4, 33, 300, 3):
        arrays = random_rows(model, rows)
        expected = model.plan().run_eagerly(arrays)
        for got, want in zip(engine(arrays), expected, strict=False):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@with_gpu
def test_tf32_on_a_gpu() -> None:
    model = images()
    arrays = random_rows(model, 5)
    (got,) = cuda(source_of(model), "tf32")(arrays)
    np.testing.assert_allclose(got, model.plan().run_eagerly(arrays)[0], rtol=1e-2, atol=1e-2)
