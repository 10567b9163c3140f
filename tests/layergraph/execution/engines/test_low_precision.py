"""Lower precision is used if outputs stay within the golden tolerances, and refused otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.execution.engines import low_precision as reduced
from layergraph.execution.engines.exported_graph import UnfitError
from layergraph.execution.tuning import agreement
from layergraph.golden import Golden, GoldenMismatchError, make_golden, reduce_precision, write_golden

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
    reduce_precision(made, golden(made, tmp_path / "golden.npz", 0.5), precision, threads=1)
    (choice,) = made.engines
    assert (choice.engine, choice.rows) == (precision, 1)
    assert choice.difference < 0.5
    for _ in range(2):  # the first time with the lengths of that data, then as known ones
        got = made.plan().run({"x": X})
        assert list(got) == ["a", "b"]
        for name, value in expected.items():
            assert got[name].dtype == value.dtype
            np.testing.assert_allclose(got[name], value, atol=0.5)
    if precision == "int8":
        assert choice.difference > 0
        assert max(np.abs(got[name] - expected[name]).max() for name in expected) > 1e-6, "it is computed in less"


def test_a_golden_file_that_is_too_strict_keeps_the_precision(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = model()
    with pytest.raises(GoldenMismatchError, match="output 'a' differs by"):
        reduce_precision(made, golden(made, tmp_path / "golden.npz", 1e-9), "int8")
    assert made.engines == ()


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
