"""Operations on constants: arrays, lists and numbers in place of tensors, in stock Keras and here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from imported_models import imported_model
from layergraph.errors import ModelFileError
from model_oracles import check_model, compare

TABLE = np.random.default_rng(0).standard_normal((4, 4)).astype("float32")
BELOW = np.tril(np.ones((4, 4), bool))
#: (ops, x of shape (4, 4) per row, ids) -> a tensor.
CASES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "a condition": lambda ops, x, ids: ops.where(BELOW, x, -1e9),
    "a list as condition": lambda ops, x, ids: ops.where([True, False, True, True], x, 0.0),
    "a number as condition": lambda ops, x, ids: ops.where(True, x, 0.0),
    "both branches": lambda ops, x, ids: ops.where(x > 0, TABLE, 2 * TABLE),
    "a table": lambda ops, x, ids: ops.take(TABLE, ids, axis=0),
    "an infinity": lambda ops, x, ids: ops.softmax(ops.where(x > -2, x, -np.inf)),
    "infinities in an array": lambda ops, x, ids: ops.softmax(x + np.where(BELOW, 0, -np.inf).astype("float32")),
    "a bias of attention": lambda ops, x, ids: ops.dot_product_attention(*[x[:, :, None]] * 3, bias=TABLE),
    "a mask of attention": lambda ops, x, ids: ops.dot_product_attention(*[x[:, :, None]] * 3, mask=BELOW[None, None]),
    "an update": lambda ops, x, ids: ops.slice_update(x, (0, 1, 1), np.ones((1, 2, 2), "float32")),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_constants_are_tensors(case: str, tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        x, ids = k.Input((4, 4), name="x"), k.Input((5,), dtype="int32", name="ids")
        return [x, ids], [CASES[case](k.ops, x, ids), k.layers.Dense(2)(x)]

    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((3, 4, 4)).astype("float32"), rng.integers(0, 4, (3, 5)).astype("int32")]
    check_model(build, arrays, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_an_input_of_a_model_may_be_a_constant(tmp_path: Path) -> None:
    def build(k: Any) -> tuple[list[Any], list[Any]]:
        a, b, x = (k.Input((4, 4), name=name) for name in "abx")
        inner = k.Model([a, b], k.layers.Add()([k.layers.Dense(4)(a), b]))
        table = TABLE[None] if k is layergraph else k.ops.convert_to_tensor(TABLE[None])
        return [x], [inner([x, table]), inner([table, x])]

    check_model(build, [np.random.default_rng(1).standard_normal((3, 4, 4)).astype("float32")], tmp_path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_infinities_are_written_again(suffix: str, tmp_path: Path) -> None:
    x = layergraph.Input((4,), name="x")
    model = layergraph.Model(x, layergraph.ops.where(x > 0, x, -np.inf))
    path = tmp_path / f"model{suffix}"
    model.save(path)
    array = np.array([[1, -1, 2, -2]], "float32")
    expected = [np.array([[1, -np.inf, 2, -np.inf]], "float32")]
    for again in (layergraph.load_model(path), imported_model(path, tmp_path / "read")):
        compare(again, [array], expected, 0)


def test_an_infinite_index_is_an_error_of_the_file(tmp_path: Path) -> None:
    x = layergraph.Input((32,), name="x")
    model = layergraph.Model(x, x[:, 30])
    model.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "model.json").write_text(model.to_json().replace("30", "Infinity"))
    with pytest.raises(ModelFileError, match="GetItem"):
        layergraph.load_model(tmp_path / "model.json")
