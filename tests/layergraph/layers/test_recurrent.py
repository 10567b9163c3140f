"""Recurrent layers against stock Keras: options, states, dropout, and torch's loops against the plain one."""

import itertools
from collections.abc import Callable
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.binding import bind_values
from layergraph.functional.call_context import CallContext
from layergraph.layers.rnn import cells as recurrent_cells
from layergraph.layers.rnn import kernels as recurrent_kernels
from oracles import LayerCase, assert_close, check_layer, keras, perturb, random_arrays

KINDS = ["SimpleRNN", "LSTM", "GRU"]
OUTPUTS = [
    {"return_sequences": sequences, "return_state": state, "go_backwards": backwards}
    for sequences, state, backwards in itertools.product((False, True), repeat=3)
]
CASES = [
    *(LayerCase(kind, {"units": 3, **options}, [(2, 5, 4)]) for kind in KINDS for options in OUTPUTS),
    *(LayerCase(kind, {"units": 3, "return_sequences": True}, [(2, 5, 4)], unknown_axes=True) for kind in KINDS),
    *(LayerCase(kind, {"units": 3, "use_bias": False}, [(2, 5, 4)]) for kind in KINDS),
    *(LayerCase(kind, {"units": 3, "unroll": True, "seed": 1}, [(2, 5, 4)]) for kind in KINDS),
    *(LayerCase(kind, {"units": 1}, [(1, 1, 1)]) for kind in KINDS),
    *(LayerCase(kind, {"units": 2, "dtype": "float64", "return_state": True}, [(2, 5, 4)]) for kind in KINDS),
    *(
        LayerCase(kind, {"units": 3, "activation": name, "return_sequences": True}, [(2, 5, 4)])
        for kind in KINDS
        for name in ("relu", "elu", "linear", "sigmoid")
    ),
    *(
        LayerCase(kind, {"units": 3, "recurrent_activation": name, "return_state": True}, [(2, 5, 4)])
        for kind in ("LSTM", "GRU")
        for name in ("hard_sigmoid", "tanh", "softmax")
    ),
    *(
        LayerCase("GRU", {"units": 3, "reset_after": False, "use_bias": bias, **options}, [(2, 5, 4)])
        for bias in (False, True)
        for options in OUTPUTS[:4]
    ),
    LayerCase("LSTM", {"units": 3, "unit_forget_bias": False, "bias_initializer": "ones"}, [(2, 5, 4)]),
    LayerCase("LSTM", {"units": 3, "activation": keras.layers.LeakyReLU(0.2)}, [(2, 5, 4)]),
    LayerCase("LSTM", {"units": 3, "dropout": 0.3, "recurrent_dropout": 0.2}, [(2, 5, 4)]),
    LayerCase(
        "GRU",
        {
            "units": 2,
            "kernel_regularizer": "l2",
            "recurrent_regularizer": "l1",
            "bias_regularizer": "l2",
            "activity_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "recurrent_constraint": "unit_norm",
            "bias_constraint": "non_neg",
            "recurrent_initializer": "glorot_normal",
        },
        [(2, 3, 4)],
    ),
    LayerCase("RNN", {"cell": keras.layers.LSTMCell(3), "return_sequences": True}, [(2, 5, 4)]),
    LayerCase("RNN", {"cell": keras.layers.GRUCell(3, reset_after=False), "go_backwards": True}, [(2, 5, 4)]),
    LayerCase("RNN", {"cell": keras.layers.SimpleRNNCell(3), "return_state": True}, [(2, 5, 4)]),
    LayerCase("RNN", {"cell": [keras.layers.LSTMCell(3), keras.layers.GRUCell(2)], "return_state": True}, [(2, 5, 4)]),
    LayerCase("RNN", {"cell": keras.layers.StackedRNNCells([keras.layers.LSTMCell(3)] * 1)}, [(2, 5, 4)]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


def random_config(rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
    kind = str(rng.choice(KINDS))
    flags = ["return_sequences", "return_state", "go_backwards", "use_bias", "zero_output_for_mask"]
    config: dict[str, Any] = {flag: bool(rng.integers(2)) for flag in flags}
    config |= {"units": int(rng.integers(1, 6)), "activation": str(rng.choice(["tanh", "tanh", "relu", "selu"]))}
    if kind != "SimpleRNN":
        config["recurrent_activation"] = str(rng.choice(["sigmoid", "sigmoid", "hard_sigmoid"]))
    if kind == "GRU":
        config["reset_after"] = bool(rng.integers(2))
    return kind, config


@pytest.mark.parametrize("seed", range(12))
def test_random_config_with_a_random_mask_gives_keras_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind, config = random_config(rng)
    rows, steps, features = (int(n) for n in rng.integers(1, 7, 3))
    x = rng.standard_normal((rows, steps, features)).astype("float32")
    mask = rng.integers(0, 2, (rows, steps)).astype(bool)
    if seed % 3 == 0:
        mask = np.sort(mask, 1)[:, ::-1].copy()
    theirs = getattr(keras.layers, kind)(**config)
    theirs.build(x.shape)
    perturb(theirs)
    want = theirs(x, mask=mask)
    ours = getattr(layers, kind)(**config)
    ours(x)
    ours.set_weights(theirs.get_weights())
    got = ours(x, mask=mask)
    for mine, other in zip(*(y if config["return_state"] else [y] for y in (got, want)), strict=True):
        assert_close(mine.detach().numpy(), other)


# States.


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize(("kind", "count"), [("SimpleRNN", 1), ("GRU", 1), ("LSTM", 2)])
def test_states_are_taken_up(kind: str, count: int, as_list: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in [(2, 5, 4), *[(2, 3)] * count]]

    def model(k: Any) -> Any:
        inputs = [k.Input(shape) for shape in [(5, 4), *[(3,)] * count]]
        states = inputs[1:] if count > 1 or as_list else inputs[1]
        return k.Model(inputs, getattr(k.layers, kind)(3, return_state=True, name="r")(inputs[0], initial_state=states))

    theirs, ours = model(keras), model(layergraph)
    perturb(theirs)
    ours.set_weights(theirs.get_weights())
    results = ours.plan().run(dict(zip(ours.input_names, arrays, strict=True)))
    for got, want in zip(results.values(), theirs.predict_on_batch(arrays), strict=True):
        assert_close(got, want)


def test_states_of_wrong_shapes_are_refused() -> None:
    x = layergraph.Input((5, 4))
    with pytest.raises(GraphError, match="got initial states of shapes"):
        layers.LSTM(3)(x, initial_state=[layergraph.Input((3,))])
    with pytest.raises(GraphError, match="got initial states of shapes"):
        layers.GRU(3)(x, initial_state=layergraph.Input((2,)))


@pytest.mark.parametrize(("kind", "count"), [("LSTM", 2), ("GRU", 1), ("SimpleRNN", 1)])
def test_states_of_one_row_are_those_of_all_and_of_other_rows_are_refused(kind: str, count: int) -> None:
    """Keras multiplies, which broadcasts a single row; torch's LSTM would read past its end."""

    def model(k: Any, rows: int | None) -> Any:
        x, *states = k.Input((5, 3)), *(k.Input(batch_shape=(rows, 4)) for _ in range(count))
        return k.Model([x, *states], getattr(k.layers, kind)(4)(x, initial_state=states))

    x, *states = random_arrays([(3, 5, 3), *[(1, 4)] * count])
    theirs, ours, plan = model(keras, 1), model(layergraph, 1), model(layergraph, None).plan()
    ours.set_weights(theirs.get_weights())
    (got,) = ours.plan().run(dict(zip(ours.input_names, [x, *states], strict=True))).values()
    assert_close(got, theirs([torch.from_numpy(array) for array in (x, *states)]))
    names = [spec.name for spec in plan.input_specs]
    for rows in (2, 4):
        several = [state.repeat(rows, 0) for state in states]
        with pytest.raises(DataError, match="don't fit the model"):
            plan.run(dict(zip(names, [x, *several], strict=True)))


def test_states_of_a_stack_come_cell_by_cell() -> None:
    x = layergraph.Input((5, 4))
    y, first, second = layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_state=True)(x)
    assert y.shape == (None, 2)
    assert [state.shape for state in first] == [(None, 3), (None, 3)]
    assert second.shape == (None, 2)


def test_a_stateful_layer_starts_each_call_from_zeros() -> None:
    layer = layers.GRU(3, stateful=True)
    x = np.ones((2, 5, 4), "float32")
    assert_close(layer(x).detach().numpy(), layer(x))


def test_a_cell_takes_one_step() -> None:
    x, h = np.ones((2, 4), "float32"), np.full((2, 3), 0.5, "float32")
    theirs = keras.layers.GRUCell(3)
    theirs.build(x.shape)
    ours = layers.GRUCell(3)
    ours(x, states=[h])
    ours.set_weights(theirs.get_weights())
    assert_close(ours(x, states=[h])[0].detach().numpy(), theirs(x, [h])[0])


# Weights and configs.


def test_the_forget_gate_starts_open() -> None:
    layer = layers.LSTM(2)
    layer(layergraph.Input((5, 4)))
    assert layer.get_weights()[2].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LSTM(0), "LSTM: option 'units'"),
        (lambda: layers.GRU(3, dropout=1.5), "a number from 0 to 1"),
        (lambda: layers.RNN(layers.Dense(3)), "RNN: option 'cell'"),
        (lambda: layers.StackedRNNCells([]), "a list of cells"),
    ],
)
def test_wrong_options_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_inputs_of_wrong_shapes_are_refused() -> None:
    with pytest.raises(GraphError, match=r"expected \(rows, timesteps, features\)"):
        layers.LSTM(3)(layergraph.Input((4,)))
    shared = layers.LSTM(3)
    shared(layergraph.Input((5, 4)))
    with pytest.raises(GraphError, match="got 6 features, expected 4"):
        shared(layergraph.Input((5, 6)))


def test_no_rows_and_no_steps_give_no_numbers() -> None:
    for kind, mask in itertools.product(KINDS, (None, True)):
        layer = getattr(layers, kind)(3, return_sequences=True)
        for shape in [(0, 5, 4), (2, 0, 4)]:
            x = np.zeros(shape, "float32")
            masks = {} if mask is None else {"mask": np.ones(shape[:2], bool)}
            assert layer(x, **masks).shape == (*shape[:2], 3)


# Torch's loops.


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_to_compute_give_the_same_numbers_and_gradients(
    kind: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = getattr(layers, kind)(4, return_sequences=True, return_state=True)
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]).bool() if masked else None
    layer(x)
    results = []
    for fits in (recurrent_kernels.fits, lambda x: False):
        monkeypatch.setattr(recurrent_kernels, "fits", fits)
        w = bind_values(layer)
        for weight in vars(w).values():
            weight.requires_grad_(True)
            weight.grad = None
        outputs = layer.forward(CallContext(), w, x, mask=mask)
        sum((output.square() * (i + 1)).sum() for i, output in enumerate(outputs)).backward()
        results.append([*outputs, *(weight.grad for weight in vars(w).values())])
    for fast, plain in zip(*results, strict=True):
        assert_close(fast.detach().numpy(), plain, 1e-5)


def test_what_is_masked_can_be_anything() -> None:
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    layer = layers.LSTM(2)
    expected = layer(x, mask=mask)
    assert torch.equal(layer(torch.where(mask[..., None], x, torch.nan), mask=mask), expected)


# Dropout.


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_has_keras_distribution(kind: str) -> None:
    options = {"units": 3, "dropout": 0.3, "recurrent_dropout": 0.3, "return_sequences": True}
    x = np.ones((4000, 3, 4), "float32")
    theirs = getattr(keras.layers, kind)(**options, seed=1)
    theirs.build(x.shape)
    perturb(theirs)
    ours = getattr(layers, kind)(**options)
    ours(x[:1])
    ours.set_weights(theirs.get_weights())
    context = CallContext(training=True, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = ours.forward(context, bind_values(ours), torch.from_numpy(x)).numpy()
        want = theirs(x, training=True).numpy()
        still = ours(x).numpy()
    assert_close(got.mean(0), want.mean(0), 0.04)
    assert_close(got.std(0), want.std(0), 0.04)
    assert (np.ptp(still, 0) < 1e-6).all()


@pytest.mark.parametrize(("kind", "options"), [(kind, {}) for kind in KINDS] + [("GRU", {"reset_after": False})])
@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5), (0.3, 0.4)])
def test_masks_fall_on_the_gates_that_keras_drops(
    kind: str, options: dict[str, Any], rates: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both get the same dropout masks, in the order of their requests."""
    drawn: dict[str, list[tuple[tuple[int, ...], float]]] = {"ours": [], "theirs": []}

    def mask(who: str, shape: tuple[int, ...], rate: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(drawn[who]))
        drawn[who].append((tuple(shape), rate))
        return torch.empty(shape).bernoulli_(1 - rate, generator=generator) / (1 - rate)

    def their_dropout(ones: Any, rate: float, **_: Any) -> Any:
        return ones * mask("theirs", ones.shape, rate)

    monkeypatch.setattr(recurrent_cells, "dropout_mask", lambda context, x, rate: mask("ours", x.shape, rate))
    monkeypatch.setattr(keras.src.backend.random, "dropout", their_dropout)
    config = {"units": 3, "dropout": rates[0], "recurrent_dropout": rates[1], "return_sequences": True, **options}
    (x,) = random_arrays([(6, 5, 4)])
    theirs = getattr(keras.layers, kind)(**config)
    theirs.build(x.shape)
    perturb(theirs)
    ours = getattr(layers, kind)(**config)
    ours(x)
    ours.set_weights(theirs.get_weights())
    got = ours(x, training=True).detach().numpy()
    assert_close(got, theirs(x, training=True))
    assert drawn["ours"] == drawn["theirs"] != []


def test_one_draw_of_dropout_holds_for_all_steps() -> None:
    layer = layers.SimpleRNN(4, dropout=0.5, recurrent_initializer="zeros", return_sequences=True)
    x = torch.ones(50, 6, 3)
    layer(x)
    context = CallContext(training=True, generator=torch.Generator().manual_seed(0))
    y = layer.forward(context, bind_values(layer), x)
    assert_close(y[:, 0].detach().numpy(), y[:, 5].detach())
    assert y[:, 0].std() > 0.1


def test_a_layer_as_activation_of_another_width_is_refused() -> None:
    with pytest.raises(GraphError, match=r"returns shape \(None, 2\), expected \(None, 3\)"):
        layers.LSTM(3, activation=layers.Dense(2))(layergraph.Input((4, 5)))


def test_a_layer_as_activation_may_compute_in_another_type() -> None:
    rnn = keras.layers.SimpleRNN(3, activation=keras.layers.ReLU(max_value=1.5), dtype="float64")
    x = np.random.default_rng(0).standard_normal((2, 4, 1))
    want = rnn(x)
    ours = layers.SimpleRNN(3, activation=layers.ReLU(max_value=1.5), dtype="float64")
    ours(x)
    ours.set_weights(rnn.get_weights())
    assert_close(ours(x).detach().numpy(), want.detach().numpy())
