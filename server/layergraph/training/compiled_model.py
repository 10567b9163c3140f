"""What training needs of a model: how it is compiled, and with which optimizer, losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from layergraph.config.options import short_repr
from layergraph.config.training_rules import KERAS3_RULES, TrainingRules
from layergraph.errors import ConfigError, DataError, LayerGraphError, NotCompiledError
from layergraph.functional.dtypes import DTypePolicy
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure
from layergraph.training.compile import Compiled, compile_arguments, output_paths
from layergraph.training.data import Array
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.loss_scale import is_scaled_state, with_scale
from layergraph.training.precision import compute_in, layer_dtypes
from layergraph.training.weights_with_gradients import weights_with_gradients


class CompiledModel(Functional):
    """A graph with `compile`: what callbacks and runs see of a model. `Trainer` adds `fit`.

    A model loaded from a file has the file's `compile_config` and `optimizer_state`, which are used when training
    starts unless `compile` was called.
    """

    def __init__(self, inputs: Structure, outputs: Structure, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(inputs, outputs, name, trainable)
        #: What training does as in the release of Keras that wrote the model's file; set before `compile`.
        self.training_rules: TrainingRules = KERAS3_RULES
        self._compiled: Compiled | None = None
        self._filed_config: Mapping[str, Any] | None = None
        self._filed_problem = ""
        #: Arrays of the file's optimizer in Keras 3's order, until the optimizer is created.
        self.optimizer_state: Sequence[Array] | None = None
        #: Policies of the layers that compute in another precision for training.
        self._layer_dtypes: dict[Layer, DTypePolicy] = {}
        #: Set by a callback to end the run after the current batch.
        self.stop_training = False

    def compute_in(self, policy: str) -> None:
        """Makes training, evaluation and prediction compute by a dtype policy: "float32" or "mixed_bfloat16".

        Unlike a layer's policy in Keras, it isn't saved: files have the layers' own. Layers that were created with
        other policies, such as quantized ones, keep these. Raises ConfigError for another policy, GraphError if a
        layer can't compute in it.
        """
        if policy not in ("float32", "mixed_bfloat16"):
            raise ConfigError(f"policy is {short_repr(policy)}, expected 'float32' or 'mixed_bfloat16'")
        self._layer_dtypes = {**compute_in(self, policy), **self._layer_dtypes}

    def layer_dtypes(self) -> AbstractContextManager[None]:
        """While it is entered, layers have their own dtype policies."""
        return layer_dtypes(self._layer_dtypes)

    # Compile.

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str | None = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Configures training: the optimizer, and losses, loss weights and metrics by output.

        Each is a name, an object, or Keras's {"class_name", "config"}. Losses and metrics are one for all outputs, a
        list in the order of the outputs, or a dict by output name. With `auto_scale_loss`, the optimizer of a model
        that computes in float16 is wrapped into a LossScaleOptimizer. run_eagerly, steps_per_execution and jit_compile
        are accepted for compatibility and have no effect.

        Raises ConfigError for unknown names and for arguments that don't fit the outputs.
        """
        self._compiled = self._compiled_with(
            auto_scale_loss,
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
        )
        self.optimizer_state = None

    def _compiled_with(self, auto_scale_loss: bool, **arguments: Any) -> Compiled:
        paths = output_paths(self.graph.outputs)
        compiled = Compiled(
            self.output_names,
            paths=paths,
            shown_names=self.output_layer_names,
            rules=self.training_rules,
            **arguments,
        )
        # Keras checks its global policy, which a model loaded from a file doesn't have.
        if auto_scale_loss and any(x.dtype_policy.name == "mixed_float16" for x in self.walk_layers()):
            compiled.optimizer = with_scale(compiled.optimizer)
        return compiled

    @property
    def compiled(self) -> bool:
        """Whether `compile` was called or the file has a compile_config."""
        return self._compiled is not None or self._filed_config is not None

    @property
    def compile_config(self) -> dict[str, Any] | None:
        """Arguments of `compile` as JSON: those of the call, else those of the file; None if there are neither.

        Raises ConfigError if a loss or metric is a Python function.
        """
        if self._compiled is not None:
            return self._compiled.keras_config()
        if self._filed_config is None:
            return None
        return compile_arguments(self._filed_config)

    @compile_config.setter
    def compile_config(self, config: Mapping[str, Any] | None) -> None:
        self._filed_config = config
        self._compiled = None

    @property
    def compile_problem(self) -> str:
        """Why the file's compile settings can't be used, such as a loss that only its author has; "" if they can be."""
        if self._compiled is None and self._filed_config is not None:
            try:
                self._compiled_with(True, **compile_arguments(self._filed_config))
            except LayerGraphError as wrong:
                return str(wrong)
        return self._filed_problem

    @compile_problem.setter
    def compile_problem(self, problem: str) -> None:
        self._filed_problem = problem

    @property
    def optimizer(self) -> BaseOptimizer | None:
        """The optimizer, with its state from the file; None before `compile`."""
        return self._ready().optimizer if self.compiled else None

    @property
    def compilation(self) -> Compiled | None:
        """The compiled losses, metrics and optimizer, with its state from the file; None before `compile`."""
        return self._ready() if self.compiled else None

    @property
    def saved_compilation(self) -> Compiled | None:
        """The compilation that a file gets; None also if those of the model's own file can't be used."""
        return None if self._compiled is None and self.compile_problem else self.compilation

    @property
    def metrics_names(self) -> list[str]:
        """Names of the logs, sorted. Metrics that depend on shapes are included once data was seen."""
        ready = self._ready()
        return sorted({"loss", *ready.shown_losses.values(), *ready.named_metrics()})

    def log_direction(self, name: str) -> str | None:
        """Whether a log improves by going "up" or "down"; None if unknown."""
        ready = self._ready()
        if name == "loss" or name in ready.shown_losses.values():
            return "down"
        metric = ready.named_metrics().get(name)
        return None if metric is None else metric.direction

    def _ready(self) -> Compiled:
        """The compiled losses, metrics and optimizer, with its state loaded. Raises NotCompiledError."""
        if self._compiled is None:
            if self._filed_config is None:
                raise NotCompiledError(
                    self._unusable(self._filed_problem)
                    if self._filed_problem
                    else f"model '{self.name}' has no optimizer and no loss; call compile(optimizer=..., loss=...)"
                )
            # Without a scale in the state, no scale is added: Keras saved it with another global policy.
            scaled = self.optimizer_state is None or is_scaled_state(self.optimizer_state)
            try:
                self._compiled = self._compiled_with(scaled, **compile_arguments(self._filed_config))
            except ConfigError as wrong:
                raise ConfigError(self._unusable(str(wrong))) from wrong
        if self.optimizer_state is not None:
            self._load_state(self._compiled, self.optimizer_state)
            self.optimizer_state = None
        return self._compiled

    def _unusable(self, problem: str) -> str:
        return (
            f"model '{self.name}' can't be trained with the compile settings of its file, "
            f"call compile(optimizer=..., loss=...) instead: {problem}"
        )

    def state_problem(self, shapes: Sequence[tuple[int, ...]]) -> str:
        """Why arrays of these shapes aren't a state of the file's optimizer for this model; "" if they are.

        Takes no memory, but the model can't be used afterwards: its weights have lost their values. Raises ConfigError
        if the compile settings can't be used.
        """
        if self._filed_config is None:
            return ""
        optimizer = self._compiled_with(False, **compile_arguments(self._filed_config)).optimizer
        for weight in self.weights:
            weight.bind(torch.empty(weight.shape, device="meta"))
        optimizer.build(self.trainable_weights)
        try:
            optimizer.load([torch.empty(shape, device="meta") if shape else torch.zeros(()) for shape in shapes])
        except DataError as misfit:
            return str(misfit)
        return ""

    def _load_state(self, compiled: Compiled, state: Sequence[Array]) -> None:
        weights, optimizer = self.trainable_weights, compiled.optimizer
        optimizer.build(weights)
        try:
            optimizer.load(state)
        except DataError as misfit:
            # Legacy optimizers of Keras 2 have no state for weights that never got a gradient.
            optimizer.build(weights_with_gradients(self, compiled))
            try:
                optimizer.load(state)
            except DataError:
                raise DataError(
                    f"model '{self.name}' can't be trained with the optimizer state of its file, call "
                    f"compile(optimizer=..., loss=...) to train with a new one: {misfit}"
                ) from None
            finally:
                optimizer.build(weights)

    # Files.

    def save(self, path: str | Path, generation: int | None = None) -> None:
        """Saves the model as a `.keras` or `.h5` file, in the format of that generation of Keras."""
        raise NotImplementedError(f"{type(self).__name__} can't be saved")

    def save_weights(self, path: str | Path) -> None:
        """Saves the weights as a `.weights.h5` file."""
        raise NotImplementedError(f"{type(self).__name__} can't be saved")
