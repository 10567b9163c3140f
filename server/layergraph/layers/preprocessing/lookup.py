"""Vocabulary lookup (keras.layers.StringLookup, IntegerLookup)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from layergraph.config.options import (
    Expected,
    anything,
    boolean,
    is_unicode,
    list_of,
    nonnegative_int,
    number,
    one_of,
    option,
    optional,
    positive_int,
    short_repr,
    text,
)
from layergraph.errors import ConfigError, DataError, ElementError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.strings import Strings
from layergraph.functional.weights import Weights
from layergraph.layers.preprocessing.categorical import as_text, bucket, dense_only, output_mode, salt
from layergraph.layers.preprocessing.encoding import MODES, encoded

#: Terms of a vocabulary: text, or 64-bit integers.
Term = str | int


def terms(value: Any) -> tuple[Any, ...]:
    """Validator: a list of terms. A path or a URL, which Keras would open, is rejected."""
    if isinstance(value, str):
        raise Expected("a list of terms: files are never opened")
    return list_of(anything)(value.tolist() if isinstance(value, np.ndarray) else value)


def without_vocabulary(layers: Iterable[Layer]) -> list[str]:
    """Returns a text for each layer that can't look up anything."""
    return [layer.problem for layer in layers if isinstance(layer, Lookup) and layer.problem]


class Lookup(Layer):
    """A vocabulary lookup. Index 0 is the mask token's, if there is one in mode 'int'; then come `num_oov_indices`.

    max_tokens          maximum number of terms, including the reserved ones
    num_oov_indices     number of indices for values outside of the vocabulary; a hash chooses among several
    mask_token          the value for masked inputs
    oov_token           the term returned for an unknown index with `invert`
    vocabulary          the terms, with or without the reserved ones first. Files may store it as an asset
    idf_weights         weight of each term in mode 'tf_idf'
    invert              maps indices to terms
    output_mode         int, one_hot, multi_hot, count, tf_idf
    pad_to_max_tokens   makes vectors as long as `max_tokens`
    vocabulary_size     number of terms, including the reserved ones, until the vocabulary is set
    """

    max_tokens: int | None = option(optional(positive_int), default=None)
    num_oov_indices: int = option(nonnegative_int, default=1)
    mask_token: Any = option(anything, default=None)
    oov_token: Any = option(anything, default=None)
    vocabulary: Any = option(optional(terms), default=None)
    idf_weights: Any = option(optional(list_of(number)), default=None, kw_only=True)
    invert: bool = option(boolean, default=False, kw_only=True)
    output_mode: str = option(output_mode(*MODES, "tf_idf"), default="int", kw_only=True)
    sparse: bool = option(dense_only, default=False, kw_only=True)
    pad_to_max_tokens: bool = option(boolean, default=False, kw_only=True)
    oov_method: str = option(one_of("floormod", "farmhash"), default="floormod", kw_only=True)
    salt: Any = option(salt, default=None, kw_only=True)
    vocabulary_size: int | None = option(optional(positive_int), default=None, kw_only=True)
    has_input_vocabulary: Any = option(optional(boolean), default=None, kw_only=True, saved=False)

    autocast = False
    storage = StorageLayout(named=True, assets=("vocabulary.txt",), in_keras3_h5=False)
    #: Whether terms are text.
    of_text: ClassVar[bool]

    def setup(self) -> None:
        """Checks the options and sets the vocabulary, if it is given. Raises ConfigError."""
        if self.invert and self.output_mode != "int":
            raise self._wrong("output_mode", "'int' where 'invert' is set")
        if self.pad_to_max_tokens and self.max_tokens is None:
            raise self._wrong("max_tokens", "a number where 'pad_to_max_tokens' is set")
        if self.idf_weights is not None and self.output_mode != "tf_idf":
            raise self._wrong("output_mode", "'tf_idf' where 'idf_weights' are given")
        if self.vocabulary is not None and self.output_mode == "tf_idf" and self.idf_weights is None:
            raise self._wrong("idf_weights", "a number for each term in mode 'tf_idf'")
        for name in ("mask_token", "oov_token"):
            if getattr(self, name) is not None:
                setattr(self, name, self.term(getattr(self, name)))
        self._known: list[Any] | None = None
        #: The layer that errors name.
        self.user: Layer = self
        if self.vocabulary is not None:
            self.set_vocabulary(self.vocabulary)

    def _wrong(self, name: str, expected: str) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__}: option '{name}' is {short_repr(getattr(self, name))}, expected {expected}"
        )

    # The vocabulary.

    def term(self, value: Any) -> Term:
        """Validates one term. Raises ConfigError."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")

    @property
    def reserved(self) -> list[Any]:
        """Terms at the indices before those of the vocabulary."""
        masks = int(self.mask_token is not None and self.output_mode == "int")
        return [self.mask_token] * masks + [self.oov_token] * self.num_oov_indices

    @property
    def oov_start(self) -> int:
        """First index for values outside of the vocabulary."""
        return len(self.reserved) - self.num_oov_indices

    def set_vocabulary(self, vocabulary: Sequence[Any]) -> None:
        """Sets the vocabulary. Raises ConfigError if it is empty, too long, or has a repeated term."""
        given = [self.term(value) for value in vocabulary]
        reserved = self.reserved
        with_reserved = given[: len(reserved)] == reserved
        known = given[len(reserved) :] if with_reserved else given
        what = f"{type(self).__name__}: option 'vocabulary'"
        if not given:
            raise ConfigError(f"{what} is empty, expected terms")
        distinct = set(known)
        if len(distinct) < len(known):
            raise ConfigError(f"{what} has a repeated term, expected each once")
        for token in (self.mask_token, self.oov_token if self.invert else None):
            if token is not None and token in distinct:
                raise ConfigError(f"{what} has {token!r} among the terms, expected this reserved term before them")
        size = len(reserved) + len(known)
        if self.max_tokens is not None and size > self.max_tokens:
            raise ConfigError(f"{what} has {size} terms, expected at most {self.max_tokens}, which is max_tokens")
        if self._known is None and self.vocabulary is None and self.vocabulary_size not in (None, size):
            raise ConfigError(f"{what} has {size} terms, expected {self.vocabulary_size}, which is vocabulary_size")
        if self.idf_weights is not None and len(self.idf_weights) != len(given):
            found = len(self.idf_weights)
            raise ConfigError(f"{type(self).__name__}: option 'idf_weights' has {found} numbers, expected {len(given)}")
        self._known, self._idf_for_reserved = known, with_reserved
        self.vocabulary, self.vocabulary_size = tuple(given), size
        self.index(known, len(reserved))

    def index(self, known: list[Any], start: int) -> None:
        """Builds the index of the terms; the first has index `start`."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")

    def load_asset(self, name: str, content: bytes) -> None:
        """Sets the vocabulary from a file's asset. Raises ConfigError if it is invalid."""
        if self._known is not None:
            return
        what = f"{type(self).__name__}: '{name}'"
        try:
            # Keras on Windows ends lines by two characters.
            lines = content.decode().replace("\r\n", "\n").split("\n")
        except UnicodeDecodeError:
            raise ConfigError(f"{what} isn't UTF-8 text") from None
        # The last term may be the empty string, and the last line may lack its newline: the number of terms decides.
        while lines and not lines[-1] and len(lines) > (self.vocabulary_size or 0):
            lines.pop()
        if self.vocabulary_size is not None and len(lines) > self.vocabulary_size:
            text = f"expected {self.vocabulary_size}, which is vocabulary_size; a term with a line break can't be read"
            raise ConfigError(f"{what} has {len(lines)} lines, {text}")
        self.set_vocabulary([self.term_of_line(line) for line in lines])

    def term_of_line(self, line: str) -> Term:
        """Returns a term from its line in a file. Raises ConfigError."""
        return self.term(line)

    # Weights.

    @property
    def depth(self) -> int:
        """Length of the vectors. Raises GraphError if it isn't known."""
        size = self.max_tokens if self.pad_to_max_tokens else self.vocabulary_size
        if size is None:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): has no vocabulary, which vectors' length depends on"
            )
        return size

    def build(self, input_shape: Any) -> None:
        """Creates the weights of the terms in mode 'tf_idf'."""
        if self.output_mode == "tf_idf":
            self.add_weight("idf_weights", (self.depth,), self._idf, trainable=False, dtype="float32", autocast=False)

    def _idf(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        weights = np.zeros(shape, np.float32)
        if self.idf_weights is not None:
            start = 0 if self._idf_for_reserved else len(self.reserved)
            # Unknown terms have no document frequency: Keras uses the mean weight.
            weights[:start] = np.mean(self.idf_weights)
            weights[start : start + len(self.idf_weights)] = self.idf_weights
        return torch.from_numpy(weights).to(dtype)

    # Computation.

    @property
    def problem(self) -> str:
        """Why nothing can be looked up: empty if a vocabulary was set."""
        if self._known is not None:
            return ""
        return (
            f"layer '{self.user.name}' ({type(self.user).__name__}): has no vocabulary; an .h5 holds none that was "
            "adapted, a .keras does"
        )

    def check_known(self) -> None:
        """Raises DataError if no vocabulary was set."""
        if self.problem:
            raise DataError(self.problem)

    def forward(self, context: CallContext, w: Weights, inputs: Any) -> Any:
        """Returns indices, vectors over the vocabulary, or terms. Raises ElementError for a value without an index."""
        if isinstance(inputs, Strings) is not (self.of_text and not self.invert):
            expected = "text" if self.of_text and not self.invert else "integers"
            raise GraphError(f"layer '{self.name}' ({type(self).__name__}): got {inputs.dtype}, expected {expected}")
        if self.invert:
            return self.looked_back(inputs)
        if inputs.is_meta:
            places = torch.empty(tuple(inputs.shape), dtype=torch.int64, device="meta")
        else:
            self.check_known()
            places = self.places(inputs)
        return self.encoded(w, places)

    def encoded(self, w: Weights, places: torch.Tensor) -> torch.Tensor:
        """Returns indices in the layer's output mode; negative ones don't count."""
        if self.output_mode == "int":
            return places.to(torch.int32 if self.compute_dtype == "int32" else torch.int64)
        dtype = torch_dtype(self.compute_dtype) if self.compute_dtype.startswith(("float", "bfloat")) else torch.float32
        if self.output_mode != "tf_idf":
            return encoded(places, self.output_mode, self.depth, dtype)
        idf: torch.Tensor = w.idf_weights
        return (encoded(places, "count", self.depth, torch.float32) * idf).to(dtype)

    def places(self, inputs: Any) -> torch.Tensor:
        """Returns the index of each value, -1 for masked ones if the outputs are vectors."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")

    def looked_back(self, inputs: torch.Tensor) -> Any:
        """Returns the term of each index."""
        raise NotImplementedError(f"{type(self).__name__} has no terms")

    def terms_at(self, places: torch.Tensor) -> list[Any]:
        """Returns the terms at indices, in flat order; `oov_token` for unknown ones."""
        self.check_known()
        table = [*self.reserved, *(self._known or ())]
        return [table[i] if 0 <= i < len(table) else self.oov_token for i in places.reshape(-1).tolist()]

    def no_place(self, value: Any) -> ElementError:
        """Returns the error for a value without an index."""
        return ElementError(
            f"layer '{self.name}' ({type(self).__name__}): got {short_repr(value)}, expected a term of the vocabulary, "
            "because num_oov_indices is 0"
        )

    def option_value(self, name: str) -> Any:
        """Returns the option; `idf_weights` loaded from a file as weights are returned, too."""
        if name == "idf_weights" and self.idf_weights is None and self.own_weights and self.vocabulary is not None:
            return self.own_weights[0].numpy()[: len(self.vocabulary)].tolist()
        return super().option_value(name)


class StringLookup(Lookup):
    """Maps text to indices of a vocabulary, or back (keras.layers.StringLookup). Terms are returned as UTF-8."""

    oov_token: Any = option(anything, default="[UNK]")
    vocabulary: Any = option(optional(terms), default=None)
    encoding: str = option(text, default="utf-8", kw_only=True)

    of_text = True

    def term(self, value: Any) -> Term:
        """Validates text that UTF-8 can encode. Raises ConfigError."""
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not isinstance(value, str) or not is_unicode(value):
            raise ConfigError(f"{type(self).__name__}: option 'vocabulary' holds {short_repr(value)}, expected text")
        return value

    def index(self, known: list[Any], start: int) -> None:
        """Builds the index of the terms."""
        self._indices = {term.encode("utf-8"): start + i for i, term in enumerate(known)}

    def places(self, inputs: Strings) -> torch.Tensor:
        """Returns the index of each string."""
        return torch.from_numpy(inputs.numbers(self.place))

    def place(self, item: bytes) -> int:
        """Returns the index of one string."""
        if self.mask_token is not None and item == self.mask_token.encode("utf-8"):
            return 0 if self.output_mode == "int" else -1
        found = self._indices.get(item)
        if found is not None:
            return found
        if not self.num_oov_indices:
            raise self.no_place(item.decode("utf-8", "replace"))
        return self.oov_start + (bucket(item, self.num_oov_indices, self.salt) if self.num_oov_indices > 1 else 0)

    def looked_back(self, inputs: torch.Tensor) -> Any:
        """Returns the term of each index."""
        shape = tuple(inputs.shape)
        if inputs.is_meta:
            return Strings(shape)
        found = self.terms_at(inputs.to(torch.int64))
        return Strings.of(np.array([*found, None], object)[:-1].reshape(shape))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["oov_method"]
        return config


class IntegerLookup(Lookup):
    """Maps integers to indices of a vocabulary, or back (keras.layers.IntegerLookup).

    oov_method   how an index for unknown values is chosen among several: 'floormod' by remainder, 'farmhash' by hash
    """

    oov_token: Any = option(anything, default=-1)
    vocabulary: Any = option(optional(terms), default=None)
    vocabulary_dtype: str = option(one_of("int64", "int32"), default="int64", kw_only=True)

    of_text = False

    def setup(self) -> None:
        """Checks the options and sets the vocabulary, if it is given. Raises ConfigError."""
        if self.salt is not None and self.oov_method != "farmhash":
            raise self._wrong("salt", "None unless 'oov_method' is 'farmhash'")
        super().setup()

    def term(self, value: Any) -> Term:
        """Validates a 64-bit integer. Raises ConfigError."""
        if isinstance(value, np.integer):
            value = int(value)
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise ConfigError(
                f"{type(self).__name__}: option 'vocabulary' holds {short_repr(value)}, expected integers"
            )
        return value

    def term_of_line(self, line: str) -> Term:
        """Returns an integer from its line in a file. Raises ConfigError."""
        try:
            return self.term(int(line[:32]))
        except ValueError:
            raise ConfigError(
                f"{type(self).__name__}: its vocabulary holds {short_repr(line)}, expected integers"
            ) from None

    def index(self, known: list[Any], start: int) -> None:
        """Builds the index of the terms."""
        self._sorted, order = torch.sort(torch.tensor(known, dtype=torch.int64))
        self._order = order + start

    def places(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the index of each integer."""
        values = inputs.to(torch.int64).cpu()
        nearest = torch.searchsorted(self._sorted, values).clamp(max=len(self._sorted) - 1)
        found = self._sorted[nearest] == values
        places = torch.where(found, self._order[nearest], self._unknown_places(values, found))
        if self.mask_token is None:
            return places
        return torch.where(values == self.mask_token, 0 if self.output_mode == "int" else -1, places)

    def _unknown_places(self, values: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        if self.num_oov_indices == 1:
            return torch.full_like(values, self.oov_start)
        if self.num_oov_indices:
            if self.oov_method == "floormod":
                return torch.remainder(values, self.num_oov_indices) + self.oov_start
            hashed = as_text(values).numbers(lambda item: bucket(item, self.num_oov_indices, self.salt))
            return torch.from_numpy(hashed) + self.oov_start
        masked = torch.zeros_like(found) if self.mask_token is None else values == self.mask_token
        unknown = ~(found | masked)
        if unknown.any():
            raise self.no_place(int(values[unknown][0]))
        return torch.zeros_like(values)

    def looked_back(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the integer of each index."""
        if inputs.is_meta:
            return inputs.to(torch.int64)
        return torch.tensor(self.terms_at(inputs.to(torch.int64)), dtype=torch.int64).reshape(inputs.shape)


LAYERS: dict[str, type[Layer]] = {
    "IntegerLookup": IntegerLookup,
    "StringLookup": StringLookup,
}
