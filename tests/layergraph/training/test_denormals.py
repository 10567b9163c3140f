"""Denormal floats are flushed to zero while a model trains, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.training.callbacks.callback import Callback
from layergraph.training.denormals import are_flushed, flushed_denormals

pytestmark = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor can't")


class Look(Callback):
    """Records whether they are flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.seen.append(are_flushed())


def test_they_are_0_while_a_model_trains() -> None:
    x = Input((3,))
    model = Model(x, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    look = Look()
    model.fit(np.ones((4, 3)), np.ones((4, 1)), batch_size=2, callbacks=[look], verbose=0)
    assert look.seen == [True, True]
    assert not are_flushed()


def test_what_a_thread_had_before_comes_back() -> None:
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals():
            assert are_flushed()
        assert are_flushed()
    finally:
        torch.set_flush_denormal(False)
