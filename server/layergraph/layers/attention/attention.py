"""Attention layers without heads (keras.layers.Attention, AdditiveAttention)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import anything, boolean, fraction, one_of, option
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import GlorotUniform, Ones
from layergraph.layers.attention.multi_head import LAYERS as MULTI_HEAD
from layergraph.layers.attention.scores import as_many_steps, causal_mask
from layergraph.layers.regularization import dropped


class UnprojectedAttention(Layer):
    """Attention on a list [query, value] or [query, value, key]: softmax(scores) @ value.

    Query (rows, Tq, d), value (rows, Tv, d'), key (rows, Tv, d). The value's mask excludes values from the softmax; the
    query's mask sets outputs to 0 and is the mask of the output.

    mask_rule   what a query's mask of numbers does: as in `keras3`, or multiply the outputs, as up to Keras 3.14
                (`weights`). Set from the file's version
    """

    dropout: float = option(fraction, default=0.0)
    seed: Any = option(anything, default=None)
    use_scale: bool = option(boolean, default=False, kw_only=True)
    #: An option of the layer in tf.keras before 2.10; now an argument of the call.
    causal: bool = option(boolean, default=False, kw_only=True)
    mask_rule: str = option(one_of("keras3", "weights"), default="keras3", kw_only=True, saved=False)

    supports_masking = True

    def scores(self, w: Weights, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Scores of each query and key: (rows, Tq, Tv)."""
        raise NotImplementedError(f"{type(self).__name__} has no scores")

    def check_inputs(self, inputs: Any) -> None:
        """Raises GraphError unless `inputs` is a list of two or three."""
        if not isinstance(inputs, (list, tuple)) or len(inputs) not in (2, 3):
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got {inputs}, expected a list [query, value] or "
                "[query, value, key]"
            )

    def forward(
        self,
        context: CallContext,
        w: Weights,
        inputs: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        """Returns the attended values and, with `return_attention_scores`, the weights (rows, Tq, Tv)."""
        self.check_inputs(inputs)
        query, value = inputs[0], as_many_steps(context, inputs[1], inputs[-1])
        query_mask, value_mask = (None, None) if mask is None else mask[:2]
        value_mask = None if value_mask is None else as_many_steps(context, value_mask, inputs[-1])
        scores = self.scores(w, query, inputs[-1])
        allowed = None if value_mask is None else value_mask.bool().unsqueeze(-2)
        if use_causal_mask or self.causal:
            causal = causal_mask(scores.shape[-2], scores.shape[-1], scores.device)
            allowed = causal if allowed is None else allowed & causal
        if allowed is not None:
            # Keras subtracts rather than fills, so a row without any allowed value still has different weights.
            scores = torch.where(allowed, scores, scores - (65504.0 if scores.dtype == torch.float16 else 1e9))
        weights = torch.softmax(scores, -1)
        kept = dropped(context, weights, self.dropout) if context.training and self.dropout else weights
        outputs = kept @ value
        if query_mask is not None and self.mask_rule == "weights":
            outputs = outputs * query_mask.unsqueeze(-1).to(outputs.dtype)
        elif query_mask is not None:
            outputs = torch.where(query_mask.bool().unsqueeze(-1), outputs, 0)
        return [outputs, weights] if return_attention_scores else outputs

    def scale_as_stored(self, *, scaled: bool) -> None:
        """Sets whether there is a scale, before weights have values: some releases leave `use_scale` out of configs."""
        if self.use_scale != scaled:
            self.use_scale = scaled
            self.own_weights.clear()
            self.built = False
            self.build_for(self.inbound_nodes[0].args)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        return None if mask is None else mask[0]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if not self.causal:
            del config["causal"]
        return config


class Attention(UnprojectedAttention):
    """Dot-product attention of Luong et al., 2015 (keras.layers.Attention).

    use_scale    multiplies the scores by a trainable scalar
    score_mode   'dot': query @ key; 'concat': a trainable scalar times the sum of tanh(scale * (query + key))
    """

    use_scale: bool = option(boolean, default=False)
    score_mode: str = option(one_of("dot", "concat"), default="dot")
    dropout: float = option(fraction, default=0.0)
    seed: Any = option(anything, default=None)

    def build(self, input_shape: Any) -> None:
        self.check_inputs(input_shape)
        if self.use_scale:
            self.add_weight("scale", (), Ones())
        if self.score_mode == "concat":
            self.add_weight("concat_score_weight", (), Ones())

    def scores(self, w: Weights, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Scores of each query and key."""
        if self.score_mode == "dot":
            scores = query @ key.transpose(-1, -2)
            return scores * w.scale if self.use_scale else scores
        both = query.unsqueeze(-2) + key.unsqueeze(-3)
        weight: torch.Tensor = w.concat_score_weight
        return weight * torch.tanh(w.scale * both if self.use_scale else both).sum(-1)


class AdditiveAttention(UnprojectedAttention):
    """Attention of Bahdanau et al., 2014 (keras.layers.AdditiveAttention): scores are sum(scale * tanh(query + key)).

    use_scale   whether `scale` is a trainable vector, one factor per feature
    """

    use_scale: bool = option(boolean, default=True)
    dropout: float = option(fraction, default=0.0)
    seed: Any = option(anything, default=None, kw_only=True)

    def build(self, input_shape: Any) -> None:
        self.check_inputs(input_shape)
        if self.use_scale:
            self.add_weight("scale", (input_shape[0][-1],), GlorotUniform())

    def scores(self, w: Weights, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Scores of each query and key."""
        both = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))
        return (w.scale * both if self.use_scale else both).sum(-1)


LAYERS: dict[str, type[Layer]] = {
    "AdditiveAttention": AdditiveAttention,
    "Attention": Attention,
    **MULTI_HEAD,
}
