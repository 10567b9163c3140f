"""Numbers and text to categories (keras.layers.Discretization, CategoryEncoding, Hashing, HashedCrossing)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch

from layergraph.config.options import (
    Expected,
    boolean,
    integer,
    list_of,
    nonnegative_int,
    number,
    one_of,
    option,
    optional,
    positive_int,
    short_repr,
    unicode_text,
)
from layergraph.errors import ConfigError, DataError, ElementError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import has_any
from layergraph.functional.layer import Layer
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.strings import Strings
from layergraph.functional.weights import Weights
from layergraph.initializers import Constant, Zeros
from layergraph.layers.preprocessing.encoding import MODES, encoded
from layergraph.layers.preprocessing.hashes import CROSS_KEY, fingerprint64, joined, siphash

#: Keras 2's names of output modes.
_OLDER_MODES = {"binary": "multi_hot", "tf-idf": "tf_idf"}

_UNSIGNED = 0xFFFFFFFFFFFFFFFF


def dense_only(value: Any) -> bool:
    """Validator: false, as sparse outputs aren't supported."""
    if boolean(value):
        raise Expected("false: sparse outputs are not supported")
    return False


def output_mode(*modes: str) -> Any:
    """Validator: an output mode, by its name or that of Keras 2."""
    accepted = one_of(*modes)

    def validate(value: Any) -> str:
        return accepted(_OLDER_MODES.get(value, value) if isinstance(value, str) else value)

    return validate


def salt(value: Any) -> tuple[int, int] | None:
    """Validator: the two halves of a SipHash key, one number for both, or None."""
    if value is None:
        return None
    parts = value if isinstance(value, (list, tuple)) else (value, value)
    if len(parts) != 2 or any(type(part) is not int or not -(2**63) <= part < 2**64 for part in parts):
        raise Expected("one or two 64-bit integers")
    return parts[0], parts[1]


def bucket(data: bytes, count: int, key: tuple[int, int] | None) -> int:
    """Returns the hash bucket of text, below `count` (tf.strings.to_hash_bucket_fast, or _strong with a key)."""
    return (fingerprint64(data) if key is None else siphash(data, key)) % count


def as_text(x: Any) -> Strings:
    """Converts numbers to the text that TensorFlow hashes; text is returned unchanged."""
    if isinstance(x, Strings):
        return x
    if x.is_meta:
        return Strings(tuple(x.shape))
    whole = x.to(torch.int64).cpu().numpy()
    flat = np.empty(whole.size, object)
    flat[:] = [b"%d" % item for item in whole.ravel().tolist()]
    return Strings(whole.shape, flat.reshape(whole.shape))


class _Categories(Layer):
    """A layer whose outputs are categories. Inputs aren't cast."""

    autocast = False

    def output_dtype(self) -> torch.dtype:
        """Dtype of the outputs."""
        return torch_dtype(self.compute_dtype)

    @property
    def rows_are_independent(self) -> bool:
        """False for multi_hot and count if rows are single elements: the whole batch is then one sample."""
        ranks = {len(tensor.shape) for node in self.inbound_nodes for tensor in node.input_tensors}
        return getattr(self, "output_mode", "int") in ("int", "one_hot") or min(ranks, default=2) > 1


class CategoryEncoding(_Categories):
    """Encodes categories as vectors of length `num_tokens` (keras.layers.CategoryEncoding).

    output_mode   one_hot: (...) or (..., 1) -> (..., num_tokens); multi_hot, count: (rows, n) -> (rows, num_tokens)

    The call argument `count_weights` weights each category in mode 'count'.
    """

    num_tokens: int = option(positive_int)
    output_mode: str = option(output_mode("multi_hot", "count", "one_hot"), default="multi_hot")
    sparse: bool = option(dense_only, default=False, saved=False)

    def forward(
        self, context: CallContext, w: Weights, inputs: torch.Tensor, count_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes the vectors. Raises ElementError for a category outside of 0 to num_tokens - 1."""
        if count_weights is not None and self.output_mode != "count":
            raise GraphError(f"count_weights requires output_mode 'count', got '{self.output_mode}'")
        categories = inputs.to(torch.int64)
        if has_any((categories < 0) | (categories >= self.num_tokens)):
            lowest, highest = (int(bound) for bound in torch.aminmax(categories))
            wrong = lowest if lowest < 0 else highest
            raise ElementError(
                f"layer '{self.name}' (CategoryEncoding): got category {wrong}, expected 0 to {self.num_tokens - 1}"
            )
        weights = None if count_weights is None else count_weights.to(self.output_dtype())
        return encoded(categories, self.output_mode, self.num_tokens, self.output_dtype(), weights)


class Discretization(_Categories):
    """Maps each value to the index of its bin (keras.layers.Discretization).

    bin_boundaries   boundaries of bins: n of them make n + 1 bins, which include their lower boundary
    num_bins         instead of boundaries: they are then quantiles of the `summary` stored in the file
    bin_rule         bin of a value that equals a boundary, and of NaN: the higher one, and the last, with `keras3`; the
                     lower one, and the first, with `lower` (TensorFlow 2.4) and `lower_stored` (2.5), which has the
                     boundaries, and infinity after them, as a weight
    """

    bin_boundaries: Any = option(optional(list_of(number)), default=None)
    num_bins: int | None = option(optional(nonnegative_int), default=None)
    epsilon: float = option(number, default=0.01)
    output_mode: str = option(output_mode(*MODES), default="int")
    sparse: bool = option(dense_only, default=False)
    bin_rule: str = option(one_of("keras3", "lower", "lower_stored"), default="keras3", kw_only=True, saved=False)

    regularizes_activity = False
    #: Keras 3 has its values in the config.
    storage = StorageLayout(keras2_weights=("bins",))

    def setup(self) -> None:
        """Raises ConfigError if the options don't define bins, or boundaries aren't sorted."""
        if self.bin_boundaries is None and not self.num_bins:
            raise ConfigError("Discretization: options 'bin_boundaries' and 'num_bins' are both missing, expected one")
        bounds = self.bin_boundaries or ()
        if any(b < a for a, b in itertools.pairwise(bounds)):
            raise ConfigError("Discretization: option 'bin_boundaries' is not sorted, expected increasing numbers")

    def output_dtype(self) -> torch.dtype:
        """int32 for bin indices, unless the config has an integer dtype: tf.keras's has int64, Keras 3's a float."""
        asked = super().output_dtype()
        is_int32 = asked.is_floating_point or self.bin_rule != "keras3"
        return torch.int32 if self.output_mode == "int" and is_int32 else asked

    def build(self, input_shape: Any) -> None:
        """Creates the summary of the data seen by tf.keras's `adapt`, if there are no boundaries; `bins` for 2.5."""
        if self.bin_rule == "lower_stored":
            # A layer that was never adapted has zeros.
            start = [0.0] * int(self.num_bins or 0) if self.bin_boundaries is None else [*self.bin_boundaries, math.inf]
            first = Constant(value=start)
            self.add_weight("bins", (len(start),), first, trainable=False, dtype="float32", autocast=False)
        elif self.bin_boundaries is None:
            self.add_weight("summary", (2, 0), Zeros(), trainable=False, dtype="float32", autocast=False)

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Accepts a summary of any length."""
        adapted = self.own_weights and self.bin_rule == "keras3"
        if adapted and len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][0] == 2:
            self.own_weights[0].shape = shapes[0]

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the bin indices, encoded. Raises DataError if the layer was never adapted."""
        if self.bin_rule != "keras3":
            return encoded(self._lower(w, inputs), self.output_mode, self._bins(), self.output_dtype())
        values = inputs if inputs.is_floating_point() else inputs.to(torch.float32)
        if self.bin_boundaries is not None:
            bounds = torch.tensor(self.bin_boundaries, dtype=values.dtype, device=values.device)
        elif values.is_meta:
            bounds = values.new_empty((self._bins() - 1,))
        else:
            bounds = torch.from_numpy(self._quantiles(w.summary.cpu().numpy())).to(values.device, values.dtype)
        places = torch.bucketize(values, bounds, right=True)
        return encoded(places, self.output_mode, self._bins(), self.output_dtype())

    def _lower(self, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """The bins by float32 numbers, as TensorFlow's BoostedTreesBucketize finds them."""
        values = inputs.to(torch.float32)
        if self.bin_rule == "lower":
            ends = torch.tensor([*(self.bin_boundaries or ()), math.inf], dtype=torch.float32, device=values.device)
        else:
            ends = w.bins
        # The last number only ends the last bin, whatever it is.
        places = torch.bucketize(values, ends).clamp(max=ends.shape[0] - 1)
        return torch.where(values.isnan(), 0, places)

    def _bins(self) -> int:
        return int(self.num_bins or 0) if self.bin_boundaries is None else len(self.bin_boundaries) + 1

    def _quantiles(self, summary: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns boundaries of bins with equal numbers of values (Keras's get_bin_boundaries)."""
        if not summary.size:
            raise DataError(f"layer '{self.name}' (Discretization): has no bins, expected a layer adapted to data")
        share = 1.0 / self._bins()
        if summary.shape[1] * share < 1:
            return summary[0, :-1]
        total = summary[1].cumsum()
        places = np.interp(share + np.arange(0.0, 1.0, share), total / total[-1], summary[0])
        return np.asarray(places[:-1], np.float32)

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config; `trainable` is left out, since Keras's constructor doesn't accept it."""
        config = super().get_config()
        del config["trainable"]
        if self.bin_rule == "lower_stored" and self.own_weights:
            config |= {"bin_boundaries": self.own_weights[0].numpy()[:-1].tolist(), "num_bins": None}
        return config


def _mask_value(value: Any) -> Any:
    if value is None:
        return value
    return unicode_text(value) if isinstance(value, str) else integer(value)


class Hashing(_Categories):
    """Maps each value to its hash bucket (keras.layers.Hashing).

    Text is hashed as is, integers as decimal digits, other numbers truncated to integers.

    num_bins     number of buckets
    mask_value   the value mapped to bucket 0, which is then reserved for it
    salt         key of SipHash, two integers or one for both; without it FarmHash is used
    """

    num_bins: int = option(positive_int)
    mask_value: Any = option(_mask_value, default=None)
    salt: Any = option(salt, default=None)
    output_mode: str = option(output_mode(*MODES), default="int")
    sparse: bool = option(dense_only, default=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Bucket indices are integers by default.
        if kwargs.get("dtype") is None and (args[3] if len(args) > 3 else kwargs.get("output_mode", "int")) == "int":
            kwargs["dtype"] = "int64"
        super().__init__(*args, **kwargs)

    def setup(self) -> None:
        """Raises ConfigError if the dtype of bucket indices isn't int32 or int64."""
        if self.output_mode == "int" and self.compute_dtype not in ("int32", "int64"):
            raise ConfigError(f"Hashing: option 'dtype' is '{self.compute_dtype}', expected 'int32' or 'int64'")

    def forward(self, context: CallContext, w: Weights, inputs: Any) -> torch.Tensor:
        if self.output_mode == "one_hot" and inputs.ndim > 1 and inputs.shape[-1] == 1:
            inputs = inputs.reshape(*inputs.shape[:-1])
        hashed, mask = as_text(inputs), self._mask(inputs)
        if hashed.is_meta:
            places = torch.empty(hashed.shape, dtype=torch.int64, device="meta")
        else:
            places = self._places(inputs, hashed, mask)
        return encoded(places, self.output_mode, self.num_bins, self.output_dtype())

    def _mask(self, inputs: Any) -> bytes | int | None:
        """Returns the mask value as the inputs have it; None for none. Raises ConfigError if they can't."""
        if self.mask_value is None or self.num_bins == 1:
            return None
        if isinstance(inputs, Strings):
            return str(self.mask_value).encode()
        try:
            return integer(int(self.mask_value))
        except (ValueError, Expected):
            raise ConfigError(
                f"Hashing: option 'mask_value' is {short_repr(self.mask_value)}, "
                "expected an integer for inputs of numbers"
            ) from None

    def _places(self, inputs: Any, hashed: Strings, mask: bytes | int | None) -> torch.Tensor:
        count = self.num_bins - (mask is not None)
        places = torch.from_numpy(hashed.numbers(lambda item: bucket(item, count, self.salt)))
        if mask is None:
            return places
        skipped = torch.from_numpy(inputs.values == mask) if isinstance(inputs, Strings) else (inputs == mask).cpu()
        return torch.where(skipped, 0, places + 1)


class HashedCrossing(_Categories):
    """Maps a combination of values to its hash bucket (keras.layers.HashedCrossing).

    Takes a list of tensors of equal shapes, (rows,) or (rows, 1), of text or integers.
    """

    num_bins: int = option(positive_int)
    output_mode: str = option(output_mode("int", "one_hot"), default="int")
    sparse: bool = option(dense_only, default=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Bucket indices are integers by default.
        if kwargs.get("dtype") is None and (args[1] if len(args) > 1 else kwargs.get("output_mode", "int")) == "int":
            kwargs["dtype"] = "int64"
        super().__init__(*args, **kwargs)

    def forward(self, context: CallContext, w: Weights, inputs: Any) -> torch.Tensor:
        """Computes the buckets, encoded. Raises GraphError for incompatible inputs."""
        self._check(inputs)
        shape = tuple(inputs[0].shape)
        if any(x.is_meta for x in inputs):
            places = torch.empty(shape, dtype=torch.int64, device="meta")
        else:
            columns = [_fingerprints(x) for x in inputs]
            crossed = [_crossed(row) % self.num_bins for row in zip(*columns, strict=True)]
            places = torch.tensor(crossed, dtype=torch.int64).reshape(shape)
        return encoded(places, self.output_mode, self.num_bins, self.output_dtype())

    def _check(self, inputs: Any) -> None:
        what = f"layer '{self.name}' (HashedCrossing)"
        if not isinstance(inputs, (list, tuple)) or len(inputs) < 2:
            raise GraphError(f"{what}: got {type(inputs).__name__}, expected a list of two tensors or more")
        shapes = [tuple(x.shape) for x in inputs]
        if len(set(shapes)) > 1 or len(shapes[0]) not in (1, 2) or (len(shapes[0]) == 2 and shapes[0][1] != 1):
            raise GraphError(f"{what}: got shapes {shapes}, expected all (rows,) or all (rows, 1)")
        if any(not isinstance(x, Strings) and (x.is_floating_point() or x.dtype == torch.bool) for x in inputs):
            raise GraphError(f"{what}: got {[str(x.dtype) for x in inputs]}, expected text or integers")

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config; `trainable` is left out, since Keras's constructor doesn't accept it."""
        config = super().get_config()
        del config["trainable"]
        return config


def _fingerprints(x: Any) -> list[int]:
    if isinstance(x, Strings):
        return [fingerprint64(item) for item in x.values.ravel()]
    return [item & _UNSIGNED for item in x.reshape(-1).tolist()]


def _crossed(parts: tuple[int, ...]) -> int:
    result = CROSS_KEY
    for part in parts:
        result = joined(result, part)
    return result


LAYERS: dict[str, type[Layer]] = {
    "CategoryEncoding": CategoryEncoding,
    "Discretization": Discretization,
    "HashedCrossing": HashedCrossing,
    "Hashing": Hashing,
}
