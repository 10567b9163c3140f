"""Core layers against stock Keras."""

import pytest
from oracles import LayerCase, check_layer

CASES = [
    LayerCase("Dense", {"units": 3}, [(2, 4)]),
    LayerCase("Dense", {"units": 3, "activation": "relu", "use_bias": False}, [(2, 5, 4)], unknown_axes=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)
