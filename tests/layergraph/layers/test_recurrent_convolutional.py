"""Convolutional LSTMs against stock Keras."""

import itertools
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layergraph.errors import ConfigError, GraphError
from layergraph.layers.rnn import convolutional as recurrent_convolutional
from oracles import LayerCase, assert_close, check_layer, flat, keras, perturb, random_arrays

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
        for options in ([*OUTPUTS, *OPTIONS] if kind == "ConvLSTM1D" else [OUTPUTS[3], *OPTIONS[:4]])
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


def both(kind: str, **options: Any) -> tuple[Any, Any]:
    """The layer in Keras and here, with the same weights."""
    config = {"filters": 2, "kernel_size": 2, **options}
    theirs, ours = getattr(keras.layers, kind)(**config), getattr(layers, kind)(**config)
    (x,) = random_arrays([SHAPES[kind]])
    theirs(x)
    perturb(theirs)
    ours(x)
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def compare(ours: Any, theirs: Any) -> None:
    for got, want in zip(flat(ours), flat(theirs), strict=True):
        assert_close(got.detach().numpy(), want)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", SHAPES)
def test_masked_steps_are_passed_over(kind: str, backwards: bool) -> None:
    theirs, ours = both(kind, return_sequences=True, return_state=True, go_backwards=backwards)
    (x,) = random_arrays([SHAPES[kind]], seed=3)
    mask = np.ones(x.shape[:2], bool)
    mask[0, 0] = mask[1, -1] = mask[1, 1] = False
    compare(ours(x, mask=mask), theirs(x, mask=torch.from_numpy(mask)))
    compare(ours(x), theirs(x))


@pytest.mark.parametrize("backwards", [False, True])
def test_outputs_of_masked_steps_are_zeros_where_asked_for(backwards: bool) -> None:
    layer = layers.ConvLSTM1D(2, 2, return_sequences=True, go_backwards=backwards)
    layer.zero_output_for_mask = True
    (x,) = random_arrays([SHAPES["ConvLSTM1D"]])
    mask = np.array([[True, False, True, True], [True, True, True, False]])
    y = layer(x, mask=mask).detach().numpy()
    taken = mask[:, ::-1] if backwards else mask
    np.testing.assert_array_equal(np.abs(y).sum((2, 3)) > 0, taken)


@pytest.mark.parametrize("kind", SHAPES)
def test_states_are_taken_up_in_their_order(kind: str) -> None:
    theirs, ours = both(kind, return_state=True, padding="same")
    (x,) = random_arrays([SHAPES[kind]], seed=3)
    states = random_arrays([(x.shape[0], *x.shape[2:-1], 2)] * 2, seed=4)
    compare(ours(x, initial_state=states), theirs(x, initial_state=[torch.from_numpy(state) for state in states]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="option 'time_major' is true, expected false"):
        layers.ConvLSTM1D(2, 2, time_major=True)
    with pytest.raises(GraphError, match="got an input of rank 4, expected 3"):
        layers.ConvLSTM1D(2, 2)(layergraph.Input((4, 7, 6, 3)))
    layer = layers.ConvLSTM1D(2, 2)
    (x,) = random_arrays([SHAPES["ConvLSTM1D"]])
    for shape in ((2,), (2, 4, 6, 2)):
        with pytest.raises(GraphError, match=r"expected \(rows, timesteps\) or more axes"):
            layer(x, mask=np.ones(shape, bool))
    layer(x, mask=np.ones((2, 4, 6), bool))
    good, wide = np.zeros((2, 6, 2), "float32"), np.zeros((2, 7, 2), "float32")
    for states in ([good], [good, wide], [wide, good]):
        with pytest.raises(GraphError, match=r"got initial states of shapes .*, expected two of \(2, 6, 2\)"):
            layer(x, initial_state=states)


@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"data_format": "channels_first"}])
@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.3, 0.4)])
def test_masks_of_dropout_are_one_for_each_gate_and_for_all_steps(
    rates: tuple[float, float], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By definition, one gate and timestep at a time."""
    drawn: list[torch.Tensor] = []

    def mask(run: Any, like: torch.Tensor, rate: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(drawn))
        drawn.append(torch.empty(like.shape).bernoulli_(1 - rate, generator=generator) / (1 - rate))
        return drawn[-1]

    monkeypatch.setattr(recurrent_convolutional, "dropout_mask", mask)
    layer = layers.ConvLSTM1D(2, 3, padding="same", dropout=rates[0], recurrent_dropout=rates[1], **options)
    first = bool(options.get("data_format"))
    (x,) = random_arrays([(2, 4, 3, 7) if first else (2, 4, 7, 3)])
    layer(x)
    perturb(layer)
    got = layer(x, training=True).detach().numpy()
    assert len(drawn) == 4 * sum(rate > 0 for rate in rates)
    ones = [1.0] * 4
    on_inputs, on_states = (drawn[:4] if rates[0] else ones), (drawn[-4:] if rates[1] else ones)
    kernel, recurrent, *bias = (torch.from_numpy(w) for w in layer.get_weights())

    def convolved(value: torch.Tensor, gate: int, weights: torch.Tensor) -> torch.Tensor:
        part = weights.chunk(4, -1)[gate].permute(2, 1, 0)
        y = torch.nn.functional.conv1d(value if first else value.mT, part, padding=1)
        return y if first else y.mT

    steps = torch.from_numpy(x)
    h = c = torch.zeros(2, 2, 7) if first else torch.zeros(2, 7, 2)
    for t in range(4):
        gates = []
        for gate in range(4):
            value = convolved(steps[:, t] * on_inputs[gate], gate, kernel)
            if bias:
                value = value + (bias[0].chunk(4)[gate][:, None] if first else bias[0].chunk(4)[gate])
            gates.append(value + convolved(h * on_states[gate], gate, recurrent))
        i, f, o = (gates[k].sigmoid() for k in (0, 1, 3))
        c = f * c + i * gates[2].tanh()
        h = o * c.tanh()
    assert_close(got, h)
