"""Initializers against stock Keras: the same seed gives the same values."""

import keras
import numpy as np
import pytest
import torch
from layergraph.errors import ConfigError
from layergraph.initializers import ALIASES, INITIALIZERS, RandomInitializer, initializer

SHAPES = [(6, 4), (3, 7), (3, 3, 2, 5)]
CASES = [
    ("Zeros", {}),
    ("Ones", {}),
    ("Constant", {"value": 0.3}),
    ("Identity", {}),
    ("Identity", {"gain": 0.5}),
    ("RandomNormal", {"mean": 0.5, "stddev": 0.2}),
    ("TruncatedNormal", {}),
    ("RandomUniform", {"minval": -1.0, "maxval": 2.0}),
    *[
        ("VarianceScaling", {"scale": 0.7, "mode": mode, "distribution": distribution})
        for mode in ("fan_in", "fan_out", "fan_avg")
        for distribution in ("uniform", "truncated_normal", "untruncated_normal")
    ],
    *[(f"{family}{kind}", {}) for family in ("Glorot", "Lecun", "He") for kind in ("Uniform", "Normal")],
    ("Orthogonal", {}),
    ("Orthogonal", {"gain": 1.7}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_values_as_keras(name, options, shape):
    if name == "Identity" and len(shape) != 2:
        pytest.skip("two dimensions only")
    seeded = {**options, "seed": 11} if issubclass(INITIALIZERS[name], RandomInitializer) else options
    theirs = getattr(keras.initializers, name)(**seeded)
    ours = INITIALIZERS[name](**seeded)
    expected = theirs(shape, "float32").detach().numpy()
    np.testing.assert_allclose(ours(shape, torch.float32).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"side": "imag", "scaling": "spectrum"}, {"window": None}, {"periodic": True}])
def test_stft_kernels(options):
    expected = keras.initializers.STFT(**options)((8, 1, 5), "float32").numpy()
    np.testing.assert_allclose(INITIALIZERS["STFT"](**options)((8, 1, 5)).numpy(), expected, atol=1e-6)


def test_every_initializer_has_a_case():
    # Its kernels have a shape of their own: test_stft_kernels.
    assert {name for name, _ in CASES} == set(INITIALIZERS) - {"STFT"}


def test_every_initializer_of_keras_is_there():
    theirs = {n for n in dir(keras.initializers) if isinstance(getattr(keras.initializers, n), type)}
    aliases = {"Initializer", "IdentityInitializer", "OrthogonalInitializer", "STFTInitializer"}
    assert {ALIASES.get(n, n) for n in theirs - aliases} - set(INITIALIZERS) == set()


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_config_is_read_by_both(name):
    theirs = getattr(keras.initializers, name)()
    ours = initializer(keras.initializers.serialize(theirs))
    assert type(ours).__name__ == name
    assert getattr(keras.initializers, name).from_config(ours.get_config()).get_config() == theirs.get_config()


@pytest.mark.parametrize("given", ["glorot_uniform", "GlorotUniform", {"class_name": "GlorotUniform", "config": {}}])
def test_names_classes_and_dicts(given):
    assert type(initializer(given)).__name__ == "GlorotUniform"


def test_array_constants_and_their_serialised_form():
    ours = initializer({"class_name": "Constant", "config": {"value": [1.0, 2.0]}})
    assert ours((3, 2)).tolist() == [[1.0, 2.0]] * 3
    with pytest.raises(ConfigError, match=r"weight of shape \(2, 3\), expected one that value of shape \(2,\) broad"):
        ours((2, 3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("glorot_unifrom", "did you mean 'glorot_uniform'"),
        ({"class_name": "RandomNormal", "config": {"stdev": 1}}, "did you mean 'stddev'"),
        ({"class_name": "VarianceScaling", "config": {"scale": -1}}, "expected a positive number"),
        ({"class_name": "VarianceScaling", "config": {"mode": "fan"}}, "'fan_in' or 'fan_out'"),
        (7, "initializer is 7"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        initializer(given)


@pytest.mark.parametrize("name", ["Identity", "Orthogonal"])
def test_shapes_that_do_not_fit(name):
    with pytest.raises(ConfigError, match="got a weight of shape"):
        INITIALIZERS[name]()((3,))


@pytest.mark.parametrize("scaling", ["density", "spectrum", None])
@pytest.mark.parametrize("window", ["hann", "hamming", "boxcar", [0.1, 0.4, 0.9, 1.0, 0.7, 0.2]])
def test_stft_kernels_of_any_window(window, scaling):
    """By SciPy's definitions, and Keras's numbers for its names."""
    options = {"side": "real", "window": window, "scaling": scaling}
    given = {**options, "window": np.array(window, "float32")} if isinstance(window, list) else options
    got = INITIALIZERS["STFT"](**given)((6, 1, 4))
    if isinstance(window, str) and window != "boxcar":
        expected = keras.initializers.STFT(**options)((6, 1, 4), "float32").numpy()
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    values = np.ones(6) if window == "boxcar" else np.array(window, float) if isinstance(window, list) else None
    if values is not None:
        values = values / {"density": np.sqrt((values**2).sum()), "spectrum": values.sum(), None: 1}[scaling]
        waves = np.cos(-2 * np.pi * np.arange(6)[:, None] * np.arange(4) / 6)
        np.testing.assert_allclose(got[:, 0].numpy(), waves * values[:, None], atol=1e-6)


def test_stft_kernels_of_other_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"STFT: got a weight of shape \(6, 4\), expected \(frame, 1, frequencies\)"):
        INITIALIZERS["STFT"]()((6, 4))
    with pytest.raises(ConfigError, match="STFT: window has 5 values, expected 6"):
        INITIALIZERS["STFT"](window=[1.0] * 5)((6, 1, 4))


def test_seeds_of_files_are_numbers_or_their_generators():
    generator = {"class_name": "SeedGenerator", "config": {"seed": 11, "name": "s"}}
    one, other = (INITIALIZERS["RandomNormal"](seed=seed)((3, 2)) for seed in (generator, 11))
    np.testing.assert_array_equal(one, other)
    for seed in ({"class_name": "SeedGenerator", "config": 3}, None):
        assert INITIALIZERS["RandomNormal"](seed=seed).seed is None
    for seed in ("eleven", 1.5, [1]):
        with pytest.raises(ConfigError, match="expected an integer, or None"):
            INITIALIZERS["RandomNormal"](seed=seed)


@pytest.mark.parametrize("value", [[[1], [1, 2]], "text", None, {"config": 3}, {"class_name": "__numpy__"}])
def test_constants_are_numbers(value):
    with pytest.raises(ConfigError, match="expected a number or an array of numbers"):
        INITIALIZERS["Constant"](value=value)


def test_axes_are_written_if_they_are_set() -> None:
    """Older releases of Keras 3 refuse a file that has them."""
    for axes in ({}, {"input_axes": [0], "output_axes": [1]}):
        config = INITIALIZERS["HeNormal"](**axes).get_config()
        assert {name: config[name] for name in ("input_axes", "output_axes") if name in config} == axes
