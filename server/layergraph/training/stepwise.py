"""Training step by step, with batches as they come, and a state from which it goes on bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from layergraph.errors import ConfigError, DataError, NonFiniteLossError, NonFiniteWeightError, NotCompiledError
from layergraph.functional.call_context import CallContext
from layergraph.functional.strings import Strings
from layergraph.training.compile import Compiled
from layergraph.training.compiled_model import CompiledModel
from layergraph.training.data import Batch, Data
from layergraph.training.data_adapter import adapt_data, adapt_inputs, model_device
from layergraph.training.loop import Loop, new_generator
from layergraph.training.metrics.metric import Result

#: States of stateful layers.
States = dict[object, list[torch.Tensor]]


class Stepwise:
    """Keras's train_on_batch, test_on_batch and predict_on_batch of one compiled model.

    All random numbers are drawn from one generator. Only `train` changes the state: as far as it is concerned, tests
    and predictions never happened.
    """

    def __init__(
        self,
        model: CompiledModel,
        *,
        seed: int,
        class_weight: Mapping[int, float] | None = None,
        on_nan: str = "continue",
    ) -> None:
        """`on_nan` is "stop", which has `train` raise an error for a loss or a weight that isn't finite, or "continue".

        Raises NotCompiledError before `compile`.
        """
        self._model = model
        compiled = model.compilation
        if compiled is None:
            raise NotCompiledError(f"model '{model.name}' has no optimizer and no loss; call compile")
        self._compiled: Compiled = compiled
        self._compiled.optimizer.build(model.trainable_weights)
        self._class_weight = class_weight
        self._stops_on_nan = on_nan == "stop"
        #: Weights that must stay finite: not those with a mask of -inf.
        self._finite = [weight for weight in model.weights if weight.is_finite] if self._stops_on_nan else []
        self._generator = new_generator(seed, model_device(model))
        self._states: States = {}
        self._stateful = [layer for layer in model.walk_layers() if getattr(layer, "stateful", False)]
        self._label_shapes: list[tuple[int, ...] | None] | None = None
        self._loop: Loop | None = None
        #: Number of steps so far.
        self.step = 0

    def prepare(self, x: Any, y: Any, sample_weight: Any = None) -> Batch:
        """Returns a batch for `train` or `test`. Raises DataError if it doesn't fit the model."""
        return _whole(adapt_data(self._model, self._compiled, x, y, sample_weight, self._class_weight))

    def train(self, batch: Batch) -> dict[str, Result]:
        """Trains on a batch. Returns the losses and metrics of this batch alone, before the step.

        After an error the state is undefined, until `restore`. With `on_nan` "stop", raises NonFiniteLossError if the
        loss isn't finite, and NonFiniteWeightError if a weight isn't after the step.
        """
        if self._label_shapes is None:
            self._label_shapes = [None if labels is None else tuple(labels.shape) for labels in batch.labels]
        if self._loop is None:
            # Not earlier, since the first labels decide what "accuracy" is.
            self._loop = Loop(self._model, self._compiled, self._generator, states=self._states)
        self._loop.reset()
        with self._loop.recording():
            self._loop.train(batch)
        logs = self._loop.logs()
        loss = float(logs["loss"])
        if self._stops_on_nan and not math.isfinite(loss):
            raise NonFiniteLossError(loss, 1, self.step + 1)
        for weight in self._finite:
            if not weight.is_finite:
                raise NonFiniteWeightError(weight.path, self.step + 1)
        self.step += 1
        return logs

    def test(self, batch: Batch) -> dict[str, Result]:
        """Returns the losses and metrics of a batch."""
        loop = Loop(self._model, self._compiled, new_generator(0, model_device(self._model)), states=self._copied())
        loop.reset()
        loop.test(batch)
        return loop.logs()

    def predict(self, x: Any) -> list[torch.Tensor | Strings]:
        """Returns the outputs for a batch, in the model's order. Raises DataError if it doesn't fit the model."""
        batch = _whole(adapt_inputs(self._model, x))
        with torch.no_grad():
            context = CallContext(training=False, losses=None, states=self._copied())
            outputs, _ = self._model.plan().forward(context, batch.inputs)
        return list(outputs)

    def set_learning_rate(self, rate: float) -> None:
        """Sets the optimizer's learning rate. Raises ConfigError if it has a schedule."""
        for _, optimizer in self._compiled.optimizer.rated:
            if not isinstance(optimizer.learning_rate, float):
                raise ConfigError("learning_rate: the optimizer has a schedule, whose rates can't be set")
            optimizer.learning_rate = rate

    def state(self) -> dict[str, Any]:
        """Everything that further steps depend on; tensors are those of the model itself, and change with it."""
        return {
            "step": self.step,
            "weights": [weight.value.detach() for weight in self._model.weights],
            "optimizer": self._compiled.optimizer.state(),
            "generator": self._generator.get_state(),
            "states": [self._states.get(layer, []) for layer in self._stateful],
            "label_shapes": self._label_shapes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state`. Raises DataError if it is of another model."""
        shapes = [tuple(value.shape) for value in state["weights"]]
        expected = [tuple(weight.shape) for weight in self._model.weights]
        if shapes != expected:
            raise DataError(f"the state is of another model: its weights have shapes {shapes}, expected {expected}")
        for weight, value in zip(self._model.weights, state["weights"], strict=True):
            weight.assign(value)
        self._compiled.optimizer.restore(state["optimizer"])
        self._generator.set_state(state["generator"])
        device = model_device(self._model)
        self._states.clear()
        for layer, kept in zip(self._stateful, state["states"], strict=True):
            if kept:
                self._states[layer] = [value.to(device) for value in kept]
        labels = state["label_shapes"]
        self._label_shapes = None if labels is None else [None if one is None else tuple(one) for one in labels]
        if self._label_shapes is not None:
            self._compiled.resolve(self._label_shapes, [(None, *spec.shape[1:]) for spec in self._model.output_specs])
        self.step = state["step"]

    def _copied(self) -> States:
        return {layer: [value.clone() for value in kept] for layer, kept in self._states.items()}


def _whole(rows: Data) -> Batch:
    return rows.batch(slice(0, rows.rows), rows.rows)
