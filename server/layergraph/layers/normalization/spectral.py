"""Spectral normalization: divides a layer's kernel by its spectral norm (keras.layers.SpectralNormalization)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import one_of, option, positive_int
from layergraph.errors import GraphError
from layergraph.functional import scopes
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weight import Weight
from layergraph.functional.weights import Weights
from layergraph.initializers import TruncatedNormal
from layergraph.layers.inner_layers import Holder, any_layer

#: 1 / Keras's backend.epsilon(): maximum factor by which a vector is scaled to unit length.
MAX_FACTOR = 1e7


class SpectralNormalization(Holder):
    """Divides the kernel of `layer` by its largest singular value before each training step.

    The value is estimated by `power_iterations` steps of the power method, starting from `vector_u`, (1, outputs), of
    the last training step. Inference uses the kernel as it was left by training.

    cast_rule   type of the outputs: that of the inputs with `keras3`, so that vectors of integer ids are truncated; the
                layer's own with `keras2`. Set from the file's version
    """

    layer: Layer = option(any_layer)
    power_iterations: int = option(positive_int, default=1)
    cast_rule: str = option(one_of("keras3", "keras2"), default="keras3", kw_only=True, saved=False)

    def setup(self) -> None:
        self.hold(layer=self.layer)

    def build_for(self, args: tuple[Any, ...]) -> None:
        with scopes.building(self):
            self.layer.build_for(args)
        super().build_for(args)

    def build(self, input_shape: Any) -> None:
        """Creates `vector_u`. Raises GraphError if the layer has neither kernel nor embeddings."""
        kernel = self._kernel()
        # In files the kernel is also a weight of the wrapper, before the vector.
        self.own_weights.append(kernel)
        self.add_weight(
            "vector_u", (1, kernel.shape[-1]), TruncatedNormal(stddev=0.02), trainable=False, dtype=kernel.dtype
        )

    def _kernel(self) -> Weight:
        for weight in self.layer.own_weights:
            if weight.name in ("kernel", "embeddings"):
                return weight
        raise GraphError(
            f"layer '{self.name}' (SpectralNormalization): got layer '{self.layer.name}' "
            f"({type(self.layer).__name__}), expected one with a kernel or embeddings"
        )

    def bind(self, binder: Binder) -> Any:
        """Returns the weights, and the stored tensors that training assigns to: the others may be casts of them."""
        w = super().bind(binder)
        w.stored_kernel, w.stored_u = map(binder.stored, self.own_weights)
        return w

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        # Serving runs in inference mode and must not change the model's weights.
        if context.training and not torch.is_inference_mode_enabled():
            self._normalize(w)
        y, _ = self.layer.execute(context, w["layer"], (x,), {}, None, want_masks=False)
        result: torch.Tensor = y.to(x.dtype) if self.cast_rule == "keras3" else y
        return result

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """The mask of the layer's output; Keras 3 loses it where it casts the output."""
        if self.cast_rule == "keras3" and not inputs.is_floating_point():
            return None
        return self.layer.compute_mask(context, inputs, mask) if self.layer.supports_masking else None

    @torch.no_grad()
    def _normalize(self, w: Weights) -> None:
        """Divides the kernel by its largest singular value and updates `vector_u`, both in place.

        As in Keras, the numbers are computed, and so rounded, in the compute dtype.
        """
        name = self._kernel().name
        kernel, vector_u = getattr(w, name), w.vector_u
        matrix = kernel.reshape(-1, kernel.shape[-1])
        u = vector_u
        for _ in range(self.power_iterations):
            v = _unit(u @ matrix.t())
            u = _unit(v @ matrix)
        sigma = v @ matrix @ u.t()
        # A zero kernel has no singular vectors. The check stays on the device, to avoid a synchronisation.
        empty = (kernel == 0).all()
        w.stored_u.copy_(torch.where(empty, vector_u, u))
        normalized = torch.where(empty, kernel, kernel / sigma)
        for held in (w.stored_kernel, getattr(w["layer"], name)):
            held.copy_(normalized)


def _unit(vector: torch.Tensor) -> torch.Tensor:
    return vector * vector.square().sum().rsqrt().clamp(max=min(MAX_FACTOR, torch.finfo(vector.dtype).max))


LAYERS: dict[str, type[Layer]] = {"SpectralNormalization": SpectralNormalization}
