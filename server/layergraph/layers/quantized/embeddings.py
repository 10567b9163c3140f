"""Embeddings quantized by Keras 3's `model.quantize`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.weights import Weights
from layergraph.layers.core.basic import Embedding
from layergraph.layers.core.reversible_embedding import ReversibleEmbedding, capped
from layergraph.layers.quantized.kernels import QuantizedLayer
from layergraph.layers.quantized.quantizers import AbsMaxQuantizer, dequantized, unpacked


class QuantizedEmbedding(QuantizedLayer, Embedding):
    """An int8 or int4 Embedding, with a scale per id, or per block of an id's vector."""

    storage = replace(QuantizedLayer.storage, null_regularizer=True)

    def build(self, input_shape: Any) -> None:
        packed = self.quantization.mode == "int4"
        self.add_array(
            "embeddings", (self.input_dim, (self.output_dim + 1) // 2 if packed else self.output_dim), "int8"
        )
        if not packed or self.block is None:
            self.add_array("embeddings_scale", (self.input_dim,))
            return
        self.add_array("embeddings_scale", (self.input_dim, self.groups(self.output_dim)))
        self.add_array("embeddings_zero", (self.input_dim, self.groups(self.output_dim)), "int8")
        self.add_array("g_idx", (self.output_dim,), "float32")

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Adapts to Keras 3.2, which has a scale per feature instead."""
        if self.quantization.mode == "int8" and shapes[1:] == [(self.output_dim,)]:
            self.own_weights[1].shape = shapes[1]

    @property
    def adapted_shape(self) -> tuple[int, ...]:
        """Shape of the unpacked embeddings."""
        return self.input_dim, self.output_dim

    def bind(self, binder: Binder) -> Any:
        """Returns the weights; int4 embeddings are unpacked to one value per element."""
        w = super().bind(binder)
        w.unscaled = False
        if self.quantization.mode == "int4":
            w.embeddings = unpacked(w.embeddings, self.output_dim, -1)
        return w

    def bind_unscaled(self, binder: Binder) -> Any:
        """Returns weights for lookups of the stored integers without scaling."""
        w = self.bind(binder)
        w.unscaled = True
        return w

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        """Looks up the vectors of the ids. Raises DataError for an id outside of the table."""
        ids = self.known_ids(context, inputs)
        vectors = self._looked_up(w, ids)
        if (lora := self.lora) is None:
            return vectors
        factors = torch.nn.functional.embedding(ids, w.lora_embeddings_a)
        added: torch.Tensor = lora.scale * (factors @ w.lora_embeddings_b)
        return (vectors + added).to(vectors.dtype)

    def _looked_up(self, w: Weights, ids: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = torch.nn.functional.embedding(ids, w.embeddings).to(torch_dtype(self.compute_dtype))
        if w.unscaled:
            return vectors
        if self.quantization.mode == "int4" and self.block is not None:
            return dequantized(vectors, w.embeddings_scale[ids], w.embeddings_zero[ids], w.g_idx, -1)
        scale: torch.Tensor = w.embeddings_scale
        return vectors / (scale[ids][..., None] if scale.shape == (self.input_dim,) else scale)


class QuantizedReversibleEmbedding(QuantizedEmbedding, ReversibleEmbedding):
    """An int8 or int4 ReversibleEmbedding. It creates no masks, as in Keras."""

    def build(self, input_shape: Any) -> None:
        """Creates the embeddings and, if not tied, the reverse embeddings."""
        super().build(input_shape)
        if self.tie_weights:
            return
        packed = self.quantization.mode == "int4"
        blocks = packed and self.block is not None
        rows = (self.output_dim + 1) // 2 if packed else self.output_dim
        self.add_array("reverse_embeddings", (rows, self.input_dim), "int8")
        groups = (self.groups(self.output_dim),) if blocks else ()
        self.add_array("reverse_embeddings_scale", (*groups, self.input_dim))
        if blocks:
            self.add_array("reverse_embeddings_zero", (*groups, self.input_dim))

    @property
    def activation_quantizer(self) -> AbsMaxQuantizer | None:
        """Quantizer of the vectors in the reverse projection; AbsMaxQuantizer if there is no config."""
        return AbsMaxQuantizer() if self.quantization_config is None else super().activation_quantizer

    def bind(self, binder: Binder) -> Any:
        """Returns the weights, with the reverse kernel, (output_dim, input_dim), and its divisor."""
        w = super().bind(binder)
        values, scale, zero = w.embeddings.t(), w.embeddings_scale.t(), getattr(w, "embeddings_zero", None)
        zero = None if zero is None else zero.t()
        if not self.tie_weights:
            values, scale = w.reverse_embeddings, w.reverse_embeddings_scale
            zero = getattr(w, "reverse_embeddings_zero", None)
            values = unpacked(values, self.output_dim, 0) if self.quantization.mode == "int4" else values
        kind = torch_dtype("float32" if self.activation_quantizer is not None else self.compute_dtype)
        w.kernel, w.divisor = values.to(kind), scale
        if zero is not None:
            w.kernel, w.divisor = dequantized(values.to(scale.dtype), scale, zero, w.g_idx, 0), None
        return w

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        """Looks up the vectors of ids or, with `reverse`, computes the logits of vectors."""
        if not reverse:
            return super().forward(context, w, inputs)
        quantizer, scale = self.activation_quantizer, None
        vectors = inputs
        if quantizer is not None:
            axis = -1 if quantizer.axis is None else quantizer.axis
            vectors, scale = quantizer(inputs.detach(), axis if isinstance(axis, tuple) else (axis,))
        logits = (vectors.to(w.kernel.dtype) @ w.kernel).to(torch_dtype(self.compute_dtype))
        divisor = w.divisor if scale is None or w.divisor is None else scale * w.divisor
        divisor = scale if divisor is None else divisor
        if divisor is not None:
            logits = logits / divisor
        return capped(logits, self.logit_soft_cap)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """None, as in Keras."""
        return None
