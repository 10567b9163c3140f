"""Core layers and regularization against stock Keras."""

import re

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.call_context import CallContext
from oracles import LayerCase, check_layer, keras

DENSE = [
    LayerCase("Dense", {"units": 3}, [(2, 4)]),
    LayerCase("Dense", {"units": 3, "activation": "relu", "use_bias": False}, [(2, 5, 4)], unknown_axes=True),
    LayerCase("Dense", {"units": 2, "activation": "softmax", "bias_initializer": "ones"}, [(3, 2, 2, 5)]),
    LayerCase("Dense", {"units": 3, "activation": keras.layers.LeakyReLU(0.1)}, [(2, 4)]),
    LayerCase("Dense", {"units": 3, "activation": keras.layers.PReLU()}, [(2, 5, 4)]),
    LayerCase("Dense", {"units": 3, "activation": keras.layers.Activation("tanh")}, [(2, 4)]),
    LayerCase("Dense", {"units": 3, "dtype": "float64"}, [(2, 4)]),
    LayerCase(
        "Dense",
        {
            "units": 2,
            "kernel_regularizer": "l2",
            "bias_regularizer": keras.regularizers.L1(0.1),
            "activity_regularizer": "l1",
            "kernel_constraint": "non_neg",
            "bias_constraint": "max_norm",
            "kernel_initializer": "he_normal",
        },
        [(2, 4)],
    ),
    LayerCase("Dense", {"units": 3}, [(2, 4)], inputs=[np.arange(8, dtype="int32").reshape(2, 4)]),
]
IDS = np.array([[1, 0, 3], [4, 4, 0]])
EMBEDDING = [
    LayerCase("Embedding", {"input_dim": 5, "output_dim": 2, "mask_zero": mask_zero}, [ids.shape], inputs=[ids])
    for mask_zero in (False, True)
    for ids in (IDS.astype("int32"), IDS.astype("int64"), IDS + 0.75, IDS[0].astype("uint8"), IDS.astype("float32"))
]
SEQUENCE = np.array([[[1, 2], [0, 0], [0, 2]], [[2, 2], [2, 0], [0, 0]]], "float32")
PASSING = [
    LayerCase("Masking", {}, [(2, 3, 2)], inputs=[SEQUENCE]),
    LayerCase("Masking", {"mask_value": 2.0}, [(2, 3, 2)], inputs=[SEQUENCE], unknown_axes=True),
    LayerCase("Identity", {}, [(2, 3)]),
    LayerCase("Dropout", {"rate": 0.4, "seed": 3, "noise_shape": (None, 1)}, [(2, 3)]),
    LayerCase("AlphaDropout", {"rate": 0.4}, [(2, 3)]),
    LayerCase("GaussianDropout", {"rate": 0.4}, [(2, 3)]),
    LayerCase("GaussianNoise", {"stddev": 0.4}, [(2, 3)]),
    LayerCase("SpatialDropout1D", {"rate": 0.4}, [(2, 3, 2)]),
    LayerCase("SpatialDropout2D", {"rate": 0.4, "data_format": "channels_first"}, [(2, 3, 2, 2)]),
    LayerCase("SpatialDropout3D", {"rate": 0.4}, [(2, 3, 2, 2, 2)]),
    LayerCase("ActivityRegularization", {"l1": 0.1, "l2": 0.2}, [(2, 3)]),
]


@pytest.mark.parametrize("case", [*DENSE, *EMBEDDING, *PASSING], ids=str)
def test_layer_gives_keras_numbers(case: LayerCase) -> None:
    check_layer(case)


def test_masking_keeps_integers() -> None:
    x = SEQUENCE.astype("int32")
    got = layers.Masking(mask_value=2)(x).numpy()
    want = keras.layers.Masking(mask_value=2)(x).numpy()
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("wrong", [5, -1, 1000])
def test_an_id_without_a_vector_is_named(wrong: int) -> None:
    x = layergraph.Input((2,), dtype="int32", name="ids")
    model = layergraph.Model(x, layers.Embedding(5, 2, name="words")(x))
    with pytest.raises(DataError, match=rf"layer 'words' \(Embedding\): got id {wrong}, expected 0 to 4"):
        model.plan().run({"ids": np.array([[0, wrong]], "int32")})


def test_no_rows_of_ids_give_no_rows() -> None:
    x = layergraph.Input((2,), dtype="int32", name="ids")
    model = layergraph.Model(x, layers.Embedding(5, 3, name="words")(x))
    assert model.plan().run({"ids": np.zeros((0, 2), "int32")})["words"].shape == (0, 2, 3)


def test_embedding_takes_its_weights_at_once() -> None:
    matrix = np.arange(6, dtype="float32").reshape(3, 2)
    layer = layers.Embedding(3, 2, weights=[matrix], input_length=4)
    np.testing.assert_array_equal(layer(np.array([[2, 0]])).detach().numpy(), matrix[[2, 0]][None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 0}, "option 'units' is 0, expected a positive integer"),
        ({"units": 3, "activation": "rleu"}, "did you mean 'relu'"),
        ({"units": 3, "activation": print}, "option 'activation'"),
        ({"units": 3, "activation": {"class_name": "Dense", "config": {"units": 1}}}, "activation function or layer"),
        ({"units": 3, "size": 2}, "unknown option 'size'"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        layers.Dense(**options)


def test_dense_needs_features_of_known_length() -> None:
    with pytest.raises(GraphError, match=r"weight 'kernel' would have shape \(None, 3\)"):
        layers.Dense(3)(layergraph.Input((None,)))


# Training.


def in_training(layer: layers.Layer, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return layer.forward(CallContext(training=True, generator=torch.Generator().manual_seed(seed)), None, x)


NOISY = [
    layers.Dropout(0.3),
    layers.AlphaDropout(0.3),
    layers.GaussianDropout(0.3),
    layers.GaussianNoise(0.3),
    layers.SpatialDropout1D(0.3),
]


@pytest.mark.parametrize("layer", NOISY, ids=lambda layer: type(layer).__name__)
def test_noise_comes_from_the_run_and_only_in_training(layer: layers.Layer) -> None:
    x = torch.ones(8, 5, 6)
    assert torch.equal(in_training(layer, x, 1), in_training(layer, x, 1))
    assert not torch.equal(in_training(layer, x, 1), in_training(layer, x, 2))
    assert torch.equal(layer.forward(CallContext(), None, x), x)


@pytest.mark.parametrize("name", ["Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D"])
def test_noise_has_keras_distribution(name: str) -> None:
    x = 1 + np.random.default_rng(0).standard_normal((400, 5, 40)).astype("float32")
    theirs = getattr(keras.layers, name)(0.3, seed=1)(x, training=True).detach().numpy()
    ours = in_training(getattr(layers, name)(0.3), torch.from_numpy(x)).numpy()
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.03)
    assert ours.std() == pytest.approx(theirs.std(), abs=0.03)
    assert (ours == 0).mean() == pytest.approx((theirs == 0).mean(), abs=0.02)


def test_dropout_scales_what_it_keeps() -> None:
    y = in_training(layers.Dropout(0.25), torch.ones(1000))
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(in_training(layers.Dropout(1.0), torch.ones(10)), torch.zeros(10))


@pytest.mark.parametrize(
    ("layer", "shape", "shared"),
    [
        (layers.Dropout(0.5, noise_shape=(None, 1, None)), (4, 6, 8), 1),
        (layers.SpatialDropout1D(0.5), (4, 6, 8), 1),
        (layers.SpatialDropout2D(0.5), (4, 6, 2, 8), (1, 2)),
        (layers.SpatialDropout2D(0.5, data_format="channels_first"), (4, 8, 6, 2), (2, 3)),
        (layers.SpatialDropout3D(0.5), (4, 3, 2, 2, 8), (1, 2, 3)),
    ],
)
def test_dropout_shares_its_fate_along_axes(layer: layers.Layer, shape: tuple, shared: int | tuple) -> None:
    y = in_training(layer, torch.ones(shape))
    assert torch.equal(y.amin(shared), y.amax(shared))
    assert 0 < float((y == 0).float().mean()) < 1


def test_activity_regularization_adds_to_the_loss() -> None:
    x = np.arange(6, dtype="float32").reshape(2, 3)
    theirs = keras.layers.ActivityRegularization(l1=0.1, l2=0.2)
    theirs(x)
    context = CallContext(training=True)
    layers.ActivityRegularization(l1=0.1, l2=0.2).execute(
        context, None, (torch.from_numpy(x),), {}, None, want_masks=False
    )
    assert float(sum(context.losses)) == pytest.approx(float(sum(theirs.losses)), rel=1e-6)


@pytest.mark.parametrize(
    ("policy", "computed"), [("mixed_bfloat16", "bfloat16"), ("float64", "float64"), ("float16", "float16")]
)
def test_embedding_gives_the_computing_type(policy: str, computed: str) -> None:
    layer = layers.Embedding(5, 2, dtype=policy)
    assert layer(layergraph.Input((3,), dtype="int32")).dtype == computed
