"""Training and evaluation steps, with running losses and metrics kept on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from layergraph.errors import NonFiniteLossError, NotCompiledError
from layergraph.functional.call_context import CallContext
from layergraph.functional.functional import Functional
from layergraph.functional.logits import with_logits_of
from layergraph.functional.lookups import Lookups
from layergraph.functional.shard import Shard
from layergraph.layers.core.basic import Embedding
from layergraph.regularizers import UnknownRegularizer
from layergraph.training.compile import Compiled
from layergraph.training.data import Batch
from layergraph.training.keras_logits import losing_logits
from layergraph.training.losses import Loss, weights_like
from layergraph.training.metrics.metric import Metric, Result
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.workers import Replica, Workers

Tensor = torch.Tensor


class Forward(Protocol):
    """What the loop needs of a plan."""

    def forward(self, context: CallContext, tensors: Sequence[Any]) -> tuple[list[Tensor], list[Tensor | None]]:
        """Computes outputs and their masks from a batch's inputs."""


class Loop:
    """Trains or evaluates one compiled model batch by batch, and keeps its running losses and metrics.

    Gradients are only recorded inside of `recording`. Only `logs` and `check_finite` synchronise with the device.
    """

    def __init__(
        self,
        model: Functional,
        compiled: Compiled,
        generator: torch.Generator,
        workers: Workers | None = None,
        states: dict[object, list[Tensor]] | None = None,
    ) -> None:
        """With `workers`, batches have shards, and every worker makes the same calls.

        `states` are the states of stateful layers so far, updated in place. Raises NotCompiledError if the model has no
        loss and no regularizer.
        """
        self._plan: Forward = model.plan()
        self._test_plan: Forward = self._plan
        self._states = {} if states is None else states
        self._stateful = [layer for layer in model.walk_layers() if getattr(layer, "stateful", False)]
        self._compiled = compiled
        #: Called with the losses of a batch's rows, by log name, if it is set.
        self.row_losses: Callable[[Mapping[str, Tensor]], None] | None = None
        self._generator = generator
        weights = model.trainable_weights
        self._leaves = [weight.value for weight in weights]
        self._rules = compiled.rules
        self._penalties = [(w.regularizer, w.value) for w in weights if w.regularizer is not None]
        if self._rules.penalizes_frozen:
            self._penalties += _frozen_penalties(model)
        outputs = range(len(compiled.output_names))
        self._losses = [(i, loss, compiled.loss_weights[i]) for i in outputs if (loss := compiled.loss(i)) is not None]
        penalised = self._penalties or any(layer.activity_regularizer is not None for layer in model.walk_layers())
        if not self._losses and not penalised:
            raise NotCompiledError(f"model '{model.name}' was compiled without a loss")
        self._metrics = [(i, metric, False) for i in outputs for metric in compiled.metrics(i)]
        self._metrics += [(i, metric, True) for i in outputs for metric in compiled.weighted_metrics(i)]
        measures: list[Loss | Metric] = [loss for _, loss, _ in self._losses]
        measures += [metric for _, metric, _ in self._metrics]
        self._keeps_logits = self._rules.logits if any(one.reads_logits for one in measures) else ""
        self._losing_logits = losing_logits(model) if self._keeps_logits else []
        self._named_metrics = compiled.named_metrics()
        # Workers can only add up dense gradients.
        self._row_gradients = workers is None and takes_row_gradients(model, compiled.optimizer)
        self._by_lookup = self._row_gradients and compiled.optimizer.reads_lookups
        self._replica = Replica(self._leaves, self._scaled) if workers is not None and self._leaves else None
        device = self._leaves[0].device if self._leaves else torch.device("cpu")
        self._last = torch.zeros((), device=device)
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        self._shown = {i: torch.zeros_like(self._total) for i in compiled.shown_losses}
        self._rows = 0

    def use(self, plan: Forward, test_plan: Forward | None) -> None:
        """Computes with other plans, for batches that have their inputs; tests with the model's by default."""
        self._plan = plan
        self._test_plan = test_plan or self._test_plan

    def close(self) -> None:
        """Ends training."""
        if self._replica is not None:
            self._replica.close()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Lets torch record gradients of the trainable weights, which don't require gradients outside of it."""
        for leaf in self._leaves:
            leaf.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for leaf in self._leaves:
                leaf.requires_grad_(False)

    def reset(self) -> None:
        """Resets running losses and metrics."""
        self._total.zero_()
        for shown in self._shown.values():
            shown.zero_()
        self._rows = 0
        self._compiled.reset_metrics()

    def train(self, batch: Batch) -> None:
        """One training step: loss, gradients, update. Must be called inside of `recording`."""
        context = CallContext(
            training=True,
            generator=self._generator,
            row_gradients=self._row_gradients,
            lookups=Lookups() if self._by_lookup else None,
            shard=batch.shard,
            states=self._states,
            rules=self._rules,
            keeps_logits=self._keeps_logits,
        )
        if self._replica is not None:
            self._compiled.optimizer.apply(self._replica.gradients(batch, context))
            return
        total = self._scaled(batch, context)
        if self._leaves:
            gradients: Sequence[Tensor | None] = [None] * len(self._leaves)
            # Otherwise the loss depends on none of the leaves, which the optimizer refuses.
            if total.requires_grad:
                gradients = torch.autograd.grad(total, self._leaves, allow_unused=True)
            if context.lookups is not None:
                pairs = zip(self._leaves, gradients, strict=True)
                gradients = [context.lookups.gradient(leaf, gradient) for leaf, gradient in pairs]
            self._compiled.optimizer.apply(gradients)

    def _scaled(self, batch: Batch, context: CallContext) -> Tensor:
        """The loss, scaled by the optimizer, that gradients are taken of."""
        return self._compiled.optimizer.scaled(self._measured(batch, context, self._plan))

    def test(self, batch: Batch) -> None:
        """One evaluation step: updates losses and metrics."""
        with torch.no_grad():
            context = CallContext(
                training=False,
                generator=self._generator,
                shard=batch.shard,
                states=self._states,
                rules=self._rules,
                keeps_logits=self._keeps_logits,
            )
            self._measured(batch, context, self._test_plan)

    def _measured(self, batch: Batch, context: CallContext, plan: Forward) -> Tensor:
        """Computes the total loss of a batch, and updates running losses and metrics."""
        outputs, masks = plan.forward(context, batch.inputs)
        for index in self._losing_logits:
            outputs[index] = outputs[index].view_as(outputs[index])
        if batch.shard is not None:
            outputs, masks = _whole(batch, batch.shard, outputs, masks)
        parts = []
        values = 1
        for index, loss, weight in self._losses:
            labels = batch.labels[index]
            assert labels is not None, "checked before the run"
            value = loss(labels, outputs[index], batch.weights[index], masks[index])
            if value.ndim:
                # As in Keras: a loss without reduction is summed for the gradient.
                values = value.numel() if self._rules.logs_means else 1
                value = value.sum()
            if self._shown:
                self._shown[index].add_(value.detach(), alpha=batch.rows)
            parts.append(value if weight is None else value * weight)
        parts += [penalty(value) for penalty, value in self._penalties]
        parts += _summed(batch.shard, context.losses)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        self._last = total.detach()
        self._total.add_(self._last, alpha=batch.rows)
        self._rows += batch.rows * values
        if self.row_losses is not None:
            self.row_losses(self._by_row(batch, outputs, masks))
        if self._metrics:
            self._update_metrics(batch, outputs, masks)
        return total

    def _by_row(self, batch: Batch, outputs: list[Tensor], masks: list[Tensor | None]) -> dict[str, Tensor]:
        """The losses of a batch's rows by log name: "loss", with loss weights, and those of several outputs."""
        names = self._compiled.shown_losses
        found, total = {}, torch.zeros(batch.rows, device=self._last.device)
        for index, loss, weight in self._losses:
            labels = batch.labels[index]
            assert labels is not None, "checked before the run"
            losses = loss.by_row(labels, outputs[index], batch.weights[index], masks[index])
            total = total + (losses if weight is None else losses * weight)
            if index in names:
                found[names[index]] = losses
        return {"loss": total, **found}

    @torch.no_grad()
    def _update_metrics(self, batch: Batch, outputs: list[Tensor], masks: list[Tensor | None]) -> None:
        for index, metric, weighted in self._metrics:
            labels = batch.labels[index]
            assert labels is not None, "checked before the run"
            weights = batch.weights[index] if weighted else None
            mask = masks[index]
            if self._rules.masks_no_metrics:
                mask = None
            if mask is not None and (metric.masked or self._rules.masks_all_metrics):
                valid = mask.to(torch.float32)
                weights = valid if weights is None else weights_like(valid, weights) * valid
            given = outputs[index]
            half = given.dtype in (torch.float16, torch.bfloat16)
            predictions = with_logits_of(given, given.detach().float() if half else given.detach())
            metric.update(labels, predictions, weights)

    def logs(self) -> dict[str, Result]:
        """Means over the rows since `reset`, sorted by Keras's names. Synchronises with the device."""
        rows = max(1, self._rows)
        found: dict[str, Result] = {"loss": float(self._total) / rows}
        found.update({name: metric.result() for name, metric in self._named_metrics.items()})
        names = self._compiled.shown_losses
        found.update({names[index]: float(shown) / rows for index, shown in self._shown.items()})
        return dict(sorted(found.items()))

    def state(self) -> dict[str, Any]:
        """Running losses and the random state, for `restore`; metrics have their own state."""
        return {
            "total": self._total.clone(),
            "shown": {index: shown.clone() for index, shown in self._shown.items()},
            "rows": self._rows,
            "generator": self._generator.get_state(),
            "states": [[state.clone() for state in self._states.get(layer, [])] for layer in self._stateful],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state`."""
        self._total.copy_(state["total"])
        for index, shown in self._shown.items():
            shown.copy_(state["shown"][index])
        self._rows = state["rows"]
        self._generator.set_state(state["generator"])
        for layer, kept in zip(self._stateful, state["states"], strict=True):
            self._states[layer] = [value.to(self._last.device) for value in kept]

    def check_finite(self, epoch: int, step: int) -> None:
        """Raises NonFiniteLossError if the last batch's loss isn't finite; `epoch` and `step` count from 0."""
        value = float(self._last)
        if not math.isfinite(value):
            raise NonFiniteLossError(value, epoch + 1, step + 1)


def _whole(
    batch: Batch, shard: Shard, outputs: list[Tensor], masks: list[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs and masks of all workers' rows, for the outputs with labels."""
    measured = [labels is not None for labels in batch.labels]
    return (
        [_gathered(shard, o) if used else o for o, used in zip(outputs, measured, strict=True)],
        [shard.gathered(m) if used and m is not None else m for m, used in zip(masks, measured, strict=True)],
    )


def _gathered(shard: Shard, outputs: Tensor) -> Tensor:
    return with_logits_of(outputs, shard.gathered(outputs), shard.gathered)


def _frozen_penalties(model: Functional) -> list[tuple[Any, Tensor]]:
    """Regularizers of frozen weights, with the weights. A custom one is left out: it would only move the log."""
    trained = {id(weight) for weight in model.trainable_weights}
    return [
        (weight.regularizer, weight.value)
        for weight in model.weights
        if weight.regularizer is not None
        and id(weight) not in trained
        and not isinstance(weight.regularizer, UnknownRegularizer)
    ]


def _summed(shard: Shard | None, penalties: list[Tensor] | None) -> Sequence[Tensor]:
    """Activity penalties of the whole batch: each is a mean over rows, of which a worker has a shard."""
    if shard is None or not penalties:
        return penalties or ()
    return shard.summed(torch.stack(penalties) * (shard.count / shard.total)).unbind()


def takes_row_gradients(model: Functional, optimizer: BaseOptimizer) -> bool:
    """Whether gradients of embeddings are to be sparse.

    Either steps may update only the rows that were looked up, with equal results, or gradients depend on the lookups.
    """
    found = [layer for layer in model.walk_layers() if isinstance(layer, Embedding)]
    if optimizer.reads_lookups:
        # With other uses of a weight, as by a regularizer, autograd adds up a dense gradient, as TensorFlow does.
        return any(not any(w.regularizer for w in layer.weights) for layer in found)
    return (
        bool(found)
        and optimizer.takes_rows
        # Subclasses may use their weights in other ways; casts, regularizers and constraints need all rows.
        and all(type(x) is Embedding and x.compute_dtype == x.dtype and x.lora is None for x in found)
        and not any(w.regularizer or w.constraint for layer in found for w in layer.weights)
    )


class RunningLogs(Mapping[str, Result]):
    """The logs so far, read from the device on first access."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._read: dict[str, Result] | None = None

    def _logs(self) -> dict[str, Result]:
        if self._read is None:
            self._read = self._loop.logs()
        return self._read

    def __getitem__(self, name: str) -> Result:
        return self._logs()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs())

    def __len__(self) -> int:
        return len(self._logs())

    def __repr__(self) -> str:
        return repr(self._logs())


def new_generator(seed: int | None, device: torch.device) -> torch.Generator:
    """A random generator on `device`, with a random seed if `seed` is None."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
