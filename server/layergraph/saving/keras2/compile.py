"""The arguments of `compile` -> as Keras 2 reads them in its files.

Forms are those of tf.keras 2.15, with what an earlier release has otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, serialized
from layergraph.saving.keras2.options import (
    LATER_LOSS_OPTIONS,
    LATER_METRIC_OPTIONS,
    LATER_OPTIMIZER_OPTIONS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    REDUCTIONS,
)
from layergraph.saving.keras2.releases import (
    LAST,
    LOSS_NAMES,
    LOSS_NAMES_SINCE,
    LOSS_OPTIONS_SINCE,
    LOSSES_SINCE,
    METRIC_NAMES_SINCE,
    METRIC_OPTIONS_SINCE,
    METRICS_SINCE,
    OPTIMIZER_OPTIONS_SINCE,
    OPTIMIZERS_SINCE,
    SCHEDULE_OPTIONS_SINCE,
    Release,
)
from layergraph.saving.optimizer_kinds import NOT_LEGACY, differences, kind_of, legacy_form
from layergraph.training import losses
from layergraph.training.compile import ByShapes, Compiled, is_single
from layergraph.training.losses import Loss
from layergraph.training.metrics import table as metrics
from layergraph.training.metrics.metric import Metric
from layergraph.training.optimizers.loss_scale import LossScaleOptimizer
from layergraph.training.optimizers.optimizer import BaseOptimizer, Optimizer, Variable
from layergraph.training.optimizers.schedules import Decayed, InverseTimeDecay, Schedule
from layergraph.training.trainer import Trainer

#: The release that brings what none has.
_NEVER = 99
_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")
#: What is an optimizer around the other one there.
_SCALE = "loss_scale_factor"


class Keras2Compile:
    """What a model was compiled with, as a release of Keras 2 reads it.

    unsayable    what it can't hold, for people, after a config was written
    """

    def __init__(self, model: Trainer, release: Release = LAST) -> None:
        """`model` is compiled."""
        compiled = model.compilation
        assert compiled is not None, "it is compiled"
        self.unsayable: list[str] = []
        self._model = model
        self._release = release
        self._compiled: Compiled = compiled
        self._log_names = {id(metric): name for name, metric in compiled.named_metrics().items()}

    def training_config(self) -> dict[str, Any]:
        """The attribute of an `.h5`, which has metrics with the names that the logs have, and no words for them."""
        given, words = self._compiled.given, self._release.keeps_words
        optimizer = self._optimizer(self._compiled.optimizer)
        # A plain name means a legacy optimizer.
        custom = "Custom>" if optimizer["module"] == "keras.optimizers" else ""
        return {
            "loss": _mapped(given["loss"], self._loss),
            "metrics": _mapped(given["metrics"], self._given_metric) if words else self._metrics(),
            "weighted_metrics": (
                _mapped(given["weighted_metrics"], self._given_metric) if words else self._metrics(weighted=True)
            ),
            "loss_weights": given["loss_weights"],
            **({"sample_weight_mode": None} if self._release.wants_weight_mode else {}),
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

    def _too_new(
        self, what: str, made: Configurable, config: Mapping[str, Any], since: Mapping[str, Mapping[str, int]]
    ) -> list[str]:
        """Options that came after the release. They are unsayable where they say anything."""
        kind = made.serialized_as or type(made).__name__
        options = [name for name, first in since.get(kind, {}).items() if not self._release.knows(first)]
        return self._said(what, made, config, options)

    def _said(self, what: str, made: Configurable, config: Mapping[str, Any], options: Sequence[str]) -> list[str]:
        """Those of the options that the config has; noted as unsayable where they aren't what they are by default."""
        found = [name for name in options if name in config]
        for name in found:
            if made.option_value(name) != made._options[name].default:
                self._lacks(f"option '{name}' of {what}")
        return found

    # Optimizers.

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
        kind = "LossScaleOptimizerV3" if self._is_new(inner) else "LossScaleOptimizer"
        if not self._release.scales_losses:
            self._lacks("optimizer LossScaleOptimizer")
        return {
            "module": "keras.src.mixed_precision.loss_scale_optimizer",
            "class_name": kind,
            "config": {"inner_optimizer": self._unscaled(inner), **config},
            "registered_name": kind,
        }

    def _is_new(self, optimizer: BaseOptimizer) -> bool:
        """Whether it is written as none of the legacy ones."""
        return self._release.has_new_optimizers and not (isinstance(optimizer, Optimizer) and optimizer.legacy)

    def _unscaled(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        if self._is_new(optimizer) or not isinstance(optimizer, Optimizer):
            return {"module": "keras.optimizers", **self._plain(optimizer), "registered_name": None}
        described = self._legacy(optimizer) if optimizer.legacy else self._as_legacy(optimizer)
        return {"module": "keras.optimizers.legacy", **described, "registered_name": None}

    def _plain(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        kind = kind_of(optimizer)
        known = kind in OPTIMIZERS and self._release.knows(OPTIMIZERS_SINCE.get(kind, 0))
        if not known or not isinstance(optimizer, Optimizer):
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

    def _as_legacy(self, optimizer: Optimizer) -> dict[str, Any]:
        """The legacy optimizer that computes as this one."""
        kind, legacy = kind_of(optimizer), legacy_form(optimizer)
        if legacy is None:
            self._lacks(f"optimizer {kind}")
            return {"class_name": kind, "config": {}}
        if found := differences(optimizer, self._model):
            self.unsayable.append(f"its optimizer {kind} computes otherwise ({'; '.join(found)})")
        self._not_legacy(f"optimizer {kind}", optimizer)
        legacy.name = optimizer.name
        return self._legacy(legacy)

    def _not_legacy(self, what: str, optimizer: Optimizer) -> None:
        """Notes options that no legacy optimizer has."""
        idle = (_SCALE,) if optimizer.use_ema else (_SCALE, "ema_momentum", "ema_overwrite_frequency")
        self._said(what, optimizer, optimizer.get_config(), [name for name in NOT_LEGACY if name not in idle])

    def _legacy(self, optimizer: Optimizer) -> dict[str, Any]:
        kind = kind_of(optimizer)
        what = f"the legacy optimizer {kind}"
        self._not_legacy(what, optimizer)
        later = self._too_new(what, optimizer, optimizer.get_config(), OPTIMIZER_OPTIONS_SINCE)
        # The only options that a legacy optimizer writes when they are set alone.
        idle = {name for name in _CLIPS if getattr(optimizer, name) is None}
        config = {
            name: serialized(optimizer.option_value(name))
            for name in optimizer._options
            if name not in NOT_LEGACY and name not in idle and name not in later
        }
        if optimizer.global_clipnorm is not None and not self._release.knows(4):
            self._lacks(f"option 'global_clipnorm' of {what}")
        name = kind if optimizer.name is None else optimizer.name
        rate = self._rate(optimizer.learning_rate)
        written = {**config, "name": name, "learning_rate": rate, "decay": optimizer.legacy_decay}
        return {
            "class_name": kind,
            "config": written if self._release.in_tensorflow else self._alone(optimizer, written),
        }

    def _alone(self, optimizer: Optimizer, config: Mapping[str, Any]) -> dict[str, Any]:
        """A legacy optimizer's config as Keras by itself has it."""
        kind = kind_of(optimizer)
        if kind == "Ftrl":
            self._lacks(f"optimizer {kind}")
        if isinstance(optimizer.learning_rate, Schedule):
            self._lacks(f"a schedule of optimizer {kind}")
        unknown = self._said(
            f"optimizer {kind}", optimizer, config, ["momentum", "centered"] if kind == "RMSprop" else []
        )
        # Its sums start at 0, and what they are by now is in the state.
        config = {k: v for k, v in config.items() if k not in (*unknown, "name", "initial_accumulator_value")}
        names = {"decay": "schedule_decay"} if kind == "Nadam" else {}
        if not self._release.knows(3):
            names["learning_rate"] = "lr"
        return {names.get(key, key): value for key, value in config.items()}

    def _rate(self, rate: float | Schedule) -> Any:
        if not isinstance(rate, Schedule):
            return rate
        if isinstance(rate, Decayed):
            rate = rate.schedule
        described = serialized(rate)
        too_new = self._too_new(f"schedule {type(rate).__name__}", rate, described["config"], SCHEDULE_OPTIONS_SINCE)
        described["config"] = {name: value for name, value in described["config"].items() if name not in too_new}
        return {"module": "keras.optimizers.schedules", **described, "registered_name": None}

    # Losses.

    def _loss(self, given: Any) -> Any:
        if given is None:
            return None
        if isinstance(given, str) and given.lower() in losses.BY_SHAPES:
            # 2.15 has it among the metrics alone.
            self._lacks(f"loss '{given}'")
            return given
        resolved = losses.loss(given)
        kind = type(resolved).__name__
        if kind not in LOSSES or not self._release.knows(LOSSES_SINCE.get(kind, 0)):
            self._lacks(f"loss {kind}")
            return None
        if isinstance(given, str):
            # TensorFlow 1 makes no objects of names of classes.
            known = given in LOSSES and self._release.knows(3)
            if known or self._release.knows(LOSS_NAMES_SINCE.get(given, _NEVER)):
                return given
            name = LOSS_NAMES.get(kind, snake_case(kind))
            if self._release.knows(LOSS_NAMES_SINCE.get(name, _NEVER)):
                return name
        return {"class_name": kind, "config": self._loss_config(resolved, kind)}

    def _loss_config(self, loss: Loss, kind: str) -> dict[str, Any]:
        config = loss.get_config()
        reduction = "none" if config["reduction"] is None else config["reduction"]
        if reduction not in REDUCTIONS:
            self._lacks(f"reduction '{reduction}' of loss {kind}")
        later = self._said(f"loss {kind}", loss, config, LATER_LOSS_OPTIONS.get(kind, ()))
        later += self._too_new(f"loss {kind}", loss, config, LOSS_OPTIONS_SINCE)
        return {**{name: value for name, value in config.items() if name not in later}, "reduction": reduction}

    # Metrics.

    def _metrics(self, *, weighted: bool = False) -> Any:
        """By output, even where there is one, with the names that the logs have: 2.15 takes them as they are."""
        listed = self._compiled.listed_metrics(weighted=weighted)
        if not any(listed):
            return None
        return [[self._metric(metric, index) for metric in ones] for index, ones in enumerate(listed)]

    def _metric(self, given: Metric | ByShapes, index: int) -> Any:
        if isinstance(given, Metric):
            name, kind = self._log_names[id(given)], type(given).__name__
            if self._release.prefixes_metrics:
                name = name.removeprefix(self._prefix(index))
            if given.name == kind:
                # Keras 3 logs a class by its name as it is spelled, Keras 2 by the name that its objects have.
                name = name.removesuffix(kind) + (given.default_name or snake_case(kind))
            return self._metric_object(given, name)
        # A word would mean the accuracy of labels that have the outputs' shape.
        prefix = "" if self._release.prefixes_metrics else self._prefix(index)
        likely = self._compiled.likely_metric(given.word, index, self._model.output_specs[index].shape)
        return self._metric_object(likely, f"{prefix}{given.word}")

    def _prefix(self, index: int) -> str:
        """What stands before the names of an output's metrics in the logs."""
        return f"{self._compiled.shown_names[index]}_" if len(self._compiled.output_names) > 1 else ""

    def _metric_object(self, metric: Metric, name: str) -> dict[str, Any]:
        kind = type(metric).__name__
        if kind not in METRICS or not self._release.knows(METRICS_SINCE.get(kind, 0)):
            # The means of functions among them: 2.15 writes those of losses that are no metrics, and can't read them.
            self._lacks(f"metric '{metric.name}' ({kind})")
        config = metric.get_config()
        later = self._said(f"metric {kind}", metric, config, LATER_METRIC_OPTIONS.get(kind, ()))
        later += self._too_new(f"metric {kind}", metric, config, METRIC_OPTIONS_SINCE)
        config = {key: value for key, value in config.items() if key not in later}
        if metric.default_dtype == config.get("dtype") == "int32":
            # There the overlaps can't count in integers, which they do in Keras 3 unless told otherwise.
            config["dtype"] = "float32"
        return {"class_name": kind, "config": {**config, "name": name}}

    def _given_metric(self, given: Any) -> Any:
        if given is None or metrics.by_shapes(given):
            return given
        metric = metrics.metric(given)
        described = self._metric_object(metric, metric.name)
        if not isinstance(given, str):
            return described
        since = METRICS_SINCE.get(given, 0) if given in METRICS else METRIC_NAMES_SINCE.get(given, _NEVER)
        return given if self._release.knows(since) else described


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


def keras2_state(optimizer: BaseOptimizer, release: Release = LAST) -> list[Variable]:
    """The optimizer's arrays in the release's order: those of the inner one alone where the loss is scaled."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    assert isinstance(inner, Optimizer), "all others are unsayable"
    legacy = inner.legacy or not release.has_new_optimizers
    iteration, *slots = inner.keras2_variables(legacy=legacy)
    slots += [] if legacy else inner.keras2_idle()
    if not release.in_tensorflow and kind_of(inner) == "Adam" and not inner.option_value("amsgrad"):
        # Keras by itself wants one number for each.
        slots += [Variable(f"vhat_{index}", np.zeros(1, np.float32)) for index, _ in enumerate(inner.weights)]
    return [Variable("iter" if legacy else "iteration", np.array(iteration.value, np.int64)), *slots]
