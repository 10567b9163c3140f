"""The helper that compares a server's replies with a reference finds differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution.passes.fusion import FusedConvolution
from layergraph.execution.passes.merge_shared_calls import Together
from layergraph.execution.plan import Plan
from layergraph.execution.program import Program
from served import check_served, reference, served


def shared_encoder() -> tuple[Model, list[np.ndarray]]:
    """Two images through one nested model; the order of subtraction reveals a swap."""
    inner = Input((6, 5, 2))
    encoder = Model(inner, layers.GlobalAveragePooling2D()(layers.Conv2D(3, 2, activation="relu")(inner)))
    left, right = Input((6, 5, 2)), Input((6, 5, 2))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 6, 5, 2)).astype("float32") for _ in range(2)]
    return Model([left, right], layers.subtract([encoder(left), encoder(right)])), arrays


def masked() -> tuple[Model, list[np.ndarray]]:
    """A mask that passes through a nested model."""
    inner = Input((5, 4))
    recurrent = Model(inner, layers.LSTM(3)(layers.Dense(4)(inner)))
    entry = Input((5,), dtype="int32")
    ids = np.array([[1, 0, 3, 0, 0], [4, 5, 6, 7, 8]], "int32")
    return Model(entry, recurrent(layers.Embedding(9, 4, mask_zero=True)(entry))), [ids]


@pytest.mark.parametrize("make", [shared_encoder, masked])
def test_both_give_the_same_and_the_reference_needs_no_plan(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, arrays = make()
    check_served(model, arrays)
    expected = reference(model, arrays)

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    for name in ("__call__", "execute"):
        monkeypatch.setattr(Program, name, refuse)
    for name in ("run", "run_eagerly", "forward", "forward_nested"):
        monkeypatch.setattr(Plan, name, refuse)
    for got, want in zip(reference(model, arrays), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(NotImplementedError):
        served(model, arrays)


@pytest.mark.parametrize("wrong", [FusedConvolution, Together])
def test_what_only_serving_does_is_seen(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, arrays = shared_encoder()
    right = wrong.__call__

    def off(*args: Any, **options: Any) -> Any:
        outputs, masks = right(*args, **options)
        return [outputs[0] + torch.arange(len(outputs[0])).view(-1, *[1] * (outputs[0].ndim - 1))], masks

    monkeypatch.setattr(wrong, "__call__", off)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_served(model, arrays)
