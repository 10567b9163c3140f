"""Operations on constants: arrays, lists and numbers in place of tensors, in stock Keras and here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_oracles import check_model

TABLE = np.random.default_rng(0).standard_normal((4, 4)).astype("float32")
BELOW = np.tril(np.ones((4, 4), bool))
#: (ops, x of shape (4, 4) per row, ids) -> a tensor.
CASES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "a condition": lambda ops, x, ids: ops.where(BELOW, x, -1e9),
    "a list as condition": lambda ops, x, ids: ops.where([True, False, True, True], x, 0.0),
    "a number as condition": lambda ops, x, ids: ops.where(True, x, 0.0),
    "both branches": lambda ops, x, ids: ops.where(x > 0, TABLE, 2 * TABLE),
    "a table": lambda ops, x, ids: ops.take(TABLE, ids, axis=0),
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
