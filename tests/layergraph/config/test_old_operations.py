"""Operation nodes of Keras 3.0 to 3.14: differences from 3.15 in call and config."""

from typing import Any

import numpy as np
import pytest
from layergraph.config.old_operations import in_current_form
from layergraph.config.spec import CallSpec, LayerSpec, TensorRef

X, Y = TensorRef("x", 0, 0), TensorRef("y", 0, 0)


@pytest.mark.parametrize(
    ("kind", "config", "call", "expected"),
    [
        # Keras 3.0 to 3.10.
        ("Slice", {}, ((X, [0, 1], [2, 2]), {}), ({"shape": [2, 2]}, (X, [0, 1]), {})),
        ("Slice", {}, ((X, [0, Y], [Y, 2]), {}), ({}, (X, [0, Y]), {"shape": [Y, 2]})),
        ("OnesLike", {}, ((X,), {"dtype": "int32"}), ({"dtype": "int32"}, (X,), {})),
        ("Array", {}, ((X,), {"dtype": None}), ({}, (X,), {})),
        ("FullLike", {}, ((X, 3), {"dtype": "int32"}), ({"dtype": "int32"}, (X, 3), {})),
        ("Full", {}, (([2, 3], X), {"dtype": "int32"}), ({"shape": [2, 3], "dtype": "int32"}, (X,), {})),
        ("SearchSorted", {}, ((X, Y), {"side": "right"}), ({"side": "right"}, (X, Y), {})),
        ("Isclose", {}, ((X, Y, 0.1, 0.2, True), {}), ({"equal_nan": True}, (X, Y, 0.1, 0.2), {})),
        ("RMSNorm", {"scale": 2, "axis": -1}, ((X,), {}), ({"axis": -1}, (X,), {"scale": 2})),
        (
            "DotProductAttention",
            {"is_causal": True},
            ((X, X, Y), {"bias": None, "mask": Y, "scale": 2, "flash_attention": False}),
            ({"is_causal": True, "flash_attention": False}, (X, X, Y), {"mask": Y, "scale": 2}),
        ),
        # Keras 3.15.
        ("Slice", {"shape": [2]}, ((X, [0]), {}), ({"shape": [2]}, (X, [0]), {})),
        ("Full", {"shape": [2], "dtype": None}, ((X,), {}), ({"shape": [2], "dtype": None}, (X,), {})),
        ("Arange", {"dtype": None}, ((X, None), {"step": 1}), ({"dtype": None}, (X, None), {"step": 1})),
        ("Add", {}, ((X, Y), {}), ({}, (X, Y), {})),
    ],
)
def test_a_call_is_as_keras_315_makes_it(kind: str, config: Any, call: Any, expected: Any) -> None:
    layer = in_current_form(LayerSpec("op", kind, config, operation=True, calls=(CallSpec(*call),)))
    assert (layer.config, layer.calls[0].args, layer.calls[0].kwargs) == expected


def test_calls_with_several_options_are_left_alone() -> None:
    calls = tuple(CallSpec((X, [0], [n])) for n in (1, 2))
    layer = LayerSpec("op", "Slice", {}, operation=True, calls=calls)
    assert in_current_form(layer) is layer


def test_arrays_as_values_are_kept() -> None:
    layer = LayerSpec("op", "SearchSorted", {}, operation=True, calls=(CallSpec((np.arange(3), X, "left")),))
    assert in_current_form(layer).config == {"side": "left"}
