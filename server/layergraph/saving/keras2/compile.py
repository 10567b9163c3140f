"""Serialises the arguments of `compile` in Keras 2's format.

The format is that of tf.keras 2.15, with the differences of earlier releases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, serialized
from layergraph.saving.keras2.options import (
    ABSENT_LOSSES,
    ABSENT_METRICS,
    ABSENT_OPTIMIZERS,
    LATER_LOSS_OPTIONS,
    LATER_METRIC_OPTIONS,
    LATER_OPTIMIZER_OPTIONS,
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
from layergraph.saving.optimizer_kinds import differences, kind_of, legacy_form
from layergraph.training import losses
from layergraph.training.compile import ByShapes, Compiled, is_single
from layergraph.training.losses import Loss
from layergraph.training.metrics import table as metrics
from layergraph.training.metrics.metric import Metric
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.formulas import FORMULAS
from layergraph.training.optimizers.legacy import NOT_LEGACY
from layergraph.training.optimizers.loss_scale import LossScaleOptimizer
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.schedules import Decayed, InverseTimeDecay, Schedule
from layergraph.training.optimizers.state import Variable
from layergraph.training.trainer import Trainer

#: What tf.keras 2.15 has.
_LOSSES = losses.LOSSES.keys() - ABSENT_LOSSES
_OPTIMIZERS = FORMULAS.keys() - ABSENT_OPTIMIZERS
_METRICS = metrics.METRICS.keys() - ABSENT_METRICS
#: A minor version after all releases, for names that none has.
_NEVER = 99
_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")
#: The option that is a separate optimizer in Keras 2.
_SCALE = "loss_scale_factor"


class Keras2Compile:
    """The compile arguments of a model in the format of a release of Keras 2.

    unsupported  problems: arguments that the release doesn't support, collected while a config is written
    """

    def __init__(self, model: Trainer, release: Release = LAST) -> None:
        """`model` must have compile settings that can be used."""
        compiled = model.saved_compilation
        assert compiled is not None, "it is compiled"
        self.unsupported: list[str] = []
        self._model = model
        self._release = release
        self._compiled: Compiled = compiled
        self._log_names = {id(metric): name for name, metric in compiled.named_metrics().items()}

    def training_config(self) -> dict[str, Any]:
        """`training_config` of an `.h5`, whose metrics are objects with the names of the logs."""
        given, words = self._compiled.given, self._release.stores_names
        optimizer = self._optimizer(self._compiled.optimizer)
        # A class name without the prefix is a legacy optimizer.
        custom = "Custom>" if optimizer["module"] == "keras.optimizers" else ""
        return {
            "loss": _mapped(given["loss"], self._loss),
            "metrics": _mapped(given["metrics"], self._given_metric) if words else self._metrics(),
            "weighted_metrics": (
                _mapped(given["weighted_metrics"], self._given_metric) if words else self._metrics(weighted=True)
            ),
            "loss_weights": given["loss_weights"],
            **({"sample_weight_mode": None} if self._release.requires_weight_mode else {}),
            "optimizer_config": {
                "class_name": custom + optimizer["class_name"],
                "config": optimizer["config"],
            },
        }

    def compile_config(self) -> dict[str, Any]:
        """`compile_config` of a `.keras`, which has the arguments of `compile`."""
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

    def _add_unsupported(self, what: str) -> None:
        self.unsupported.append(f"{what} isn't supported")

    def _too_new(
        self, what: str, made: Configurable, config: Mapping[str, Any], since: Mapping[str, Mapping[str, int]]
    ) -> list[str]:
        """Names of options added after the release. They are problems unless they have their defaults."""
        kind = made.serialized_as or type(made).__name__
        options = [name for name, first in since.get(kind, {}).items() if not self._release.has(first)]
        return self._check_options(what, made, config, options)

    def _check_options(
        self, what: str, made: Configurable, config: Mapping[str, Any], options: Sequence[str]
    ) -> list[str]:
        """Names of the options that the config has. They are problems unless they have their defaults."""
        found = [name for name in options if name in config]
        for name in found:
            if made.option_value(name) != made._options[name].default:
                self._add_unsupported(f"option '{name}' of {what}")
        return found

    # Optimizers.

    def _optimizer(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        if isinstance(optimizer, LossScaleOptimizer):
            config = {"dynamic": True, "initial_scale": optimizer.initial_scale}
            return self._scaled(
                optimizer.inner_optimizer, {**config, "dynamic_growth_steps": optimizer.dynamic_growth_steps}
            )
        if isinstance(optimizer, Optimizer) and optimizer.loss_scale_factor is not None:
            # An option in Keras 3; in Keras 2 a LossScaleOptimizer around the optimizer.
            config = {"dynamic": False, "initial_scale": optimizer.loss_scale_factor}
            return self._scaled(optimizer, {**config, "dynamic_growth_steps": None})
        return self._unscaled(optimizer)

    def _scaled(self, inner: Optimizer, config: Mapping[str, Any]) -> dict[str, Any]:
        kind = "LossScaleOptimizerV3" if self._is_new(inner) else "LossScaleOptimizer"
        if not self._release.scales_losses:
            self._add_unsupported("optimizer LossScaleOptimizer")
        return {
            "module": "keras.src.mixed_precision.loss_scale_optimizer",
            "class_name": kind,
            "config": {"inner_optimizer": self._unscaled(inner), **config},
            "registered_name": kind,
        }

    def _is_new(self, optimizer: BaseOptimizer) -> bool:
        """Whether it is written as one of the newer optimizers."""
        return self._release.has_new_optimizers and not (isinstance(optimizer, Optimizer) and optimizer.legacy)

    def _unscaled(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        if self._is_new(optimizer) or not isinstance(optimizer, Optimizer):
            return {"module": "keras.optimizers", **self._plain(optimizer), "registered_name": None}
        described = self._legacy(optimizer) if optimizer.legacy else self._as_legacy(optimizer)
        return {"module": "keras.optimizers.legacy", **described, "registered_name": None}

    def _plain(self, optimizer: BaseOptimizer) -> dict[str, Any]:
        kind = kind_of(optimizer)
        known = kind in _OPTIMIZERS and self._release.has(OPTIMIZERS_SINCE.get(kind, 0))
        if not known or not isinstance(optimizer, Optimizer):
            self._add_unsupported(f"optimizer {kind}")
            return {"class_name": kind, "config": {}}
        if optimizer.gradient_accumulation_steps is not None:
            self._add_unsupported(f"option 'gradient_accumulation_steps' of optimizer {kind}")
        config = {
            name: serialized(optimizer.option_value(name))
            for name in optimizer._options
            if name not in LATER_OPTIMIZER_OPTIONS
        }
        rate = optimizer.learning_rate
        if optimizer.rate_decay:
            if isinstance(rate, Schedule):
                self._add_unsupported(f"option 'decay' with a schedule of optimizer {kind}")
            else:
                rate = InverseTimeDecay(rate, 1, optimizer.rate_decay)
        name = kind if optimizer.name is None else optimizer.name
        own = {"name": name, "learning_rate": self._rate(rate), "jit_compile": False, "is_legacy_optimizer": False}
        return {"class_name": kind, "config": {**config, **own}}

    def _as_legacy(self, optimizer: Optimizer) -> dict[str, Any]:
        """The legacy optimizer that computes the same."""
        kind, legacy = kind_of(optimizer), legacy_form(optimizer)
        if legacy is None:
            self._add_unsupported(f"optimizer {kind}")
            return {"class_name": kind, "config": {}}
        if found := differences(optimizer, self._model):
            self.unsupported.append(f"its optimizer {kind} computes differently ({'; '.join(found)})")
        self._not_legacy(f"optimizer {kind}", optimizer)
        legacy.name = optimizer.name
        return self._legacy(legacy)

    def _not_legacy(self, what: str, optimizer: Optimizer) -> None:
        """Adds options that no legacy optimizer has to the problems."""
        idle = (_SCALE,) if optimizer.use_ema else (_SCALE, "ema_momentum", "ema_overwrite_frequency")
        self._check_options(what, optimizer, optimizer.get_config(), [name for name in NOT_LEGACY if name not in idle])

    def _legacy(self, optimizer: Optimizer) -> dict[str, Any]:
        kind = kind_of(optimizer)
        what = f"the legacy optimizer {kind}"
        self._not_legacy(what, optimizer)
        later = self._too_new(what, optimizer, optimizer.get_config(), OPTIMIZER_OPTIONS_SINCE)
        # A legacy optimizer writes these options only if they are set.
        idle = {name for name in _CLIPS if getattr(optimizer, name) is None}
        config = {
            name: serialized(optimizer.option_value(name))
            for name in optimizer._options
            if name not in NOT_LEGACY and name not in idle and name not in later
        }
        if optimizer.global_clipnorm is not None and not self._release.has(4):
            self._add_unsupported(f"option 'global_clipnorm' of {what}")
        name = kind if optimizer.name is None else optimizer.name
        rate = self._rate(optimizer.learning_rate)
        written = {**config, "name": name, "learning_rate": rate, "decay": optimizer.legacy_decay}
        return {
            "class_name": kind,
            "config": written if self._release.in_tensorflow else self._alone(optimizer, written),
        }

    def _alone(self, optimizer: Optimizer, config: Mapping[str, Any]) -> dict[str, Any]:
        """A legacy optimizer's config in the format of standalone Keras."""
        kind = kind_of(optimizer)
        if kind == "Ftrl":
            self._add_unsupported(f"optimizer {kind}")
        if isinstance(optimizer.learning_rate, Schedule):
            self._add_unsupported(f"a schedule of optimizer {kind}")
        unknown = self._check_options(
            f"optimizer {kind}", optimizer, config, ["momentum", "centered"] if kind == "RMSprop" else []
        )
        # There, accumulators start at 0, but the state contains their current values.
        config = {k: v for k, v in config.items() if k not in (*unknown, "name", "initial_accumulator_value")}
        names = {"decay": "schedule_decay"} if kind == "Nadam" else {}
        if not self._release.has(3):
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
            # 2.15 has this name only among the metrics.
            self._add_unsupported(f"loss '{given}'")
            return given
        resolved = losses.loss(given)
        kind = type(resolved).__name__
        if kind not in _LOSSES or not self._release.has(LOSSES_SINCE.get(kind, 0)):
            self._add_unsupported(f"loss {kind}")
            return None
        if isinstance(given, str):
            # TensorFlow 1 doesn't resolve names of classes.
            known = given in _LOSSES and self._release.has(3)
            if known or self._release.has(LOSS_NAMES_SINCE.get(given, _NEVER)):
                return given
            name = LOSS_NAMES.get(kind, snake_case(kind))
            if self._release.has(LOSS_NAMES_SINCE.get(name, _NEVER)):
                return name
        return {"class_name": kind, "config": self._loss_config(resolved, kind)}

    def _loss_config(self, loss: Loss, kind: str) -> dict[str, Any]:
        config = loss.get_config()
        reduction = "none" if config["reduction"] is None else config["reduction"]
        if reduction not in REDUCTIONS:
            self._add_unsupported(f"reduction '{reduction}' of loss {kind}")
        later = self._check_options(f"loss {kind}", loss, config, LATER_LOSS_OPTIONS.get(kind, ()))
        later += self._too_new(f"loss {kind}", loss, config, LOSS_OPTIONS_SINCE)
        return {**{name: value for name, value in config.items() if name not in later}, "reduction": reduction}

    # Metrics.

    def _metrics(self, *, weighted: bool = False) -> Any:
        """Metrics by output, even for a single one, with the names of the logs, which 2.15 doesn't change."""
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
                # A metric given by its class's name has that name in Keras 3's logs, and the default name in Keras 2's.
                name = name.removesuffix(kind) + (given.default_name or snake_case(kind))
            return self._metric_object(given, name)
        # Keras 2 would resolve the name to the accuracy of labels with the outputs' shape.
        prefix = "" if self._release.prefixes_metrics else self._prefix(index)
        likely = self._compiled.likely_metric(given.word, index, self._model.output_specs[index].shape)
        return self._metric_object(likely, f"{prefix}{given.word}")

    def _prefix(self, index: int) -> str:
        """Prefix of an output's metrics in the logs."""
        return f"{self._compiled.shown_names[index]}_" if len(self._compiled.output_names) > 1 else ""

    def _metric_object(self, metric: Metric, name: str) -> dict[str, Any]:
        kind = type(metric).__name__
        if kind not in _METRICS or not self._release.has(METRICS_SINCE.get(kind, 0)):
            # Includes means of functions: 2.15 writes those of losses that are no metrics, but can't load them.
            self._add_unsupported(f"metric '{metric.name}' ({kind})")
        config = metric.get_config()
        later = self._check_options(f"metric {kind}", metric, config, LATER_METRIC_OPTIONS.get(kind, ()))
        later += self._too_new(f"metric {kind}", metric, config, METRIC_OPTIONS_SINCE)
        config = {key: value for key, value in config.items() if key not in later}
        if metric.default_dtype == config.get("dtype") == "int32":
            # Keras 2 can't count overlaps in integers, Keras 3's default.
            config["dtype"] = "float32"
        return {"class_name": kind, "config": {**config, "name": name}}

    def _given_metric(self, given: Any) -> Any:
        if given is None or metrics.by_shapes(given):
            return given
        metric = metrics.metric(given)
        described = self._metric_object(metric, metric.name)
        if not isinstance(given, str):
            return described
        since = METRICS_SINCE.get(given, 0) if given in _METRICS else METRIC_NAMES_SINCE.get(given, _NEVER)
        return given if self._release.has(since) else described


def _in_module(module: str, value: Any) -> Any:
    """Objects with the additional keys that a `.keras` has."""
    if isinstance(value, Mapping):
        if "class_name" in value:
            return {"module": module, **value, "registered_name": None}
        return {key: _in_module(module, item) for key, item in value.items()}
    return [_in_module(module, item) for item in value] if isinstance(value, list) else value


def _mapped(given: Any, write: Callable[[Any], Any]) -> Any:
    """A structure of losses or metrics, with `write` applied to each."""
    if is_single(given):
        return write(given)
    if isinstance(given, Mapping):
        return {key: _mapped(item, write) for key, item in given.items()}
    return [_mapped(item, write) for item in given]


def keras2_state(optimizer: BaseOptimizer, release: Release = LAST) -> list[Variable]:
    """The optimizer's arrays in the release's order; with loss scaling only those of the inner optimizer."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    assert isinstance(inner, Optimizer), "all others are unsupported"
    legacy = inner.legacy or not release.has_new_optimizers
    iteration, *slots = inner.keras2_variables(legacy=legacy)
    slots += [] if legacy else inner.keras2_idle()
    if not release.in_tensorflow and kind_of(inner) == "Adam" and not inner.option_value("amsgrad"):
        # Standalone Keras requires one placeholder per weight.
        slots += [Variable(f"vhat_{index}", np.zeros(1, np.float32)) for index, _ in enumerate(inner.weights)]
    return [Variable("iter" if legacy else "iteration", np.array(iteration.value, np.int64)), *slots]
