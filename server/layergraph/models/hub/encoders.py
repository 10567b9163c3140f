"""Encoders of text (keras_hub.models: BERT, ALBERT, ELECTRA, RoBERTa, XLM-RoBERTa, DistilBERT, FNet)."""

from __future__ import annotations

from typing import Any

from layergraph.config.options import fraction, option, positive_int
from layergraph.config.spec import MAX_LAYERS
from layergraph.errors import ConfigError
from layergraph.functional.input import Input
from layergraph.functional.tensor import Tensor
from layergraph.initializers import Initializer, RandomNormal, TruncatedNormal
from layergraph.layers import Add, Dense, Dropout, Embedding, LayerNormalization
from layergraph.layers import ReversibleEmbedding as TokenEmbedding
from layergraph.layers.activation_functions import gelu_approximate
from layergraph.layers.hub import FNetEncoder, PositionEmbedding, TokenAndPositionEmbedding, TransformerEncoder
from layergraph.models.hub.architecture import Architecture, Ends, layer_count


def small_values() -> Initializer:
    """Initial values of most kernels in these models."""
    return TruncatedNormal(stddev=0.02)


def small_normal_values() -> Initializer:
    """Initial values of FNet's kernels and biases."""
    return RandomNormal(stddev=0.02)


class _TextEncoder(Architecture):
    """Inputs are integers (rows, timesteps): `token_ids`, for most classes `padding_mask` (1 for tokens, 0 for
    padding) and for some `segment_ids`.
    """

    num_layers: int = option(layer_count, kw_only=True)
    hidden_dim: int = option(positive_int, kw_only=True)
    intermediate_dim: int = option(positive_int, kw_only=True)
    dropout: float = option(fraction, default=0.1, kw_only=True)
    max_sequence_length: int = option(positive_int, default=512, kw_only=True)

    def dense(self, name: str, initial: Any, **options: Any) -> Dense:
        """A dense layer with hidden_dim outputs."""
        return Dense(self.hidden_dim, kernel_initializer=initial(), dtype=self.dtype, name=name, **options)

    def normalized(self, x: Tensor, epsilon: float) -> Tensor:
        """Normalizes the embeddings."""
        norm = LayerNormalization(epsilon=epsilon, dtype=self.dtype, name="embeddings_layer_norm")
        made: Tensor = norm(x)
        return made

    def thinned(self, x: Tensor) -> Tensor:
        """Applies dropout to the embeddings."""
        made: Tensor = Dropout(self.dropout, dtype=self.dtype, name="embeddings_dropout")(x)
        return made


class _Transformer(_TextEncoder):
    """An encoder whose blocks are those of a transformer."""

    num_heads: int = option(positive_int, kw_only=True)

    def encoder(self, name: str, chosen: Any, epsilon: float) -> TransformerEncoder:
        """A block of the transformer."""
        return TransformerEncoder(
            self.intermediate_dim,
            self.num_heads,
            dropout=self.dropout,
            activation=chosen,
            layer_norm_epsilon=epsilon,
            kernel_initializer=small_values(),
            dtype=self.dtype,
            name=name,
        )


def _ids(name: str) -> Tensor:
    return Input(shape=(None,), dtype="int32", name=name)


class _SegmentedEncoder(_TextEncoder):
    """An encoder of two texts at once, told apart by `segment_ids`. Outputs: `sequence_output` (rows, timesteps,
    hidden_dim) and `pooled_output` (rows, hidden_dim), of the first token.
    """

    num_segments: int = option(positive_int, default=2, kw_only=True)

    def embedded(self, size: int, features: int, initial: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Creates the inputs, for a vocabulary of this size, and their embeddings with `features` features."""
        dtype = self.dtype
        inputs = {name: _ids(name) for name in ("token_ids", "segment_ids")}
        tokens = TokenEmbedding(size, features, embeddings_initializer=initial(), dtype=dtype, name="token_embedding")(
            inputs["token_ids"]
        )
        places = PositionEmbedding(
            self.max_sequence_length, initializer=initial(), dtype=dtype, name="position_embedding"
        )(tokens)
        segments = Embedding(
            self.num_segments, features, embeddings_initializer=initial(), dtype=dtype, name="segment_embedding"
        )(inputs["segment_ids"])
        total = Add(dtype=dtype, name="embeddings_add")([tokens, places, segments])
        return inputs, self.normalized(total, 1e-12)

    def pooled(self, x: Tensor, initial: Any, **options: Any) -> dict[str, Tensor]:
        """The outputs, for the results of the last block."""
        first = x[:, 0, :]
        return {
            "sequence_output": x,
            "pooled_output": self.dense("pooled_dense", initial, activation="tanh", **options)(first),
        }


class BertBackbone(_Transformer, _SegmentedEncoder):
    """BERT (Devlin et al., 2018; keras_hub.models.BertBackbone)."""

    vocabulary_size: int = option(positive_int, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        inputs, x = self.embedded(self.vocabulary_size, self.hidden_dim, small_values)
        inputs["padding_mask"] = _ids("padding_mask")
        x = self.thinned(x)
        for i in range(self.num_layers):
            block = self.encoder(f"transformer_layer_{i}", gelu_approximate, 1e-12)
            x = block(x, padding_mask=inputs["padding_mask"])
        return inputs, self.pooled(x, small_values)


class ElectraBackbone(_Transformer, _SegmentedEncoder):
    """ELECTRA (Clark et al., 2020; keras_hub.models.ElectraBackbone).

    embedding_dim   number of features of the embeddings, which are projected to hidden_dim if it differs
    """

    vocab_size: int = option(positive_int, kw_only=True)
    embedding_dim: int = option(positive_int, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        inputs, x = self.embedded(self.vocab_size, self.embedding_dim, small_values)
        inputs["padding_mask"] = _ids("padding_mask")
        x = self.thinned(x)
        if self.hidden_dim != self.embedding_dim:
            x = self.dense("embeddings_projection", small_values)(x)
        for i in range(self.num_layers):
            block = self.encoder(f"transformer_layer_{i}", gelu_approximate, 1e-12)
            x = block(x, padding_mask=inputs["padding_mask"])
        return inputs, self.pooled(x, small_values)


class AlbertBackbone(_Transformer, _SegmentedEncoder):
    """ALBERT: groups of blocks, each called several times in turn (Lan et al., 2019; keras_hub.models.AlbertBackbone).

    num_layers              number of calls of groups
    num_inner_repetitions   number of blocks in a group
    """

    vocabulary_size: int = option(positive_int, kw_only=True)
    embedding_dim: int = option(positive_int, kw_only=True)
    num_groups: int = option(positive_int, default=1, kw_only=True)
    num_inner_repetitions: int = option(positive_int, default=1, kw_only=True)
    dropout: float = option(fraction, default=0.0, kw_only=True)

    def setup(self) -> None:
        """Raises ConfigError if the calls can't be divided evenly among the groups, or are too many."""
        if self.num_layers % self.num_groups or self.num_layers * self.num_inner_repetitions > MAX_LAYERS:
            raise ConfigError(
                f"AlbertBackbone: options num_layers, num_groups, num_inner_repetitions are {self.num_layers}, "
                f"{self.num_groups}, {self.num_inner_repetitions}, expected a multiple of num_groups and at most "
                f"{MAX_LAYERS} calls of blocks"
            )

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        inputs, x = self.embedded(self.vocabulary_size, self.embedding_dim, small_values)
        inputs["padding_mask"] = _ids("padding_mask")
        x = self.dense("embedding_projection", small_values)(self.thinned(x))
        for i in range(self.num_groups):
            names = [f"group_{i}_inner_layer_{inner}" for inner in range(self.num_inner_repetitions)]
            group = [self.encoder(name, gelu_approximate, 1e-12) for name in names]
            for block in group * (self.num_layers // self.num_groups):
                x = block(x, padding_mask=inputs["padding_mask"])
        return inputs, self.pooled(x, small_values)


class FNetBackbone(_SegmentedEncoder):
    """FNet (Lee-Thorp et al., 2021; keras_hub.models.FNetBackbone). It has no `padding_mask`."""

    vocabulary_size: int = option(positive_int, kw_only=True)
    num_segments: int = option(positive_int, default=4, kw_only=True)

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        biases = {"bias_initializer": small_normal_values()}
        inputs, x = self.embedded(self.vocabulary_size, self.hidden_dim, small_normal_values)
        x = self.thinned(self.dense("embedding_projection", small_normal_values, **biases)(x))
        for i in range(self.num_layers):
            x = FNetEncoder(
                self.intermediate_dim,
                dropout=self.dropout,
                activation=gelu_approximate,
                layer_norm_epsilon=1e-12,
                kernel_initializer=small_normal_values(),
                bias_initializer=small_normal_values(),
                dtype=self.dtype,
                name=f"f_net_layer_{i}",
            )(x)
        return inputs, self.pooled(x, small_normal_values, **biases)


class _PlainEncoder(_Transformer):
    """An encoder of one text. Output (rows, timesteps, hidden_dim)."""

    vocabulary_size: int = option(positive_int, kw_only=True)

    def graph_with(self, embeddings: str, epsilon: float) -> Ends:
        """Creates the layers, whose embeddings have this name, and calls them."""
        inputs = {name: _ids(name) for name in ("token_ids", "padding_mask")}
        x = TokenAndPositionEmbedding(
            self.vocabulary_size,
            self.max_sequence_length,
            self.hidden_dim,
            embeddings_initializer=small_values(),
            dtype=self.dtype,
            name=embeddings,
        )(inputs["token_ids"])
        x = self.thinned(self.normalized(x, epsilon))
        for i in range(self.num_layers):
            x = self.encoder(f"transformer_layer_{i}", "gelu", epsilon)(x, padding_mask=inputs["padding_mask"])
        return inputs, x


class RobertaBackbone(_PlainEncoder):
    """RoBERTa (Liu et al., 2019; keras_hub.models.RobertaBackbone)."""

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        return self.graph_with("embeddings", 1e-5)


class XLMRobertaBackbone(RobertaBackbone):
    """XLM-RoBERTa (Conneau et al., 2019; keras_hub.models.XLMRobertaBackbone)."""


class DistilBertBackbone(_PlainEncoder):
    """DistilBERT (Sanh et al., 2019; keras_hub.models.DistilBertBackbone)."""

    def graph(self) -> Ends:
        """Creates the layers and calls them."""
        return self.graph_with("token_and_position_embedding", 1e-12)


ENCODERS: tuple[type[Architecture], ...] = (
    AlbertBackbone,
    BertBackbone,
    DistilBertBackbone,
    ElectraBackbone,
    FNetBackbone,
    RobertaBackbone,
    XLMRobertaBackbone,
)
