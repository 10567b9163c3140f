"""Dtype policies: layers compute, and store their weights, in the same dtypes as in stock Keras."""

from __future__ import annotations

from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph.config.options import Expected
from layergraph.errors import DataError
from layergraph.functional import dtypes
from layergraph.functional.dtypes import any_dtype_policy, dtype_policy
from layergraph.layers.table import LAYERS
from oracles import flat, keras, perturb, random_arrays, with_meaning

#: Keras can't create orthogonal initial values in half precision.
GLOROT = {"recurrent_initializer": "glorot_uniform"}
#: Class, options, shapes of the inputs, arguments of the call.
LAYERS_AND_SHAPES: list[tuple[str, dict[str, Any], list[tuple[int, ...]], dict[str, Any]]] = [
    ("Dense", {"units": 3, "activation": "softmax"}, [(2, 4)], {}),
    ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": [5, 3], "bias_axes": "d"}, [(2, 5, 4)], {}),
    ("Conv2D", {"filters": 3, "kernel_size": 2}, [(2, 5, 5, 2)], {}),
    ("Conv1DTranspose", {"filters": 3, "kernel_size": 2}, [(2, 5, 2)], {}),
    ("DepthwiseConv2D", {"kernel_size": 2}, [(2, 5, 5, 2)], {}),
    ("SeparableConv1D", {"filters": 3, "kernel_size": 2}, [(2, 5, 2)], {}),
    ("LSTM", {"units": 3, "return_sequences": True, **GLOROT}, [(2, 5, 4)], {}),
    ("GRU", {"units": 3, **GLOROT}, [(2, 5, 4)], {}),
    ("SimpleRNN", {"units": 3, **GLOROT}, [(2, 5, 4)], {}),
    ("BatchNormalization", {}, [(2, 5, 4)], {}),
    ("LayerNormalization", {}, [(2, 5, 4)], {}),
    ("GroupNormalization", {"groups": 2}, [(2, 5, 4)], {}),
    ("UnitNormalization", {}, [(2, 5, 4)], {}),
    ("RMSNormalization", {}, [(2, 5, 4)], {}),
    ("Normalization", {}, [(2, 5, 4)], {}),
    ("Rescaling", {"scale": 0.5}, [(2, 5, 4)], {}),
    ("Resizing", {"height": 3, "width": 3}, [(2, 5, 4, 2)], {}),
    ("CenterCrop", {"height": 3, "width": 3}, [(2, 5, 4, 2)], {}),
    ("RandomFlip", {}, [(2, 5, 4, 2)], {}),
    ("Softmax", {}, [(2, 5, 4)], {}),
    ("PReLU", {}, [(2, 5, 4)], {}),
    ("Activation", {"activation": "gelu"}, [(2, 5, 4)], {}),
    ("Add", {}, [(2, 5, 4), (2, 5, 4)], {}),
    ("Dot", {"axes": 2}, [(2, 5, 4), (2, 5, 4)], {}),
    ("AveragePooling1D", {"pool_size": 2}, [(2, 6, 4)], {}),
    ("GlobalAveragePooling1D", {}, [(2, 6, 4)], {}),
    ("MaxPooling2D", {}, [(2, 6, 4, 2)], {}),
    ("UpSampling2D", {"interpolation": "bilinear"}, [(2, 3, 4, 2)], {}),
    ("Attention", {"use_scale": True}, [(2, 5, 4), (2, 5, 4)], {"use_causal_mask": True}),
    ("AdditiveAttention", {}, [(2, 5, 4), (2, 5, 4)], {}),
    ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3}, [(2, 5, 4), (2, 5, 4)], {"use_causal_mask": True}),
    ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3, "dropout": 0.1}, [(2, 5, 4), (2, 5, 4)], {}),
    (
        "GroupQueryAttention",
        {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 1},
        [(2, 5, 4), (2, 5, 4)],
        {},
    ),
    ("Embedding", {"input_dim": 9, "output_dim": 3}, [], {}),
    ("ReversibleEmbedding", {"input_dim": 9, "output_dim": 3}, [], {}),
    ("CategoryEncoding", {"num_tokens": 9, "output_mode": "count"}, [], {}),
    ("Discretization", {"bin_boundaries": [0.0, 3.0], "output_mode": "multi_hot"}, [], {}),
]
#: Layers that take their inputs as separate arguments.
SPREAD = ("MultiHeadAttention", "GroupQueryAttention")
TOLERANCES = {"float16": 4e-3, "bfloat16": 4e-2, "float64": 2e-6}


@pytest.mark.parametrize("policy", ["bfloat16", "float64", "mixed_float16"])
@pytest.mark.parametrize(("name", "options", "shapes", "call"), LAYERS_AND_SHAPES, ids=str)
def test_layer_computes_in_keras_types(
    name: str, options: dict[str, Any], shapes: list[tuple[int, ...]], call: dict[str, Any], policy: str
) -> None:
    if policy.startswith("mixed") and name in ("CategoryEncoding", "Discretization"):
        pytest.skip("stock Keras forgets the policy")
    arrays = random_arrays(shapes) or [np.random.default_rng(0).integers(0, 9, (2, 5)).astype("int32")]
    theirs = getattr(keras.layers, name)(**options, dtype=policy)
    symbolic = [keras.Input(a.shape[1:], dtype=a.dtype.name) for a in arrays]
    outputs = called(theirs, symbolic, call)
    perturbed(theirs)
    if name == "Normalization":
        # It keeps a second copy of its weights, in the compute dtype.
        theirs.finalize_state()
    expected = flat(called(theirs, [keras.ops.convert_to_tensor(a) for a in arrays], {**call, "training": False}))

    ours = LAYERS[name].from_config(with_meaning(theirs.get_config()))
    inputs = [layergraph.Input(a.shape[1:], dtype=a.dtype.name) for a in arrays]
    model = layergraph.Model(inputs, called(ours, inputs, call))
    for weight, other in zip(ours.weights, theirs.weights, strict=True):
        assert weight.dtype == str(other.dtype).replace("torch.", ""), weight.name
        weight.assign(other.value.detach())
    results = list(model.plan().run(dict(zip(model.input_names, arrays, strict=True))).values())
    tolerance = TOLERANCES[policy.removeprefix("mixed_")]
    for got, want, symbol, known in zip(results, expected, flat(outputs), model.outputs, strict=True):
        # Some Keras layers return another dtype than their symbolic output has.
        assert known.dtype in (str(want.dtype).removeprefix("torch."), str(symbol.dtype))
        np.testing.assert_allclose(got, want.detach().double().numpy(), rtol=tolerance, atol=tolerance)


def called(layer: Any, tensors: list[Any], call: dict[str, Any]) -> Any:
    call = {key: value for key, value in call.items() if key != "training" or type(layer).__name__ in TRAINS}
    if type(layer).__name__.replace("Grouped", "Group") in SPREAD:
        return layer(*tensors, **call)
    return layer(tensors if len(tensors) > 1 else tensors[0], **call)


#: Keras layers whose calls have an argument `training`.
TRAINS = (
    *("BatchNormalization", "LSTM", "GRU", "SimpleRNN", "RandomFlip", "Attention", "AdditiveAttention"),
    *("MultiHeadAttention", "GroupedQueryAttention"),
)


def perturbed(layer: Any) -> None:
    """Changes weights from their initial values; for bfloat16 ones via float32."""
    if any("bfloat16" in str(v.dtype) for v in layer.weights):
        for variable in layer.weights:
            variable.assign(variable.value.detach().float() + 0.1)
    else:
        perturb(layer)


def test_a_map_of_policies_has_an_end() -> None:
    def policy_map(count: int) -> dict[str, Any]:
        parts = {f"part{i}": "float16" for i in range(count)}
        return {"class_name": "DTypePolicyMap", "config": {"default_policy": "float32", "policy_map": parts}}

    assert len(any_dtype_policy(policy_map(10_000)).parts) == 10_000
    with pytest.raises(Expected, match="at most 10000 dtype policies"):
        any_dtype_policy(policy_map(10_001))


def map_of(parts: Any) -> dict[str, Any]:
    return {"class_name": "DTypePolicyMap", "config": {"default_policy": "mixed_float16", "policy_map": parts}}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("attention/query", "float64"),
        ("query", "float64"),  # relative to `attention`
        ("key", "mixed_float16"),
        ("ry", "mixed_float16"),
        ("decoder_1/dense", "bfloat16"),
        ("decoder_/dense", "bfloat16"),
        ("decoder_1/dense_2", "mixed_float16"),
        ("my_decoder_1/dense", "mixed_float16"),
        ("block/3/ffn/out", "float32"),
        ("block/ffn/", "float32"),
        ("block/ffn", "mixed_float16"),
        ("block/ff", "mixed_float16"),
        ("ffn/block/", "mixed_float16"),
        ("anything.end", "int8"),
        ("aa", "uint8"),
        ("aaa", "uint8"),
        ("a", "mixed_float16"),  # the two ends of a pattern don't overlap
    ],
)
def test_a_map_gives_the_policy_of_the_path_or_of_the_first_pattern_that_matches(path: str, name: str) -> None:
    parts = {
        "attention/query": "float64",
        "decoder_.*/dense": "bfloat16",
        "block.*ffn/.*": "float32",
        ".*.end": "int8",
        "a.*a": "uint8",
        "deco.*": "float16",
    }
    found = any_dtype_policy(map_of(parts)).at(path)
    expected = "float16" if name == "mixed_float16" and path.startswith("deco") else name
    assert (found.name, found.parts) == (expected, ())


@pytest.mark.parametrize("path", ["a.*b.*c.*d", "a+", "(a)", "a[0]", "^a", "a$", "a|b", "a{2}", "a?", "\\d", 3])
def test_no_other_expression_is_a_pattern_of_a_map(path: Any) -> None:
    with pytest.raises(Expected, match=r"with '\.\*' as the only pattern"):
        any_dtype_policy(map_of({path: "float32"}))


@pytest.mark.parametrize("parts", [None, ["float32"], "float32"])
def test_a_map_holds_policies_by_path(parts: Any) -> None:
    with pytest.raises(Expected, match="a map of at most"):
        any_dtype_policy(map_of(parts))


def test_a_map_is_written_as_it_was_read() -> None:
    written = map_of({"a": "float32", "b.*": "mixed_bfloat16"})
    assert any_dtype_policy(written).serialized() == written


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.bfloat16, "bfloat16"),
        (torch.int64, "int64"),
        ("uint8", "uint8"),
        ("string", "string"),
        (np.float32, "float32"),
        (np.dtype("int16"), "int16"),
        (float, "float64"),
        (bool, "bool"),
    ],
)
def test_element_types_have_names(value: Any, name: str) -> None:
    assert dtypes.dtype(value) == name


@pytest.mark.parametrize("value", ["float", "complex64", torch.qint8, np.dtype("O"), np.dtype("U3"), dict, 3, None])
def test_what_is_no_element_type_has_none(value: Any) -> None:
    with pytest.raises(Expected, match="the name of a dtype such as 'float32'"):
        dtypes.dtype(value)


@pytest.mark.parametrize(("dtype", "found"), [("float64", "float64"), ("float16", "float16"), ("bfloat16", "float32")])
def test_weights_are_arrays_of_their_type_but_for_the_one_that_numpy_lacks(dtype: str, found: str) -> None:
    layer = LAYERS["Dense"](2, dtype=dtype, kernel_initializer="ones")
    layer(layergraph.Input((3,)))
    assert layer.weights[0].numpy().dtype == found
    assert layer.weights[0].numpy().tolist() == [[1, 1]] * 3


def test_names_of_arrays_and_tensors() -> None:
    assert dtypes.dtype_name(np.dtype("float16")) == "float16"
    assert [dtypes.dtype_name(np.dtype(kind)) for kind in ("O", "S3", "U3", "T")] == ["string"] * 4
    assert dtypes.dtype_name(torch.float64) == "float64"
    assert dtypes.dtype_name("any") == "any"
    assert dtypes.torch_dtype("complex128") is torch.complex128
    with pytest.raises(DataError, match="dtype 'string' is not supported in computation, expected one of"):
        dtypes.torch_dtype("string")


@pytest.mark.parametrize("written", [map_of({"a": "float32"}), "int8_from_float32"])
def test_a_policy_of_one_type_is_neither_a_map_nor_quantised(written: Any) -> None:
    any_dtype_policy(written)
    with pytest.raises(Expected, match="a dtype policy without quantization such as 'float32' or 'mixed_bfloat16'"):
        dtype_policy(written)
