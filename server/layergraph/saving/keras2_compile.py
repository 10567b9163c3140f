"""The arguments of `compile` -> as tf.keras 2.15 writes them into its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from layergraph.config.options import serialized
from layergraph.functional.naming import snake_case
from layergraph.functional.tensor import Shape
from layergraph.saving.keras2_options import (
    LATER_LOSS_OPTIONS,
    LATER_METRIC_OPTIONS,
    LATER_OPTIMIZER_OPTIONS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    REDUCTIONS,
)
from layergraph.training import losses, metrics
from layergraph.training.compile import ByShapes, Compiled, is_single
from layergraph.training.loss_scale import LossScaleOptimizer
from layergraph.training.losses import Loss
from layergraph.training.metric import Metric
from layergraph.training.optimizer import BaseOptimizer, Optimizer, Variable
from layergraph.training.schedules import Decayed, InverseTimeDecay, Schedule

#: Options that the legacy optimizers lack.
_NOT_LEGACY = ("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency", *LATER_OPTIMIZER_OPTIONS)
#: Names of metrics that it doesn't look up.
_METRICS_WITHOUT_NAME = ("bce", "BCE")
_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


class Keras2Compile:
    """What a model was compiled with, as Keras 2 writes it.

    unsayable    what it can't hold, for people, after a config was written
    """

    def __init__(self, compiled: Compiled, output_shapes: Sequence[Shape]) -> None:
        self.unsayable: list[str] = []
        self._compiled = compiled
        self._output_shapes = output_shapes
        self._log_names = {id(metric): name for name, metric in compiled.named_metrics().items()}

    def training_config(self) -> dict[str, Any]:
        """The attribute of an `.h5`, which has metrics with the names that the logs have, and no words for them."""
        given = self._compiled.given
        optimizer = self._optimizer(self._compiled.optimizer)
        # A plain name means a legacy optimizer.
        custom = "Custom>" if optimizer["module"] == "keras.optimizers" else ""
        return {
            "loss": _mapped(given["loss"], self._loss),
            "metrics": self._metrics(),
            "weighted_metrics": self._metrics(weighted=True),
            "loss_weights": given["loss_weights"],
            "optimizer_config": {
                "class_name": custom + optimizer["class_name"],
                "config": optimizer["config"],
            },
        }

    def compile_config(self) -> dict[str, Any]:
        """The part of a `.keras`, which has what `compile` was given."""
        given = self._compiled.given
        return {
            "optimizer": self._optimizer(self._compiled.optimizer),
            "loss": _in_module("keras.losses", _mapped(given["loss"], self._loss)),
            **{
                key: _in_module("keras.metrics", _mapped(given[key], self._given_metric))
                for key in ("metrics", "weighted_metrics")
            },
            "loss_weights": given["loss_weights"],
            "run_eagerly": None,
            "steps_per_execution": None,
            "jit_compile": None,
        }

    def _lacks(self, what: str) -> None:
        self.unsayable.append(f"{what} is unknown to it")

    # --- optimizers ---------------------------------------------------------------------------------------------------

    def _optimizer(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        if isinstance(optimizer, LossScaleOptimizer):
            config = {"dynamic": True, "initial_scale": optimizer.initial_scale}
            return self._scaled(
                optimizer.inner_optimizer, {**config, "dynamic_growth_steps": optimizer.dynamic_growth_steps}
            )
        if isinstance(optimizer, Optimizer) and optimizer.loss_scale_factor is not None:
            # What Keras 3 has as an option is an optimizer around it here.
            config = {"dynamic": False, "initial_scale": optimizer.loss_scale_factor}
            return self._scaled(optimizer, {**config, "dynamic_growth_steps": None})
        return self._unscaled(optimizer)

    def _scaled(self, inner: Optimizer, config: Mapping[str, Any]) -> dict[str, Any]:
        kind = "LossScaleOptimizer" if inner.legacy else "LossScaleOptimizerV3"
        return {
            "module": "keras.src.mixed_precision.loss_scale_optimizer",
            "class_name": kind,
            "config": {"inner_optimizer": self._unscaled(inner), **config},
            "registered_name": kind,
        }

    def _unscaled(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        legacy = isinstance(optimizer, Optimizer) and optimizer.legacy
        described = self._legacy(optimizer) if isinstance(optimizer, Optimizer) and legacy else self._plain(optimizer)
        module = "keras.optimizers.legacy" if legacy else "keras.optimizers"
        return {"module": module, **described, "registered_name": None}

    def _plain(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        kind = serialized(optimizer)["class_name"]
        if kind not in OPTIMIZERS or not isinstance(optimizer, Optimizer):
            self._lacks(f"optimizer {kind}")
            return {"class_name": kind, "config": {}}
        if optimizer.gradient_accumulation_steps is not None:
            self._lacks(f"option 'gradient_accumulation_steps' of optimizer {kind}")
        config = {
            name: serialized(optimizer.option_value(name))
            for name in optimizer._options
            if name not in LATER_OPTIMIZER_OPTIONS
        }
        rate = optimizer.learning_rate
        if optimizer.rate_decay:
            if isinstance(rate, Schedule):
                self._lacks(f"option 'decay' beside a schedule of optimizer {kind}")
            else:
                rate = InverseTimeDecay(rate, 1, optimizer.rate_decay)
        name = kind if optimizer.name is None else optimizer.name
        own = {"name": name, "learning_rate": self._rate(rate), "jit_compile": False, "is_legacy_optimizer": False}
        return {"class_name": kind, "config": {**config, **own}}

    def _legacy(self, optimizer: Optimizer) -> dict[str, Any]:
        kind = serialized(optimizer)["class_name"]
        later = [
            name
            for name in _NOT_LEGACY
            if name != "loss_scale_factor" and getattr(optimizer, name) != optimizer._options[name].default
        ]
        for name in later:
            self._lacks(f"option '{name}' of the legacy optimizer {kind}")
        # The only options that a legacy optimizer writes when they are set alone.
        idle = {name for name in _CLIPS if getattr(optimizer, name) is None}
        config = {
            name: serialized(optimizer.option_value(name))
            for name in optimizer._options
            if name not in _NOT_LEGACY and name not in idle
        }
        name = kind if optimizer.name is None else optimizer.name
        rate = self._rate(optimizer.learning_rate)
        return {
            "class_name": kind,
            "config": {**config, "name": name, "learning_rate": rate, "decay": optimizer.legacy_decay},
        }

    def _rate(self, rate: float | Schedule) -> Any:
        if not isinstance(rate, Schedule):
            return rate
        if isinstance(rate, Decayed):
            rate = rate.schedule
        return {"module": "keras.optimizers.schedules", **serialized(rate), "registered_name": None}

    # --- losses -------------------------------------------------------------------------------------------------------

    def _loss(self, given: Any) -> Any:
        if given is None:
            return None
        if isinstance(given, str) and given in losses.BY_SHAPES:
            # 2.15 has it among the metrics alone.
            self._lacks(f"loss '{given}'")
            return given
        resolved = losses.loss(given)
        kind = type(resolved).__name__
        if kind not in LOSSES:
            self._lacks(f"loss {kind}")
            return None
        if isinstance(given, str):
            return given
        return {"class_name": kind, "config": self._loss_config(resolved, kind)}

    def _loss_config(self, loss: Loss, kind: str) -> dict[str, Any]:
        config = loss.get_config()
        reduction = "none" if config["reduction"] is None else config["reduction"]
        if reduction not in REDUCTIONS:
            self._lacks(f"reduction '{reduction}' of loss {kind}")
        config = self._without_later(f"loss {kind}", loss, config, LATER_LOSS_OPTIONS.get(kind, ()))
        return {**config, "reduction": reduction}

    # --- metrics ------------------------------------------------------------------------------------------------------

    def _metrics(self, *, weighted: bool = False) -> Any:
        """By output, even where there is one, with the names that the logs have: 2.15 takes them as they are."""
        listed = self._compiled.listed_metrics(weighted=weighted)
        if not any(listed):
            return None
        return [[self._metric(metric, index) for metric in ones] for index, ones in enumerate(listed)]

    def _metric(self, given: Metric | ByShapes, index: int) -> Any:
        if isinstance(given, Metric):
            name, kind = self._log_names[id(given)], type(given).__name__
            if given.name == kind:
                # Keras 3 logs a class by its name as it is spelled, Keras 2 by the name that its objects have.
                name = name.removesuffix(kind) + (given.default_name or snake_case(kind))
            return self._metric_object(given, name)
        # A word would mean the accuracy of labels that have the outputs' shape.
        several = len(self._compiled.output_names) > 1
        name = f"{self._compiled.shown_names[index]}_{given.word}" if several else given.word
        return self._metric_object(self._likely_metric(given.word, index), name)

    def _metric_object(self, metric: Metric, name: str) -> dict[str, Any]:
        kind = type(metric).__name__
        if kind not in METRICS:
            # The means of functions among them: 2.15 writes those of losses that are no metrics, and can't read them.
            self._lacks(f"metric '{metric.name}' ({kind})")
        config = self._without_later(f"metric {kind}", metric, metric.get_config(), LATER_METRIC_OPTIONS.get(kind, ()))
        return {"class_name": kind, "config": {**config, "name": name}}

    def _given_metric(self, given: Any) -> Any:
        if given is None or metrics.by_shapes(given):
            return given
        metric = metrics.metric(given)
        described = self._metric_object(metric, metric.name)
        return given if isinstance(given, str) and given not in _METRICS_WITHOUT_NAME else described

    def _likely_metric(self, word: str, index: int) -> Metric:
        """What the word will mean, by the labels that the loss takes."""
        shape = self._output_shapes[index]
        loss = self._compiled.loss(index)
        classes = loss is not None and loss.labels_are_classes
        return metrics.metric_for_shapes(word, shape[:-1] if classes else shape, shape)

    def _without_later(self, what: str, made: Any, config: Mapping[str, Any], later: Sequence[str]) -> dict[str, Any]:
        for name in later:
            if name in config and getattr(made, name) != type(made)._options[name].default:
                self._lacks(f"option '{name}' of {what}")
        return {key: value for key, value in config.items() if key not in later}


def _in_module(module: str, value: Any) -> Any:
    """Objects with what a `.keras` says of them beside class and config."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            return {"module": module, **value, "registered_name": None}
        return {key: _in_module(module, item) for key, item in value.items()}
    return [_in_module(module, item) for item in value] if isinstance(value, list) else value


def _mapped(given: Any, write: Callable[[Any], Any]) -> Any:
    """A structure with each loss in it written."""
    if is_single(given):
        return write(given)
    if isinstance(given, Mapping):
        return {key: _mapped(item, write) for key, item in given.items()}
    return [_mapped(item, write) for item in given]


def keras2_state(optimizer: BaseOptimizer) -> list[Variable]:
    """The optimizer's arrays in 2.15's order: those of the inner one alone where the loss is scaled."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    assert isinstance(inner, Optimizer), "all others are unsayable"
    iteration, *slots = inner.keras2_variables()
    return [Variable("iter" if inner.legacy else "iteration", np.array(iteration.value, np.int64)), *slots]
