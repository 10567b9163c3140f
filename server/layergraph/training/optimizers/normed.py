"""Optimizers that use a weight as a whole: its norm, its rows and columns, or as a matrix."""

from __future__ import annotations

import math
import re

import torch

from layergraph.config.options import Expected, boolean, fraction, option, optional
from layergraph.training.optimizers.optimizer import Optimizer, power, quotient
from layergraph.training.optimizers.state import ABSENT, Slots, Tensor, Tensors, Trainable, Variable
from layergraph.training.options import MOST_PATTERNS, count, list_of, nonnegative, number, text


class Lamb(Optimizer):
    """w -= lr r d with d = m_hat / (sqrt(v_hat) + epsilon), r = |w| / |d| (keras.optimizers.Lamb; You et al., 2019).

    r is 1 if one of the norms is 0. Weight decay is not a part of d.
    """

    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-7)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum", "velocity")]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        momenta, velocities = slots.by_name["momentum"], slots.by_name["velocity"]
        torch._foreach_lerp_(momenta, gradients, 1 - self.beta_1)
        torch._foreach_mul_(velocities, self.beta_2)
        torch._foreach_addcmul_(velocities, gradients, gradients, value=1 - self.beta_2)
        roots = torch._foreach_div(velocities, 1 - power(self.beta_2, step))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.epsilon)
        changes = list(torch._foreach_div(momenta, 1 - power(self.beta_1, step)))
        torch._foreach_div_(changes, roots)
        norms = zip(torch._foreach_norm(slots.weights), torch._foreach_norm(changes), strict=True)
        ratios = [torch.where((w > 0) & (d > 0), w / d, 1.0) * rate for w, d in norms]
        torch._foreach_mul_(changes, ratios)
        torch._foreach_sub_(slots.weights, changes)


class Adafactor(Optimizer):
    """Adam with factored second moments of matrices (keras.optimizers.Adafactor; Shazeer & Stern, 2018).

    The learning rate is at most 1 / sqrt(t). With relative_step, Keras limits it twice, to the same effect.
    """

    beta_2_decay: float = option(number, default=-0.8)
    epsilon_1: float = option(nonnegative, default=1e-30)
    epsilon_2: float = option(nonnegative, default=1e-3)
    clip_threshold: float = option(number, default=1.0)
    relative_step: bool = option(boolean, default=True)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("r", "c", "velocity")]

    def first_value(self, slot: str, weight: Trainable) -> Tensor:
        shape = weight.value.shape
        if slot not in ("r", "c"):
            return super().first_value(slot, weight)
        if len(shape) < 2:
            # Keras keeps and saves a placeholder.
            return weight.value.new_zeros((), dtype=torch.int32, requires_grad=False)
        return weight.value.new_zeros(shape[:-1] if slot == "r" else (*shape[:-2], shape[-1]), requires_grad=False)

    def slot_name(self, slot: str, weight: Trainable) -> str:
        # Keras names row and column moments as the weight itself.
        return weight.path.rsplit("/", 1)[-1] if slot in ("r", "c") else super().slot_name(slot, weight)

    def keras2_variables(self, *, legacy: bool | None = None) -> list[Variable]:
        state = super().keras2_variables(legacy=legacy)
        return [variable for variable in state if variable.name == "iteration" or _counts(variable)]

    def inner_variables(self) -> list[Variable]:
        own = ("iteration", "learning_rate")
        return [variable for variable in super().inner_variables() if variable.name in own or _counts(variable)]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        # Keras also limits a schedule's rate here, regardless of relative_step.
        relative = min(rate, 1.0 / math.sqrt(step))
        kept = 1.0 - float(step) ** self.beta_2_decay
        rows, columns, velocities = (slots.by_name[name] for name in ("r", "c", "velocity"))
        for w, g, r, c, v in zip(slots.weights, gradients, rows, columns, velocities, strict=True):
            squares = g.square().add_(self.epsilon_1)
            if w.ndim < 2:
                v.lerp_(squares, 1.0 - kept)
            else:
                r.lerp_(squares.mean(-1), 1.0 - kept)
                c.lerp_(squares.mean(-2), 1.0 - kept)
                v.copy_((r / r.mean(-1, keepdim=True)).unsqueeze(-1) * c.unsqueeze(-2))
            change = g / v.sqrt()
            change.div_((_rms(change) / self.clip_threshold).clamp_min(1.0))
            w.sub_(change.mul_(_rms(w).clamp_min(self.epsilon_2) * relative))


def _counts(variable: Variable) -> bool:
    return isinstance(variable.value, Tensor) and variable.value.dtype != torch.int32


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


#: Maximum number of Newton-Schulz iterations per update; five are usual.
MOST_STEPS = 100


def _patterns(value: object) -> tuple[str, ...]:
    patterns = () if value is None else list_of(text, MOST_PATTERNS)(value)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error:
            raise Expected("a list of regular expressions") from None
    return patterns


class Muon(Optimizer):
    """Orthogonalised momentum for matrices, AdamW for other weights (keras.optimizers.Muon; Jordan et al., 2024).

    exclude_layers       regular expressions; weights whose path contains a match use AdamW
    exclude_embeddings   whether weights with "embedding" in their path use AdamW
    adam_...             options of AdamW, whose learning rate is learning_rate x adam_lr_ratio
    ns_steps, muon_a/b/c number of Newton-Schulz iterations and their coefficients
    rms_rate             the update is scaled by rms_rate x sqrt of the longer side; None for no scaling
    """

    adam_beta_1: float = option(fraction, default=0.9)
    adam_beta_2: float = option(fraction, default=0.999)
    adam_weight_decay: float | None = option(optional(nonnegative), default=0.004)
    epsilon: float = option(nonnegative, default=1e-7)
    weight_decay: float | None = option(optional(nonnegative), default=0.004)
    exclude_layers: tuple[str, ...] = option(_patterns, default=(), kw_only=True)
    exclude_embeddings: bool = option(boolean, default=True, kw_only=True)
    muon_a: float = option(number, default=3.4445, kw_only=True)
    muon_b: float = option(number, default=-4.775, kw_only=True)
    muon_c: float = option(number, default=2.0315, kw_only=True)
    adam_lr_ratio: float = option(number, default=1, kw_only=True)
    momentum: float = option(fraction, default=0.95, kw_only=True)
    ns_steps: int = option(count(MOST_STEPS, 0), default=5, kw_only=True)
    nesterov: bool = option(boolean, default=True, kw_only=True)
    rms_rate: float | None = option(optional(number), default=0.2, kw_only=True)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum", "velocity")]

    def first_value(self, slot: str, weight: Trainable) -> Tensor:
        if slot == "velocity" and not self._takes_adam(weight):
            return ABSENT
        return super().first_value(slot, weight)

    def _takes_adam(self, weight: Trainable) -> bool:
        path = weight.path
        return (
            weight.value.ndim != 2
            or (self.exclude_embeddings and "embedding" in path.lower())
            or any(re.search(pattern, path) for pattern in self.exclude_layers)
        )

    def decay(self, slots: Slots, rate: float) -> None:
        decayed = {id(weight) for weight in self.decayed(slots.weights)}
        for weight, velocity in zip(slots.weights, slots.by_name["velocity"], strict=True):
            share = self.weight_decay if velocity is ABSENT else self.adam_weight_decay
            if share is not None and id(weight) in decayed:
                weight.mul_(1 - share * rate)

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        alpha = rate * self.adam_lr_ratio * math.sqrt(1 - power(self.adam_beta_2, step))
        alpha = quotient(alpha, 1 - power(self.adam_beta_1, step))
        momenta, velocities = slots.by_name["momentum"], slots.by_name["velocity"]
        for w, g, m, v in zip(slots.weights, gradients, momenta, velocities, strict=True):
            if v is ABSENT:
                m.mul_(self.momentum).add_(g)
                change = self._orthogonal(torch.add(g, m, alpha=self.momentum) if self.nesterov else m)
                scale = 1.0 if self.rms_rate is None else self.rms_rate * math.sqrt(max(w.shape))
                w.sub_(change, alpha=rate * scale)
            else:
                m.lerp_(g, 1 - self.adam_beta_1)
                v.mul_(self.adam_beta_2).addcmul_(g, g, value=1 - self.adam_beta_2)
                w.addcdiv_(m, v.sqrt().add_(self.epsilon), value=-alpha)

    def _orthogonal(self, x: Tensor) -> Tensor:
        """Newton-Schulz iteration towards the nearest matrix with orthonormal rows, or columns if it is tall."""
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (torch.linalg.matrix_norm(x) + 1e-7)
        for _ in range(self.ns_steps):
            product = x @ x.T
            x = self.muon_a * x + (self.muon_b * product + self.muon_c * product @ product) @ x
        return x.T if tall else x
