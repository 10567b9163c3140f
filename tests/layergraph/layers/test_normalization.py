"""Normalization against stock Keras, in inference and in training."""

from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.layers.table import LAYERS
from model_files import numbered
from oracles import LayerCase, assert_close, check_layer, keras, perturb
from tensorflow_numbers import TensorFlowCase, tensorflow_cases

AFFINE = {
    "beta_initializer": "ones",
    "gamma_initializer": {"class_name": "Constant", "config": {"value": 2.0}},
    "beta_regularizer": "l1",
    "gamma_regularizer": "l2",
    "beta_constraint": "non_neg",
    "gamma_constraint": "max_norm",
}
IMAGES = [(2, 4, 5, 6)]

CASES = [
    LayerCase("BatchNormalization", {**AFFINE, "epsilon": 0.1}, IMAGES),
    LayerCase("BatchNormalization", {"axis": 1}, IMAGES),
    LayerCase("BatchNormalization", {"axis": -2, "scale": False}, IMAGES),
    LayerCase("BatchNormalization", {"center": False}, [(3, 6)]),
    LayerCase("BatchNormalization", {"center": False, "scale": False}, [(3, 5, 6)], unknown_axes=True),
    LayerCase("BatchNormalization", {"moving_mean_initializer": "ones", "momentum": 0.5}, [(1, 2, 3, 2, 6)]),
    LayerCase("BatchNormalization", {}, [(2, 3, 4)], [np.arange(24, dtype="int32").reshape(2, 3, 4)]),
    LayerCase("LayerNormalization", {**AFFINE}, IMAGES),
    LayerCase("LayerNormalization", {"axis": [1, 2, 3]}, IMAGES),
    LayerCase("LayerNormalization", {"axis": [-1, -2]}, IMAGES),
    LayerCase("LayerNormalization", {"axis": [3, 1]}, IMAGES),
    LayerCase("LayerNormalization", {"axis": [1, 3], "scale": False}, IMAGES),
    LayerCase("LayerNormalization", {"center": False, "epsilon": 0.1}, [(3, 5, 6)], unknown_axes=True),
    LayerCase("LayerNormalization", {"center": False, "scale": False}, [(1, 6)]),
    LayerCase("GroupNormalization", {"groups": 3, **AFFINE}, IMAGES),
    LayerCase("GroupNormalization", {"groups": 2, "axis": 1}, IMAGES),
    LayerCase("GroupNormalization", {"groups": 5, "axis": 2, "scale": False}, IMAGES),
    LayerCase("GroupNormalization", {"groups": 1, "axis": -3, "center": False}, IMAGES),
    LayerCase("GroupNormalization", {"groups": -1}, IMAGES, unknown_axes=True),
    LayerCase("GroupNormalization", {"groups": 6}, [(3, 6)]),
    LayerCase("UnitNormalization", {}, IMAGES, unknown_axes=True),
    LayerCase("UnitNormalization", {"axis": [1, 2]}, IMAGES),
    LayerCase("UnitNormalization", {"axis": []}, IMAGES),
    LayerCase("UnitNormalization", {"axis": 1}, [(2, 3)], [np.zeros((2, 3), "float32")]),
    LayerCase("RMSNormalization", {}, IMAGES, unknown_axes=True),
    LayerCase("RMSNormalization", {"axis": [3, 2], "epsilon": 0.1}, IMAGES),
]


def random_cases(count: int, seed: int) -> list[LayerCase]:
    """Random layers, axes and ranks, except those where Keras on torch normalizes over wrong axes."""
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        name = str(rng.choice(["BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization"]))
        rank = int(rng.integers(2, 6))
        shape = [int(rng.integers(1, 4)), *(2 * int(n) for n in rng.integers(1, 4, rank - 1))]
        axis: Any = int(rng.integers(1, rank)) - (rank if rng.random() < 0.5 else 0)
        if name == "LayerNormalization":
            axis = list(range(rank - int(rng.integers(1, rank)), rank))
        elif name == "UnitNormalization" and rank > 2:
            axis = sorted(int(n) for n in rng.choice(np.arange(1, rank), 2, replace=False))
        config: dict[str, Any] = {"axis": axis}
        if name != "UnitNormalization":
            config |= {"center": bool(rng.random() < 0.7), "scale": bool(rng.random() < 0.7)}
            config["epsilon"] = float(rng.choice([1e-3, 1e-2]))
        if name == "GroupNormalization":
            config["groups"] = int(rng.choice([1, 2, -1]))
        cases.append(LayerCase(name, config, [tuple(shape)]))
    return cases


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", random_cases(20, seed=5), ids=str)
def test_random_options_give_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


@pytest.mark.parametrize("case", tensorflow_cases("Normalization"), ids=str)
def test_layer_gives_tensorflow_numbers(case: TensorFlowCase) -> None:
    case.check()


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
@pytest.mark.parametrize("axis", [-1, [1, 2], [1, 3]])
def test_rms_scaling_gives_keras_numbers(axis: Any) -> None:
    check_layer(LayerCase("LayerNormalization", {"rms_scaling": True, "axis": axis}, IMAGES))


@pytest.mark.parametrize("policy", ["float64", "float16", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "class_name", ["BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"]
)
def test_layer_computes_in_the_type_of_its_policy(class_name: str, policy: str) -> None:
    options = {"groups": 2} if class_name == "GroupNormalization" else {}
    check_layer(LayerCase(class_name, {"dtype": policy, **options}, IMAGES), 1e-5 if policy == "float64" else 3e-2)


def pair(options: dict[str, Any], x: np.ndarray) -> tuple[Any, Any]:
    """The same BatchNormalization in Keras and here."""
    theirs = keras.layers.BatchNormalization(**options)
    theirs.build(x.shape)
    perturb(theirs)
    ours = LAYERS["BatchNormalization"](**options)
    ours.build_for((x,))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def check_training(theirs: Any, ours: Any, x: np.ndarray, **call: Any) -> None:
    """Outputs and moving averages after two batches."""
    for batch in (x, 2 * x + 1):
        expected = theirs(batch, training=True, **call).detach().numpy()
        np.testing.assert_allclose(ours(batch, training=True, **call).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    for got, want in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"axis": 1, "momentum": 0.3}, {"scale": False, "center": False}])
def test_training_uses_the_batch_and_moves_the_statistics(options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("float32")
    theirs, ours = pair(options, x)
    before = ours.get_weights()
    check_training(theirs, ours, x)
    assert not np.allclose(before[-1], ours.get_weights()[-1])


def test_masked_steps_do_not_count_in_training() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("float32")
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    theirs, ours = pair({"momentum": 0.5}, x)
    check_training(theirs, ours, x, mask=mask)


def test_serving_never_moves_the_statistics() -> None:
    x = layergraph.Input((4,))
    layer = LAYERS["BatchNormalization"]()
    plan = layergraph.Model(x, layer(x, training=True)).plan()
    data = np.random.default_rng(0).standard_normal((8, 4)).astype("float32") * 3 + 5
    (result,) = plan.run({plan.input_specs[0].name: data}).values()
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-5)
    np.testing.assert_array_equal(layer.get_weights()[2], np.zeros(4))


def test_mask_of_another_rank_is_refused_in_training() -> None:
    x = np.zeros((2, 3, 4, 5), "float32")
    _, ours = pair({}, x)
    with pytest.raises(DataError, match="mask has 2 axes, expected 3"):
        ours(x, mask=np.ones((2, 3), bool), training=True)


@pytest.mark.parametrize(
    ("class_name", "options", "said"),
    [
        (
            "BatchNormalization",
            {"renorm_clipping": {"most": 2}},
            "option 'renorm_clipping' is {'most': 2}",
        ),
        (
            "BatchNormalization",
            {"axis": [1, 1]},
            "option 'axis' is \\[1, 1\\], expected an axis",
        ),
        ("BatchNormalization", {"momentum": 1.5}, "option 'momentum' is 1.5"),
        ("BatchNormalization", {"epsilon": -1}, "option 'epsilon' is -1"),
        ("LayerNormalization", {"axis": "last"}, "option 'axis' is 'last'"),
        ("GroupNormalization", {"groups": 0}, "option 'groups' is 0"),
        ("UnitNormalization", {"axis": None}, "option 'axis' is None"),
    ],
)
def test_wrong_option_is_named(class_name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{class_name}: {said}"):
        LAYERS[class_name](**options)


@pytest.mark.parametrize(
    ("class_name", "options", "said"),
    [
        ("BatchNormalization", {"axis": 3}, "axis is 3, expected one of known length"),
        ("BatchNormalization", {"axis": 1}, "axis is 1, expected one of known length"),
        ("LayerNormalization", {"axis": [1, 2]}, "axis is 1, expected one of known length"),
        ("GroupNormalization", {"groups": 4}, "got 6 channels, expected a multiple of groups, which is 4"),
        ("GroupNormalization", {}, "got 6 channels, expected a multiple of groups, which is 32"),
        ("RMSNormalization", {"axis": 5}, "axis is 5, expected one of known length"),
    ],
)
def test_input_that_does_not_fit_is_refused(class_name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        LAYERS[class_name](**options)(layergraph.Input((None, 6)))


@pytest.mark.parametrize("class_name", ["BatchNormalization", "LayerNormalization", "UnitNormalization"])
def test_no_rows_give_no_rows(class_name: str) -> None:
    x = layergraph.Input((4, 3))
    plan = layergraph.Model(x, LAYERS[class_name]()(x)).plan()
    (result,) = plan.run({plan.input_specs[0].name: np.zeros((0, 4, 3), "float32")}).values()
    assert result.shape == (0, 4, 3)


SPECTRAL = [
    ("Dense", {"units": 3}, (4, 5)),
    ("Conv2D", {"filters": 3, "kernel_size": 2}, (2, 4, 5, 3)),
    ("DepthwiseConv2D", {"kernel_size": 2, "depth_multiplier": 2}, (2, 4, 5, 3)),
]


@pytest.mark.parametrize(("class_name", "options", "shape"), SPECTRAL)
def test_spectral_normalization_keeps_the_norm_in_training(
    class_name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    theirs = keras.layers.SpectralNormalization(getattr(keras.layers, class_name)(**options), power_iterations=2)
    theirs.build(shape)
    perturb(theirs)
    ours = LAYERS["SpectralNormalization"](LAYERS[class_name](**options), power_iterations=2)
    ours.build_for((x,))
    ours.set_weights(theirs.get_weights())
    for training in (False, True, True, False):
        expected = theirs(x, training=training).detach().numpy()
        np.testing.assert_allclose(ours(x, training=training).numpy(), expected, rtol=1e-4, atol=1e-5)
    for got, want in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("policy", "theirs_in", "tolerance"),
    [
        ("float64", "float64", 1e-6),
        ("float16", "float16", 5e-3),
        # Keras on torch loses what is assigned to a weight while it is cast: compared with its numbers in float32.
        ("mixed_float16", "float32", 5e-3),
        ("mixed_bfloat16", "float32", 3e-2),
    ],
)
def test_spectral_normalization_trains_in_other_precisions(policy: str, theirs_in: str, tolerance: float) -> None:
    """The stored kernel is divided, not only what it is cast to."""
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    theirs = keras.layers.SpectralNormalization(
        keras.layers.Dense(3, dtype=theirs_in, use_bias=False), power_iterations=5, dtype=theirs_in
    )
    theirs.build(x.shape)
    perturb(theirs)
    ours = LAYERS["SpectralNormalization"](
        LAYERS["Dense"](3, dtype=policy, use_bias=False), power_iterations=5, dtype=policy
    )
    ours.build_for((x,))
    ours.set_weights(theirs.get_weights())
    before = ours.get_weights()
    for training in (True, True, False):
        expected = theirs(x, training=training).detach().float().numpy()
        got = ours(x, training=training).float().numpy()
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())
    for own, want, old in zip(ours.get_weights(), theirs.get_weights(), before, strict=True):
        np.testing.assert_allclose(own, want, atol=tolerance)
        assert not np.allclose(own, old, atol=tolerance)


def test_spectral_normalization_of_zeros_leaves_them() -> None:
    ours = LAYERS["SpectralNormalization"](LAYERS["Dense"](3, kernel_initializer="zeros"))
    assert not ours(np.ones((2, 4), "float32"), training=True).any()


def test_spectral_normalization_of_a_layer_without_kernel_is_refused() -> None:
    with pytest.raises(GraphError, match="expected one with a kernel or embeddings"):
        LAYERS["SpectralNormalization"](LAYERS["Flatten"]())(layergraph.Input((3, 4)))


def test_unused_options_of_renormalization_are_not_in_the_config() -> None:
    """Most releases of Keras 3 refuse them."""
    config = layergraph.layers.BatchNormalization(renorm_momentum=0.5).get_config()
    assert not [name for name in config if name.startswith("renorm")]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_renormalization_goes_to_stock_keras_and_back(suffix: str, tmp_path: Path) -> None:
    def model(k: Any) -> Any:
        x = k.Input((5,))
        y = k.layers.BatchNormalization(renorm=True, renorm_momentum=0.5, renorm_clipping={"rmax": 1.5, "dmax": 0.5})(x)
        made = k.Model(x, k.layers.Dense(2)(y))
        made.compile("sgd", "mse")
        return made

    x, y = (np.random.default_rng(0).standard_normal((16, size)).astype("float32") for size in (5, 2))
    options = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    ours, path = model(layergraph), tmp_path / f"ours{suffix}"
    ours.fit(x, y, **options)
    ours.save(path)
    theirs, again = keras.models.load_model(path), layergraph.load_model(path)
    # Keras reads names in its `.h5` as other functions.
    theirs.compile("sgd", "mse")
    expected = theirs.fit(x, y, **options).history["loss"]
    for one in (ours, again):
        assert_close(np.array(one.fit(x, y, **options).history["loss"]), np.array(expected), 1e-4)
        assert_close(one.predict(x, verbose=0), theirs.predict(x, verbose=0), 1e-4)


def test_several_axes_and_renormalization_give_the_numbers_of_keras_2() -> None:
    """Outputs of a file of tf.keras 2.15 before and after training, and the losses meanwhile."""
    fixtures = Path(__file__).parents[2] / "fixtures"
    model = layergraph.load_model(fixtures / "keras2_normalization.h5")
    with np.load(fixtures / "keras2_normalization.npz") as arrays:
        x, targets = arrays["x"], numbered(arrays, "target")

        def check(name: str) -> None:
            for got, want in zip(model.predict(x, verbose=0), numbered(arrays, name), strict=True):
                assert_close(got, want)

        check("before")
        losses = [model.train_on_batch(x, targets)[0] for _ in range(3)]
        np.testing.assert_allclose(losses, arrays["losses"], rtol=1e-5)
        check("after")
