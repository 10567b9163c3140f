"""Multi-head attention (keras.layers.MultiHeadAttention, GroupQueryAttention)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from layergraph.config.options import (
    anything,
    boolean,
    fraction,
    integer,
    list_of,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.constraints import constraint
from layergraph.errors import ConfigError, GraphError
from layergraph.functional import scopes
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import DTypePolicy, any_dtype_policy
from layergraph.functional.layer import Layer
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.tensor import Shape
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.attention.scores import (
    as_many_steps,
    causal_mask,
    fused_attention,
    window_mask,
    with_axes_at,
)
from layergraph.layers.core.einsum import EinsumDense, ShapedLayer, lengths
from layergraph.layers.masked_softmax import masked_softmax
from layergraph.layers.quantized.equations import QuantizedEinsumDense
from layergraph.layers.quantized.stored import StoredForm, stored_quantization
from layergraph.layers.regularization import dropped
from layergraph.regularizers import regularizer

#: Options passed on to the projections.
_PROJECTION_OPTIONS = (
    *("kernel_regularizer", "bias_regularizer", "activity_regularizer"),
    *("kernel_constraint", "bias_constraint"),
)


#: Group of the gate's projection in files.
_GATE = "_gate_dense"


def _axes(value: Any) -> tuple[int, ...] | None:
    return None if value is None else list_of(integer)(value if isinstance(value, (list, tuple)) else (value,))


class ProjectedAttention(ShapedLayer):
    """Attention on projections of the inputs.

    Masks of query (rows, T), value and key (rows, S) are combined with `attention_mask` (rows, T, S) and, with
    `use_causal_mask`, the causal mask. The output has the query's mask.

    mask_rule   result for a query with no key to attend to, and what an `attention_mask` of numbers does: as in
                `keras3`, as up to Keras 3.12, 3.9 or 3.6 (`keras2`), or as in tf_keras 2.21 with
                `softmax_robust_masking`. Set from the file's version
    """

    dropout: float = option(fraction, default=0.0, kw_only=True)
    use_bias: bool = option(boolean, default=True, kw_only=True)
    sliding_window: int | None = option(optional(positive_int), default=None, kw_only=True)
    flash_attention: Any = option(optional(boolean), default=None, kw_only=True, saved=False)
    kernel_initializer: Any = option(initializer, default="glorot_uniform", kw_only=True)
    bias_initializer: Any = option(initializer, default="zeros", kw_only=True)
    kernel_regularizer: Any = option(regularizer, default=None, kw_only=True)
    bias_regularizer: Any = option(regularizer, default=None, kw_only=True)
    kernel_constraint: Any = option(constraint, default=None, kw_only=True)
    bias_constraint: Any = option(constraint, default=None, kw_only=True)
    use_gate: bool = option(boolean, default=False, kw_only=True)
    seed: Any = option(anything, default=None, kw_only=True)
    dtype: Any = option(any_dtype_policy, default=None, kw_only=True)
    mask_rule: str = option(
        one_of("keras3", "keras3.12", "keras3.9", "keras2", "robust"), default="keras3", kw_only=True, saved=False
    )

    supports_masking = True
    storage = StorageLayout(null_regularizer=True)

    #: Prefix of the projections' groups in files.
    group_prefix: ClassVar[str]
    #: Whether activity regularisation covers the layer's outputs in addition to those of the last projection.
    penalizes_outputs: ClassVar[bool] = False

    if TYPE_CHECKING:

        @property
        def attention_axes(self) -> tuple[int, ...]:
            """Axes of the query that attention is applied over."""

    def setup(self) -> None:
        """Starts without projections; `build` adds them."""
        #: By group: the options of each projection except its dtype policy, and the shape of its inputs.
        self._projections: dict[str, tuple[dict[str, Any], Shape]] = {}

    def project(
        self, group: str, name: str, equation: str, sizes: Sequence[Any], bias_axes: str, shape: Shape, **more: Any
    ) -> None:
        """Adds a projection of inputs of `shape`, stored under `group` in files."""
        options = {
            "equation": equation,
            "output_shape": list(sizes),
            "bias_axes": bias_axes if self.use_bias else None,
            "kernel_initializer": copied(self.kernel_initializer),
            "bias_initializer": copied(self.bias_initializer),
            **{key: getattr(self, key) for key in _PROJECTION_OPTIONS},
            "name": name,
            **more,
        }
        self._projections[group] = options, shape
        self._make_projection(group, self.dtype_policy.at(f"{self.name}/{name}"))

    def _make_projection(self, group: str, policy: DTypePolicy, config: Any = None) -> None:
        options, shape = self._projections[group]
        made: EinsumDense
        if policy.quantization is None:
            made = EinsumDense(**options, dtype=policy, trainable=self.trainable)
        else:
            made = QuantizedEinsumDense(**options, dtype=policy, trainable=self.trainable, quantization_config=config)
        made.build(shape)
        made.built = True
        self.sublayers[group] = made

    def quantize_as_stored(self, group: str, arrays: Mapping[str, StoredForm], config: Any) -> None:
        """Replaces a projection by the quantized one that a file's arrays, by name or position, belong to; `config` is
        the quantization config of other layers.

        Keras doesn't store how projections are quantized, and can't load such files itself.
        """
        projection = self.sublayers[group]
        found = stored_quantization(projection, arrays) if type(projection) is EinsumDense else None
        if found is not None:
            source = projection.dtype_policy
            policy = replace(source, name=f"{found.text}_from_{source.name}", quantization=found)
            with scopes.building(self):
                self._make_projection(group, policy, config)

    def check_shapes(self, query_shape: Any, value_shape: Any, key_shape: Any) -> None:
        """Raises GraphError if there is no value, a rank is below 3, or keys and values differ in number."""
        if value_shape is None or min(len(query_shape), len(value_shape), len(key_shape or value_shape)) < 3:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got query {query_shape}, value {value_shape}, "
                f"key {key_shape}, expected shapes (rows, timesteps, features)"
            )
        if key_shape is not None and not _may_be_equal(value_shape[1:-1], key_shape[1:-1]):
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got values of shape {value_shape} and keys of shape "
                f"{key_shape}, expected equal numbers of keys and values"
            )

    def forward(  # type: ignore[override]  # as every layer, it names the arguments of its calls
        self,
        context: CallContext,
        w: Weights,
        query: torch.Tensor,
        value: torch.Tensor,
        key: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        value_mask: torch.Tensor | None = None,
        key_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        """Returns the outputs and, with `return_attention_scores`, the attention weights (rows, heads, T, S)."""
        if key is not None:
            value = as_many_steps(context, value, key)
            value_mask = None if value_mask is None else as_many_steps(context, value_mask, key)
        fused = not (self.dropout or return_attention_scores or query.ndim > 3)
        masks = [
            None if mask is None else mask.bool().unsqueeze(axis)
            for mask, axis in ((query_mask, -1), (value_mask, -2), (key_mask, -2))
        ]
        if self.sliding_window is not None:
            masks.append(window_mask(query.shape[1], value.shape[1], self.sliding_window, query.device))
        causal = use_causal_mask and fused and all(mask is None for mask in (*masks, attention_mask))
        if use_causal_mask and not causal:
            masks.append(causal_mask(query.shape[1], value.shape[1], query.device))
        gate = self._projected(context, w, "gate", query) if self.use_gate else None
        queries = self._projected(context, w, "query", query)
        keys = self._projected(context, w, "key", value if key is None else key)
        values = self._projected(context, w, "value", value)
        mask = _all_of(masks)
        if attention_mask is not None:
            alone = mask is None and self._keeps_numbers(fused=fused)
            mask = attention_mask if alone else _all_of([mask, attention_mask.bool()])
        if mask is not None:
            mask = self.for_scores(mask, queries)
        if fused:
            additive = self.mask_rule == "keras2"
            attended = fused_attention(queries, keys, values, mask, causal=causal, additive=additive)
            weights = None
        else:
            attended, weights = self.attend(context, queries, keys, values, mask)
        outputs = self._projected(context, w, "output", attended if gate is None else attended * gate)
        return [outputs, weights] if return_attention_scores else outputs

    def for_scores(self, mask: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """A mask (rows, ..., T, S) with axes for those of the scores that it lacks, such as heads."""
        count = len(self.attention_axes)
        return with_axes_at(mask, queries.ndim - 1 + count, -2 * count - 1)

    def _keeps_numbers(self, *, fused: bool) -> bool:
        """Whether an `attention_mask` that is the only mask isn't cast to booleans: up to Keras 3.6."""
        return self.mask_rule == "keras2"

    def attend(
        self,
        context: CallContext,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the attended values and the weights (rows, heads, T, S), for cases that torch's kernel lacks."""
        if key.shape[-2] < query.shape[-2]:
            repeats = query.shape[-2] // key.shape[-2]
            key, value = (x.repeat_interleave(repeats, -2) for x in (key, value))
        product, combination = _attention_equations(query.ndim, self.attention_axes)
        count = len(self.attention_axes)
        scores = torch.einsum(product, key, query * (1 / math.sqrt(query.shape[-1])))
        axes = tuple(range(scores.ndim - count, scores.ndim))
        weights = masked_softmax(scores, mask, axes, rule=self.mask_rule)
        kept = dropped(context, weights, self.dropout) if context.training and self.dropout else weights
        return torch.einsum(combination, kept, value), weights

    def _projected(self, context: CallContext, w: Weights, what: str, x: torch.Tensor) -> torch.Tensor:
        group = _GATE if what == "gate" else f"{self.group_prefix}{what}_dense"
        outputs, _ = self.sublayers[group].execute(context, w[group], (x,), {}, None, want_masks=False)
        made: torch.Tensor = outputs
        return made

    def execute(
        self,
        context: CallContext,
        w: Weights,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        previous_mask: Any,
        *,
        want_masks: bool,
    ) -> tuple[Any, Any]:
        """Like any layer's, but only some layers penalize the outputs' activity in addition to the projections'."""
        outputs = self.forward(context, w, *args, **kwargs)
        if self.penalizes_outputs:
            self.penalize(context, outputs)
        return outputs, previous_mask if want_masks and self.supports_masking else None

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        policies = {f"{self.name}/{inner.name}": inner.dtype_policy for inner in self.sublayers.values()}
        parts = tuple((path, policy) for path, policy in policies.items() if policy.quantization is not None)
        return {**config, "dtype": replace(self.dtype_policy, parts=parts or self.dtype_policy.parts).serialized()}


class MultiHeadAttention(ProjectedAttention):
    """Attention with several heads, each with its own projections (keras.layers.MultiHeadAttention; Vaswani et al.,
    2017).

    key_dim          number of features of each head's queries and keys; scores are divided by its square root
    value_dim        number of features of each head's values, by default key_dim
    output_shape     number of features of the output, by default the query's
    attention_axes   axes of the query that attention is applied over, by default all but batch and features
    use_gate         multiplies the attended values by sigmoid(projection of the query)
    sliding_window   a query attends only to keys fewer timesteps away than this
    input_rule       whether later calls find the inputs' masks, and whether a given `query_mask` is used: not in
                     `keras3`, but in `keras2`
    """

    # Options of the base class that are positional here, after these; type checkers don't see the order.
    num_heads: int = option(positive_int)  # type: ignore[misc]
    key_dim: int = option(positive_int)  # type: ignore[misc]
    value_dim: int | None = option(optional(positive_int), default=None)
    dropout: float = option(fraction, default=0.0)
    use_bias: bool = option(boolean, default=True)
    output_shape: Any = option(optional(lengths), default=None)
    attention_axes: Any = option(optional(_axes), default=None)

    input_rule: str = option(one_of("keras3", "keras2"), default="keras3", kw_only=True, saved=False)

    group_prefix = ""

    def setup(self) -> None:
        super().setup()
        self.value_dim = self.value_dim or self.key_dim

    @property
    def removes_masks(self) -> bool:
        """Whether later calls don't find the inputs' masks: since Keras 3.8."""
        return bool(self.input_rule == "keras3")

    def _positional(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super()._positional(args, kwargs)
        if self.removes_masks:
            # Since 3.8, Keras uses the query's own mask and ignores the argument.
            kwargs.pop("query_mask", None)
        return args, kwargs

    def build(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None, *rest: Any) -> None:
        """Creates the projections. Raises GraphError for incompatible shapes."""
        self.check_shapes(query_shape, value_shape, key_shape)
        ranks = len(query_shape) - 1, len(value_shape) - 1
        if self.attention_axes is None:
            self.attention_axes = tuple(range(1, ranks[1]))
        self.attention_axes = tuple(axis if axis >= 0 else len(value_shape) + axis for axis in self.attention_axes)
        if any(not 0 < axis < min(ranks) for axis in self.attention_axes) or not self.attention_axes:
            raise GraphError(
                f"layer '{self.name}' (MultiHeadAttention): attention_axes is {self.attention_axes}, expected axes of "
                f"query {query_shape} and value {value_shape}, other than batch and features"
            )
        key_heads, value_heads = (self.num_heads, self.key_dim), (self.num_heads, self.value_dim)
        into, axes = _projection_equation(ranks[0], 1, 2)
        self.project("query_dense", "query", into, _free(ranks[0], key_heads), axes, query_shape)
        into, axes = _projection_equation(ranks[1], 1, 2)
        self.project("key_dense", "key", into, _free(ranks[1], key_heads), axes, key_shape or value_shape)
        if self.use_gate:
            out, out_axes = _projection_equation(ranks[0], 1, 2)
            sizes = _free(ranks[0], value_heads)
            self.project(_GATE, "gate", out, sizes, out_axes, query_shape, activation="sigmoid")
        self.project("value_dense", "value", into, _free(ranks[1], value_heads), axes, value_shape)
        wanted = self.partial_output_shape or (query_shape[-1],)
        out, axes = _projection_equation(ranks[0], 2, len(wanted))
        attended = (*query_shape[:-1], *value_heads)
        self.project("output_dense", "attention_output", out, _free(ranks[0], wanted), axes, attended)


class GroupQueryAttention(ProjectedAttention):
    """Attention with several query heads per key and value head (keras.layers.GroupQueryAttention; Ainslie et al.,
    2023).

    Query (rows, T, d), value and key (rows, S, d).
    """

    head_dim: int = option(positive_int)
    num_query_heads: int = option(positive_int)
    num_key_value_heads: int = option(positive_int)

    group_prefix = "_"
    penalizes_outputs = True
    attention_axes = (1,)

    def _keeps_numbers(self, *, fused: bool) -> bool:
        """As in MultiHeadAttention, but in later releases too, where torch's kernel isn't used."""
        return super()._keeps_numbers(fused=fused) or not fused

    @property
    def group_name(self) -> str:
        """Keras's internal name of the class differs from its public one."""
        return "grouped_query_attention"

    def setup(self) -> None:
        """Raises ConfigError if the query heads can't be divided evenly among the key and value heads."""
        super().setup()
        if self.num_query_heads % self.num_key_value_heads:
            raise ConfigError(
                f"GroupQueryAttention: option 'num_query_heads' is {self.num_query_heads}, expected a multiple of "
                f"num_key_value_heads, which is {self.num_key_value_heads}"
            )

    def build(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None, *rest: Any) -> None:
        """Creates the projections. Raises GraphError for incompatible shapes."""
        self.check_shapes(query_shape, value_shape, key_shape)
        if len(query_shape) != 3 or len(value_shape) != 3:
            raise GraphError(
                f"layer '{self.name}' (GroupQueryAttention): got query {query_shape} and value {value_shape}, expected "
                "shapes (rows, timesteps, features)"
            )
        queries, keys = (None, self.num_query_heads, self.head_dim), (None, self.num_key_value_heads, self.head_dim)
        self.project("_query_dense", "query", "bqm,muh->bquh", queries, "uh", query_shape)
        self.project("_key_dense", "key", "bkm,mvh->bkvh", keys, "vh", key_shape or value_shape)
        if self.use_gate:
            self.project(_GATE, "gate", "bqm,muh->bquh", queries, "uh", query_shape, activation="sigmoid")
        self.project("_value_dense", "value", "bkm,mvh->bkvh", keys, "vh", value_shape)
        attended = (*query_shape[:-1], self.num_query_heads, self.head_dim)
        self.project("_output_dense", "attention_output", "bquh,uhm->bqm", (None, query_shape[-1]), "m", attended)


def copied(given: Any) -> Any:
    """A copy of an initializer: as in Keras, one with a seed returns the same values for each projection."""
    return type(given).from_config(given.get_config())


def _may_be_equal(first: Shape, second: Shape) -> bool:
    """Whether two shapes agree on all axes that are known in both."""
    return len(first) == len(second) and all(a == b or None in (a, b) for a, b in zip(first, second, strict=True))


def _all_of(masks: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The logical and of the masks that aren't None, or None."""
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(torch.logical_and, known) if known else None


def _free(rank: int, sizes: Sequence[int | None]) -> tuple[int | None, ...]:
    """The output shape of a projection: the free axes have unknown lengths."""
    return (*(None,) * (rank - 1), *sizes)


def _projection_equation(free: int, bound: int, made: int) -> tuple[str, str]:
    """Returns equation and bias axes of a projection over the last `bound` axes (Keras's _build_proj_equation).

    `free` is the number of axes that are kept, including the batch axis; `made` that of new ones.
    """
    kept = ascii_lowercase[:free]
    summed = ascii_lowercase[free : free + bound]
    new = ascii_lowercase[free + bound : free + bound + made]
    return f"{kept}{summed},{summed}{new}->{kept}{new}", new


def _attention_equations(rank: int, axes: Sequence[int]) -> tuple[str, str]:
    """Returns the equations of scores and of outputs for attention over `axes` (Keras's _build_attention_equation)."""
    target = ascii_lowercase[:rank]
    others = iter(ascii_lowercase[rank:])
    source = "".join(next(others) if axis in axes else target[axis] for axis in range(rank))
    batch = "".join(target[axis] for axis in range(rank - 1) if axis not in axes)
    scores = batch + "".join(target[axis] for axis in axes) + "".join(source[axis] for axis in axes)
    return f"{source},{target}->{scores}", f"{scores},{source}->{target}"


LAYERS: dict[str, type[Layer]] = {
    "GroupQueryAttention": GroupQueryAttention,
    "MultiHeadAttention": MultiHeadAttention,
}
