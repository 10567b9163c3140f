"""Models quantized by Keras 3's `model.quantize`: predictions equal Keras's, and they can be saved for Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from keras import layers, ops
from keras.quantizers import (
    AbsMaxQuantizer,
    AWQConfig,
    GPTQConfig,
    Int4QuantizationConfig,
    Int8QuantizationConfig,
)
from keras.src.layers.core.einsum_dense import _analyze_quantization_info
from layergraph.errors import ConfigError, CorruptFileError, GraphError, UnsupportedModelError
from layergraph.layers.core.einsum import parse
from layergraph.layers.quantized.equations import quantized_axes
from oracles import assert_close, keras, perturb

#: Keras warns of each layer that it doesn't quantize.
pytestmark = pytest.mark.filterwarnings("ignore")

#: Mode, config.
WAYS: list[tuple[str, Any]] = [
    ("int8", None),
    ("int8", Int8QuantizationConfig(activation_quantizer=None)),
    ("int8", Int8QuantizationConfig(activation_quantizer=AbsMaxQuantizer(value_range=(-31, 31)))),
    ("int4", None),
    ("int4", Int4QuantizationConfig(block_size=3)),
    ("int4", Int4QuantizationConfig(block_size=-1)),
    ("int4", Int4QuantizationConfig(block_size=None, activation_quantizer=AbsMaxQuantizer())),
    ("float8", None),
]
#: Equations with axes that are summed, missing in either operand, and moved.
EQUATIONS = [
    *("ab,bc->ac", "ab,bc->ca", "abc,cd->abd", "abc,cde->abde", "abcd,cde->abe", "abc,cd->dab", "abc,bcd->ad"),
    *("abcd,dce->abe", "abc,dc->abd", "abcd,ecd->abe", "abc,acd->abd", "abc,dcb->ad", "abcde,cedf->abf"),
    *("abcd,cdb->ab", "abc,cb->ab", "abc,bc->ab"),
]
#: Modes that a policy doesn't describe completely.
UNTOLD = (1, 2, 6)


def words() -> Any:
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 7, mask_zero=True)(ids)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(6, 5), bias_axes="d", activation="relu")(x)
    x = layers.TimeDistributed(layers.Dense(4, activation="tanh"))(x)
    x = layers.LSTM(3)(x)
    return keras.Model(ids, layers.Dense(2, use_bias=False)(layers.Dense(5, activation="gelu")(x)))


def axes() -> Any:
    """Equations that sum over several axes, the last or another, and one with letters that both operands have."""
    x = entry = keras.Input((4, 6))
    x = layers.EinsumDense("abc,cde->abde", output_shape=(4, 3, 5), bias_axes="de")(x)
    x = layers.EinsumDense("abde,def->abf", output_shape=(4, 7), bias_axes="f", activation="tanh")(x)
    y = layers.EinsumDense("abc,bd->adc", output_shape=(3, 7))(x)
    z = layers.EinsumDense("abc,bcd->abd", output_shape=(4, 5), bias_axes="bd")(x)
    return keras.Model(entry, [layers.Dense(3)(y), z, layers.Dense(1, activation="sigmoid")(layers.Flatten()(z))])


def inside() -> Any:
    """A shared layer, a model called twice, nested layers, and some that aren't quantized."""
    left, right = keras.Input((6,)), keras.Input((6,))
    shared = layers.Dense(5, activation="relu")
    encoder = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(3)])
    outputs = [encoder(shared(left)), encoder(shared(right))]
    return keras.Model([left, right], layers.Dense(2, activation=layers.LeakyReLU())(layers.Concatenate()(outputs)))


def attention() -> Any:
    entry = keras.Input((5, 6))
    x = layers.MultiHeadAttention(2, 3)(entry, entry)
    x = layers.LayerNormalization()(layers.Add()([x, entry]))
    y = layers.GroupQueryAttention(3, 4, 2, use_bias=False)(x, x)
    return keras.Model(entry, layers.Dense(2)(layers.Add()([x, layers.Dense(6)(y)])))


def tied() -> Any:
    ids = keras.Input((4,), dtype="int32")
    embedding = layers.ReversibleEmbedding(9, 5, logit_soft_cap=3.0)
    apart = layers.ReversibleEmbedding(9, 5, tie_weights=False, mask_zero=True)
    x = layers.Dense(5)(embedding(ids))
    return keras.Model(ids, [embedding(x, reverse=True), apart(layers.Add()([x, apart(ids)]), reverse=True)])


CASES: list[tuple[Callable[[], Any], int]] = [
    *((words, way) for way in range(len(WAYS))),
    *((make, way) for make in (axes, tied) for way in (0, 4, 6)),
    *((attention, way) for way in (0, 6, 7)),
    (inside, 3),
]


def arrays_for(model: Any, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for tensor in model.inputs:
        shape = (3, *tensor.shape[1:])
        whole = "int" in str(tensor.dtype)
        made.append(
            rng.integers(0, 9, shape).astype("int32") if whole else rng.standard_normal(shape).astype("float32")
        )
    return made


def predictions(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    return list(model.plan().run(dict(zip(model.input_names, arrays, strict=True))).values())


def expected_of(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    outputs = model(arrays if len(arrays) > 1 else arrays[0], training=False)
    return [np.asarray(y.detach()) for y in keras.tree.flatten(outputs)]


def quantized(make: Callable[[], Any], mode: str, config: Any) -> Any:
    model = make()
    perturb(model)
    model.quantize(mode, config=config)
    return model


@pytest.mark.parametrize(("make", "way"), CASES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_quantised_model_predicts_keras_numbers_and_is_saved_for_keras(make: Any, way: int, tmp_path: Path) -> None:
    mode, config = WAYS[way]
    model = quantized(make, mode, config)
    arrays = arrays_for(model)
    expected = expected_of(model, arrays)
    # How an `.h5` has the arrays of a kernel, or of an embedding, doesn't depend on the model around it.
    for ending in (".keras", ".h5") if way in (0, 3, 7) and make in (words, tied) else (".keras",):
        path = tmp_path / f"ours{ending}"
        model.save(tmp_path / f"model{ending}")
        ours = layergraph.load_model(tmp_path / f"model{ending}")
        results = [predictions(ours, arrays)]
        # Keras's projections can only be given a policy; and it can't read its own float8 from an .h5.
        if (make is attention and way in UNTOLD) or (mode == "float8" and ending == ".h5"):
            with pytest.raises(ConfigError, match=r"projection|float8"):
                ours.save(path)
        else:
            ours.save(path)
            results += [
                predictions(layergraph.load_model(path), arrays),
                expected_of(keras.models.load_model(path), arrays),
            ]
        for result in results:
            for got, want in zip(result, expected, strict=True):
                assert_close(got, want)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantised_model_of_other_types(mode: str, policy: str, tmp_path: Path) -> None:
    entry, ids = keras.Input((6,)), keras.Input((4,), dtype="int32")
    x = layers.Dense(5, activation="relu", dtype=policy)(entry)
    y = layers.EinsumDense("abc,cd->abd", output_shape=(4, 5), bias_axes="d", dtype=policy)(
        layers.Embedding(9, 3, dtype=policy)(ids)
    )
    model = keras.Model([entry, ids], [x, y])
    model.quantize(mode)
    arrays = arrays_for(model)
    expected = [np.asarray(y.detach().double()) for y in model(arrays)]
    model.save(tmp_path / "model.keras")
    for got, want in zip(predictions(layergraph.load_model(tmp_path / "model.keras"), arrays), expected, strict=True):
        tolerance = 1e-6 if policy == "float64" else 1e-2
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_zeros_in_half_precision_stay_zeros(tmp_path: Path) -> None:
    entry = keras.Input((6,))
    model = keras.Model(entry, layers.Dense(3, dtype="mixed_float16")(entry))
    model.quantize("int4", config=Int4QuantizationConfig(block_size=None, activation_quantizer=AbsMaxQuantizer()))
    model.save(tmp_path / "model.keras")
    arrays = [np.array([[0.0] * 6, [1.0] * 6], "float32")]
    expected = np.asarray(model(arrays[0]).detach())
    assert not expected[0].any()
    found = predictions(layergraph.load_model(tmp_path / "model.keras"), arrays)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def calibrated(config_class: Any, bits: int, group: int) -> tuple[Any, list[np.ndarray]]:
    """A model whose blocks were calibrated with data."""
    entry = keras.Input((5,), dtype="int32")
    embedding = layers.Embedding(20, 8)
    blocks = [
        keras.Sequential([keras.Input((5, 8)), layers.Dense(8, activation="relu"), layers.Dense(8)]),
        keras.Sequential([keras.Input((5, 8)), layers.EinsumDense("abc,cd->abd", (5, 8), bias_axes="d")]),
    ]
    x = embedding(entry)
    for block in blocks:
        x = block(x)
    model = keras.Model(entry, x)
    perturb(model)
    data = np.random.default_rng(3).integers(0, 20, (8, 5)).astype("int32")
    structure = {"pre_block_layers": [embedding], "sequential_blocks": blocks}
    config = config_class(
        [data[i : i + 1] for i in range(8)],
        # Requested, but not used.
        str,
        weight_bits=bits,
        group_size=group,
        num_samples=8,
        sequence_length=5,
        quantization_layer_structure=structure,
    )
    model.quantize(config=config)
    return model, [data]


@pytest.mark.parametrize(
    ("config_class", "bits", "group"),
    [
        (GPTQConfig, 4, 3),
        (GPTQConfig, 8, 4),
        (GPTQConfig, 2, -1),
        (AWQConfig, 4, 3),
    ],
)
def test_calibrated_kernels(config_class: Any, bits: int, group: int, tmp_path: Path) -> None:
    model, arrays = calibrated(config_class, bits, group)
    for layer in model._flatten_layers():
        # Its layers can't be written.
        if getattr(layer, "quantization_config", None) is not None:
            layer.quantization_config.quantization_layer_structure = None
    expected = expected_of(model, arrays)
    model.save(tmp_path / "model.keras")
    with pytest.raises(CorruptFileError, match="write no zero points of GPTQ and AWQ"):
        layergraph.load_model(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    ours = layergraph.load_model(tmp_path / "model.h5")
    ours.save(tmp_path / "ours.keras")
    assert_close(predictions(ours, arrays)[0], expected[0])
    assert_close(expected_of(keras.models.load_model(tmp_path / "ours.keras"), arrays)[0], expected[0])


def test_low_rank_changes_are_in_the_kernels_of_a_file(tmp_path: Path) -> None:
    model = inside()
    perturb(model)
    model.quantize("int8")
    for layer in model._flatten_layers():
        if type(layer) is layers.Dense and layer.quantization_mode:
            layer.enable_lora(2)
            layer.lora_kernel_b.assign(ops.ones_like(layer.lora_kernel_b))
    arrays = arrays_for(model)
    model.save(tmp_path / "model.keras")
    expected = expected_of(keras.models.load_model(tmp_path / "model.keras"), arrays)
    assert_close(predictions(layergraph.load_model(tmp_path / "model.keras"), arrays)[0], expected[0])


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_training_moves_what_keras_moves(mode: str, tmp_path: Path) -> None:
    """Biases and unquantized layers; gradients are those without rounding."""
    entry = keras.Input((6,))
    x = layers.Dense(6, activation="tanh")(layers.BatchNormalization()(entry))
    model = keras.Model(entry, layers.Dense(2)(layers.LayerNormalization()(layers.Dense(4)(x))))
    model.quantize(mode)
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 6)).astype("float32"), rng.standard_normal((16, 2)).astype("float32")
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    ours.fit(x, y, batch_size=4, epochs=2, shuffle=False)
    for weight, variable in zip(ours.weights, model.weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), variable.numpy(), rtol=2e-4, atol=2e-5, err_msg=variable.path)


def test_training_in_float8_is_refused(tmp_path: Path) -> None:
    model = quantized(inside, "float8", None)
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    with pytest.raises(GraphError, match=r"layer '.*' \(Dense\): can't be trained in float8"):
        ours.fit([np.zeros((4, 6), "float32")] * 2, np.zeros((4, 2), "float32"))


def test_layers_that_nothing_quantises_are_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3, 4)), layers.LSTM(2, name="lstm", dtype="int8_from_float32")])
    model.save(tmp_path / "model.keras")
    with pytest.raises(UnsupportedModelError, match=r"'lstm'.*LSTM.*dtype.*without quantization"):
        layergraph.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("equation", EQUATIONS)
def test_axes_of_equations_are_analysed_as_in_keras(equation: str) -> None:
    inputs, kernel = quantized_axes(parse(equation))
    theirs = _analyze_quantization_info(equation, len(equation.partition(",")[0]))
    assert (inputs.summed, kernel.summed, inputs.order, kernel.order) == theirs[:4]
    x, w = (np.arange(2, 2 + len(operand)) for operand in equation.partition("->")[0].split(","))
    for ours, length, expanded, squeezed in ((inputs, len(x), *theirs[4:7:2]), (kernel, len(w), *theirs[5:8:2])):
        scale = np.ones([1 if axis in ours.summed else 2 + axis for axis in range(length)])
        assert ours.laid_out(scale).shape == laid_out_by_keras(scale, ours.order, expanded, squeezed).shape


def laid_out_by_keras(scale: Any, order: list[int], expanded: list[int], squeezed: list[int]) -> Any:
    """As in Keras's EinsumDense."""
    scale = ops.transpose(scale, order)
    if expanded:
        scale = ops.expand_dims(scale, axis=expanded)
    return ops.squeeze(scale, axis=squeezed) if squeezed else scale


def test_kernels_of_two_rows_in_a_byte_give_the_numbers_of_their_release() -> None:
    fixtures = Path(__file__).parents[2] / "fixtures"
    model = layergraph.load_model(fixtures / "keras3_int4.keras")
    assert [model.get_layer(name).packed_by_rows for name in ("odd", "even", "joined")] == [True] * 3
    with np.load(fixtures / "keras3_int4.npz") as arrays:
        np.testing.assert_allclose(
            model.plan().run({"x": arrays["x"]})["joined"], arrays["output"], rtol=1e-5, atol=1e-6
        )


def test_kernels_that_later_releases_read_otherwise_are_not_saved(tmp_path: Path) -> None:
    """As Keras 3.11 to 3.13 packed them, two rows in a byte."""
    entry = keras.Input((6,))
    model = keras.Model(entry, layers.Dense(3, name="d")(entry))
    model.quantize("int4", config=Int4QuantizationConfig(block_size=None))
    model.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    ours.save(tmp_path / "again.keras")
    ours.get_layer("d").packed_by_rows = True
    with pytest.raises(ConfigError, match=r"save: layer 'd' \(Dense\) is packed as by Keras 3.11 to 3.13, which later"):
        ours.save(tmp_path / "never.keras")
    assert not (tmp_path / "never.keras").exists()
