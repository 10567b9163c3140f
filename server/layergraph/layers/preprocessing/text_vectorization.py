"""Text to token indices, or to vectors over a vocabulary (keras.layers.TextVectorization)."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import torch

from layergraph.config.options import (
    Expected,
    boolean,
    list_of,
    number,
    one_of,
    option,
    optional,
    positive_int,
    text,
)
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.strings import Strings
from layergraph.functional.weights import Weights
from layergraph.layers.preprocessing.categorical import dense_only, output_mode
from layergraph.layers.preprocessing.encoding import MODES
from layergraph.layers.preprocessing.lookup import StringLookup, terms

#: Characters that Keras strips. Stripping and lower-casing are limited to ASCII.
_PUNCTUATION = string.punctuation.encode("ascii")


def _widths(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return optional(positive_int)(value)
    return list_of(positive_int)(value)


def _dense(value: Any) -> bool:
    if boolean(value):
        raise Expected("false: ragged outputs are not supported")
    return False


class TextVectorization(Layer):
    """Standardizes text, (rows,) or (rows, 1), splits it into tokens, and looks them up.

    standardize              lower_and_strip_punctuation, lower, strip_punctuation, or None
    split                    whitespace, character, or None: then each element of (rows, n) is a token
    ngrams                   lengths of the n-grams made of tokens; one number means all lengths up to it
    output_mode              int: (rows, tokens), padded with 0; multi_hot, count, tf_idf: (rows, terms)
    output_sequence_length   sequences are truncated or padded to it; None means the longest of the batch
    """

    max_tokens: int | None = option(optional(positive_int), default=None)
    standardize: Any = option(
        optional(one_of("lower_and_strip_punctuation", "lower", "strip_punctuation")),
        default="lower_and_strip_punctuation",
    )
    split: Any = option(optional(one_of("whitespace", "character")), default="whitespace")
    ngrams: Any = option(_widths, default=None)
    output_mode: str = option(output_mode(*MODES, "tf_idf"), default="int")
    output_sequence_length: int | None = option(optional(positive_int), default=None)
    pad_to_max_tokens: bool = option(boolean, default=False)
    vocabulary: Any = option(optional(terms), default=None)
    idf_weights: Any = option(optional(list_of(number)), default=None)
    sparse: bool = option(dense_only, default=False)
    ragged: bool = option(_dense, default=False)
    encoding: str = option(text, default="utf-8")
    vocabulary_size: int | None = option(optional(positive_int), default=None, kw_only=True)
    has_input_vocabulary: Any = option(optional(boolean), default=None, kw_only=True, saved=False)

    autocast = False
    storage = StorageLayout(named=True, assets=("vocabulary.txt",), in_keras3_h5=False)

    def setup(self) -> None:
        """Creates the lookup. Raises ConfigError for inconsistent options."""
        if self.output_mode != "int" and self.output_sequence_length is not None:
            raise ConfigError(
                f"TextVectorization: option 'output_sequence_length' is {self.output_sequence_length}, expected None "
                f"in mode '{self.output_mode}'"
            )
        if self.output_mode == "one_hot" and self.split is not None:
            raise ConfigError(
                "TextVectorization: option 'output_mode' is 'one_hot', expected another unless 'split' is null"
            )
        self.lookup = StringLookup(
            max_tokens=self.max_tokens,
            vocabulary=self.vocabulary,
            idf_weights=self.idf_weights,
            pad_to_max_tokens=self.pad_to_max_tokens,
            mask_token="",
            output_mode=self.output_mode,
            vocabulary_size=self.vocabulary_size,
            name="string_lookup",
        )
        self.lookup.user = self
        self.sublayers["_lookup_layer"] = self.lookup

    @property
    def rows_are_independent(self) -> bool:
        """False if sequences have no fixed length: they are padded to the longest of the batch."""
        return self.output_mode != "int" or self.output_sequence_length is not None or self.split is None

    def set_vocabulary(self, vocabulary: Any) -> None:
        """Sets the vocabulary. Raises ConfigError if it is empty, too long, or has a repeated term."""
        self.lookup.set_vocabulary(vocabulary)

    def load_asset(self, name: str, content: bytes) -> None:
        """Sets the vocabulary from a file's asset. Raises ConfigError if it is invalid."""
        self.lookup.load_asset(name, content)

    def build(self, input_shape: Any) -> None:
        """Creates the weights of the terms in mode 'tf_idf', which files store twice."""
        self.lookup.build(input_shape)
        self.lookup.built = True
        self.own_weights = list(self.lookup.own_weights)

    # Computation.

    def forward(self, context: CallContext, w: Weights, inputs: Any) -> torch.Tensor:
        """Returns indices or vectors. Raises GraphError unless inputs are text of a supported shape."""
        if not isinstance(inputs, Strings):
            raise GraphError(f"layer '{self.name}' (TextVectorization): got {inputs.dtype}, expected text")
        shape = inputs.shape
        if self.split is not None and len(shape) > 1:
            if shape[-1] != 1:
                raise GraphError(
                    f"layer '{self.name}' (TextVectorization): got shape {shape}, expected (rows,) or (rows, 1)"
                )
            shape = shape[:-1]
        if len(shape) > 2 or (self.split is not None and len(shape) != 1):
            raise GraphError(f"layer '{self.name}' (TextVectorization): got shape {inputs.shape}, expected (rows, n)")
        if inputs.is_meta:
            # The number of tokens is known in execution only.
            unknown = self.split is not None or self.ngrams
            length = context.symbolic_dims.length if unknown and context.symbolic_dims is not None else shape[-1]
            return self._encoded(w, torch.empty((shape[0], length), dtype=torch.int64, device="meta"))
        self.lookup.check_known()
        rows = [self._tokens(row) for row in inputs.values.reshape(shape[0], *(shape[1:] or (1,))).tolist()]
        longest = max(map(len, rows), default=0)
        # Index -1 means no token: it becomes 0 in sequences and doesn't count in vectors.
        places = torch.full((len(rows), longest), -1, dtype=torch.int64)
        for i, row in enumerate(rows):
            places[i, : len(row)] = torch.tensor([self.lookup.place(token) for token in row], dtype=torch.int64)
        return self._encoded(w, places)

    def _encoded(self, w: Weights, places: torch.Tensor) -> torch.Tensor:
        if self.output_mode != "int":
            return self.lookup.encoded(w["_lookup_layer"], places)
        length = self.output_sequence_length
        if length is not None:
            missing = max(0, length - places.shape[1])
            places = torch.nn.functional.pad(places[:, :length], (0, missing), value=-1)
        return places.clamp(min=0)

    def _tokens(self, row: list[bytes]) -> list[bytes]:
        """Returns the tokens of one row."""
        pieces = [self._standardized(piece) for piece in row]
        if self.split == "whitespace":
            pieces = [token for piece in pieces for token in piece.split()]
        elif self.split == "character":
            pieces = [letter.encode("utf-8") for piece in pieces for letter in piece.decode("utf-8", "replace")]
        if self.ngrams is None:
            return pieces
        widths = range(1, self.ngrams + 1) if isinstance(self.ngrams, int) else self.ngrams
        return [gram for width in widths for gram in _ngrams(pieces, width)]

    def _standardized(self, piece: bytes) -> bytes:
        if self.standardize in ("lower", "lower_and_strip_punctuation"):
            piece = piece.lower()
        if self.standardize in ("strip_punctuation", "lower_and_strip_punctuation"):
            piece = piece.translate(None, _PUNCTUATION)
        return piece

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        looked_up = self.lookup.get_config()
        return {**config, **{key: looked_up[key] for key in ("vocabulary", "idf_weights", "vocabulary_size")}}


def _ngrams(tokens: list[bytes], width: int) -> Iterator[bytes]:
    """Yields all sequences of `width` consecutive tokens, joined by spaces."""
    return (b" ".join(tokens[i : i + width]) for i in range(len(tokens) - width + 1))


LAYERS: dict[str, type[Layer]] = {"TextVectorization": TextVectorization}
