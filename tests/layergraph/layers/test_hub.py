"""KerasHub's layers in Python: what their files can't test. Their numbers are compared in models/test_hub.py."""

from __future__ import annotations

from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional import runtime_assertions
from layergraph.layers.hub import (
    AlibiBias,
    CachedMultiHeadAttention,
    MaskedLMHead,
    PositionEmbedding,
    ReversibleEmbedding,
    RotaryEmbedding,
    TokenAndPositionEmbedding,
    TransformerDecoder,
    TransformerEncoder,
)
from layergraph.layers.hub.ranges import in_range
from layergraph.layers.hub.table import LAYERS
from oracles import assert_close


def numbers(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_names_of_the_table_are_those_of_the_classes() -> None:
    assert {name.removeprefix("keras_hub>") for name in LAYERS} == {kind.__name__ for kind in LAYERS.values()}
    assert set(layergraph.layers.hub.__all__) == {kind.__name__ for kind in LAYERS.values()}


def test_positions_outside_of_the_table_are_refused() -> None:
    layer = PositionEmbedding(5)
    assert layer(numbers(2, 5, 4)).shape == (2, 5, 4)
    for arguments, text in (
        ((numbers(2, 6, 4),), "got 6 timesteps, expected at most 5"),
        ((numbers(2, 3, 4), 3), "got 6 timesteps, expected at most 5"),
        ((numbers(2, 3, 4), 0, np.array([[0, 1, 5]] * 2)), "got position 5, expected 0 to 4"),
        ((numbers(2, 3, 4), np.array(3)), "got position 5, expected 0 to 4"),
    ):
        with pytest.raises(DataError, match=text):
            layer(*arguments)


def test_a_sequence_that_is_too_long_is_refused_by_a_model() -> None:
    x = layergraph.Input((None,), dtype="int32")
    model = layergraph.Model(x, TokenAndPositionEmbedding(9, 4, 3)(x))
    assert model.output_shape == (None, None, 3)
    with pytest.raises(DataError, match="got 5 timesteps, expected at most 4"):
        model.predict(np.zeros((2, 5), "int32"), verbose=0)


def test_masked_positions_count_from_both_ends() -> None:
    layer = MaskedLMHead(6)
    x = numbers(2, 5, 4)
    from_the_end = layer(x, np.array([[-1, 0], [-5, 2]]))
    assert_close(from_the_end.detach().numpy(), layer(x, np.array([[4, 0], [0, 2]])).detach(), 1e-6)
    with pytest.raises(DataError, match=r"layer 'masked_lm_head.*' \(MaskedLMHead\): got position 5, expected 0 to 4"):
        layer(x, np.array([[5], [0]]))


def test_a_head_of_another_vocabulary_than_its_embedding_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"option 'vocabulary_size' is 5, expected the input_dim.*which is 6"):
        MaskedLMHead(5, token_embedding=ReversibleEmbedding(6, 4))
    with pytest.raises(ConfigError, match="option 'vocabulary_size' is None"):
        MaskedLMHead()


def test_a_head_shares_the_vectors_of_its_embedding() -> None:
    embedding = ReversibleEmbedding(6, 4)
    head = MaskedLMHead(token_embedding=embedding)
    assert head(numbers(2, 5, 4), np.array([[1], [0]])).shape == (2, 1, 6)
    assert [weight for weight in head.weights if weight in embedding.weights] == embedding.weights


@pytest.mark.parametrize(
    ("layer", "arguments", "text"),
    [
        (TransformerEncoder(8, 5), (numbers(2, 3, 4),), "got 4 features, expected at least 5, one for each head"),
        (TransformerEncoder(8, 2), (numbers(2, 4),), r"got shape \(2, 4\), expected \(rows, timesteps, features\)"),
        (TransformerEncoder(8, 2), (numbers(2, 3, 4), np.ones((2, 3, 3))), r"expected \(rows, timesteps\)"),
        (RotaryEmbedding(), (numbers(2, 3, 5),), "got 5 features, expected an even number"),
        (RotaryEmbedding(sequence_axis=2), (numbers(2, 3, 4),), "sequence_axis is 2 and feature_axis -1"),
        (AlibiBias(), (numbers(2, 3, 4),), r"got scores of shape \(2, 3, 4\)"),
        (
            TransformerDecoder(8, 2, encoder_sequence_shape=(None, 3, 4)),
            (numbers(2, 3, 4),),
            "without encoder_sequence",
        ),
    ],
)
def test_what_does_not_fit_is_refused(layer: Any, arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(GraphError, match=text):
        layer(*arguments)


def test_a_decoder_is_called_with_an_encoder_always_or_never() -> None:
    layer = TransformerDecoder(8, 2)
    layer(numbers(2, 3, 4))
    with pytest.raises(GraphError, match="expected a call without encoder_sequence"):
        layer(numbers(2, 3, 4), numbers(2, 5, 4))


def test_decoding_step_by_step_with_a_cache_equals_decoding_at_once() -> None:
    layer = TransformerDecoder(8, 2)
    x = numbers(2, 4, 6)
    whole = layer(x).detach()
    cache: Any = torch.zeros(2, 2, 4, 2, 3)
    for step in range(4):
        y, cache = layer(
            x[:, step : step + 1], self_attention_cache=cache, self_attention_cache_update_index=torch.tensor(step)
        )
        assert_close(y.detach().numpy(), whole[:, step : step + 1], 1e-5)


def test_a_cache_without_an_index_is_used_as_it_is() -> None:
    layer = CachedMultiHeadAttention(2, 3)
    x, cache = numbers(2, 4, 6), numbers(2, 2, 5, 2, 3)
    outputs, same = layer(x, x, cache=cache)
    assert outputs.shape == (2, 4, 6)
    assert_close(same.numpy(), cache, 0)
    assert_close(layer(x, -x, cache=cache)[0].detach().numpy(), outputs.detach(), 0)
    with pytest.raises(GraphError, match="got a cache_update_index without a cache"):
        layer(x, x, cache_update_index=1)


def test_a_frozen_layer_has_no_trainable_weights() -> None:
    layer = TransformerEncoder(8, 2, trainable=False)
    layer(numbers(2, 3, 4))
    assert layer.trainable_weights == []
    assert not any(weight.trainable for weight in layer.weights)


def test_dropout_applies_in_training_alone() -> None:
    layer = TransformerEncoder(8, 2, dropout=0.5)
    x = numbers(2, 3, 4)
    assert_close(layer(x).detach().numpy(), layer(x).detach(), 0)
    assert not np.allclose(layer(x, training=True).detach(), layer(x, training=True).detach())


def test_there_may_be_as_many_heads_as_features() -> None:
    assert TransformerEncoder(8, 4)(numbers(2, 3, 4)).shape == (2, 3, 4)


def test_an_engine_reads_no_position_beyond_the_table() -> None:
    with runtime_assertions.recording() as holds:
        assert in_range(torch.tensor([-1, 0, 4, 5]), 5, "got").tolist() == [0, 0, 4, 4]
        assert in_range(torch.tensor([0, 4]), 5, "got").tolist() == [0, 4]
    assert [bool(one) for one in holds] == [False, True]
