"""Layers that take LoRA weights: Dense, EinsumDense, Embedding and the convolutions, as in Keras 3."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from layergraph.errors import ConfigError, GraphError
from layergraph.functional.binding import Binder, count_change
from layergraph.functional.layer import Layer
from layergraph.functional.lora import Lora, LoraWeights, merged
from layergraph.functional.nest import Structure
from layergraph.initializers import initializer


class LoraLayer(Layer):
    """A layer whose kernel can be frozen, with two small matrices `a` and `b` that are trained instead.

    lora_rank, lora_alpha   as arguments of the layer, enable LoRA when it is built
    """

    #: Name of the weight that is adapted.
    adapted_weight: ClassVar[str] = "kernel"
    #: Whether LoRA weights can be merged into the kernel.
    merges_lora: ClassVar[bool] = True

    def __init__(self, *args: Any, lora_rank: int | None = None, lora_alpha: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lora_alpha = lora_alpha
        #: Rank of the LoRA weights that the layer gets when it is built; None for none.
        self.asked_rank = lora_rank
        #: Rank of the LoRA weights that the layer had when its file was written; None for none.
        self.filed_rank: int | None = None

    def build_for(self, args: tuple[Structure, ...]) -> None:
        """Creates the weights, with those of LoRA if the arguments of the layer ask for them."""
        super().build_for(args)
        if self.asked_rank and self.lora is None:
            self.enable_lora(self.asked_rank, self.lora_alpha)

    @property
    def lora_names(self) -> tuple[str, str]:
        """Names of the LoRA weights."""
        return f"lora_{self.adapted_weight}_a", f"lora_{self.adapted_weight}_b"

    @property
    def adapted_shape(self) -> tuple[int, ...]:
        """Shape of the kernel in the product."""
        return next(weight.shape for weight in self.own_weights if weight.name == self.adapted_weight)

    @property
    def lora_enabled(self) -> bool:
        """Whether the layer has LoRA weights."""
        return self.lora is not None

    @property
    def lora_rank(self) -> int | None:
        """Rank of the LoRA weights; None without."""
        return None if self.lora is None else self.lora.rank

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Freezes the kernel, and adds lora_alpha / rank * a @ b to it, of which a and b are trained.

        `lora_alpha` is the rank by default. Raises ConfigError for a layer whose kernel has a constraint, one that has
        LoRA weights already, or an invalid rank; GraphError if the layer isn't built yet. Source:
        keras.layers.Dense.enable_lora.
        """
        label = f"layer '{self.name}' ({self.keras_class_name})"
        if self.lora is not None:
            raise ConfigError(f"{label}: has LoRA weights of rank {self.lora.rank} already")
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ConfigError(f"{label}: rank is {rank!r}, expected a whole number from 1")
        if not self.built:
            raise GraphError(f"{label}: isn't built yet, expected a call of it before enable_lora")
        base = next(weight for weight in self.own_weights if weight.name == self.adapted_weight)
        if base.constraint is not None:
            raise ConfigError(f"{label}: LoRA excludes a constraint of the {self.adapted_weight}")
        alpha = float(rank if lora_alpha is None else lora_alpha)
        shape, regularizer = self.adapted_shape, getattr(self, f"{self.adapted_weight}_regularizer")
        a, b = (
            self.add_weight(
                name, size, initializer(given), dtype="float32", memory_order=order, regularizer=regularizer
            )
            for name, size, given, order in (
                (self.lora_names[0], (*shape[:-1], rank), a_initializer, base.memory_order),
                (self.lora_names[1], (rank, shape[-1]), b_initializer, None),
            )
        )
        a.owner = b.owner = base.owner
        base.trainable = False
        self.lora = Lora(rank, alpha, base, a, b)
        self.lora_alpha = alpha
        count_change()

    def bind(self, binder: Binder) -> Any:
        """Returns the bound weights: with LoRA, with a merged kernel or, while gradients are recorded, its parts."""
        space = super().bind(binder)
        lora = self.lora
        if lora is None or not self.merges_lora:
            return space
        base, a, b = (vars(space).pop(weight.name) for weight in (lora.base, lora.a, lora.b))
        if torch.is_grad_enabled():
            parts = LoraWeights(lora.base.name, base, a, b, lora.scale)
            vars(parts).update(vars(space))
            return parts
        setattr(space, lora.base.name, merged(base, a, b, lora.scale))
        return space

    def get_config(self) -> dict[str, Any]:
        """The config; with LoRA also its rank and alpha."""
        config = super().get_config()
        if self.lora is not None:
            config |= {"lora_rank": self.lora.rank, "lora_alpha": self.lora.alpha}
        return config
