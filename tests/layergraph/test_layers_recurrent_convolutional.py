"""Convolutional LSTMs against stock Keras."""

import itertools

import pytest
from oracles import LayerCase, check_layer

SHAPES = {"ConvLSTM1D": (2, 4, 7, 3), "ConvLSTM2D": (2, 4, 7, 6, 3), "ConvLSTM3D": (2, 3, 5, 4, 6, 2)}
FIRST = {"ConvLSTM1D": (2, 4, 3, 7), "ConvLSTM2D": (2, 4, 3, 7, 6), "ConvLSTM3D": (2, 3, 2, 5, 4, 6)}
OUTPUTS = [
    {"return_sequences": sequences, "return_state": state, "go_backwards": backwards}
    for sequences, state, backwards in itertools.product((False, True), repeat=3)
]
OPTIONS = [
    {"padding": "same"},
    {"padding": "same", "strides": 2},
    {"strides": 2},
    {"dilation_rate": 2, "kernel_size": 2},
    {"kernel_size": 1, "use_bias": False},
    {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    {"unit_forget_bias": False, "return_sequences": True, "padding": "same"},
    {"dropout": 0.3, "recurrent_dropout": 0.2},
]
CASES = [
    *(
        LayerCase(kind, {"filters": 2, "kernel_size": 3, **options}, [shape])
        for kind, shape in SHAPES.items()
        for options in [*OUTPUTS, *OPTIONS]
    ),
    *(
        LayerCase(
            kind, {"filters": 2, "kernel_size": 2, "data_format": "channels_first", "return_sequences": True}, [s]
        )
        for kind, s in FIRST.items()
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)
