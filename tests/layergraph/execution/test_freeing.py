"""Values are freed after their last use, so that a deep model takes the memory of a few layers."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model
from layergraph.layers import Layer

X = np.ones((2, 3), "float32")


@pytest.mark.parametrize(
    "run",
    [lambda model: model.plan().run({"x": X}), lambda model: model.predict(X, verbose=0), lambda model: model(X)],
    ids=["served", "predict", "call"],
)
def test_a_layer_runs_with_its_input_alone(run: Callable[[Model], Any]) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Watches(Layer):
        def call(self, x: torch.Tensor) -> torch.Tensor:
            alive.append(sum(one() is not None for one in made))
            result = x + 1
            made.append(weakref.ref(result))
            return result

    x = y = Input((3,), name="x")
    for _ in range(4):
        y = Watches()(y)
    model = Model(x, y)
    run(model)  # which may check the plan first
    made.clear()
    alive.clear()
    run(model)
    assert alive == [0, 1, 1, 1]
