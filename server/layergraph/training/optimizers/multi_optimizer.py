"""Several optimizers in one, each for the weights with matching paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, Expected, keras_object, option, optional
from layergraph.config.training_rules import TrainingRules
from layergraph.errors import ConfigError, DataError
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.formulas import formula
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.state import Tensor, Trainable, Variable
from layergraph.training.options import MOST_PATTERNS, number, text

#: Number of own variables: the iteration, and an unused learning rate.
_OWN = 2


def _by_pattern(value: Any) -> dict[str, Optimizer]:
    if not isinstance(value, Mapping):
        raise Expected("optimizers by regular expression")
    if len(value) > MOST_PATTERNS:
        raise Expected(f"at most {MOST_PATTERNS} regular expressions")
    for pattern in value:
        try:
            re.compile(text(pattern))
        except (re.error, Expected):
            raise Expected("optimizers by regular expression") from None
    return {pattern: formula(item) for pattern, item in value.items()}


class OptimizerMap(Configurable):
    """The optimizer of each weight (keras.optimizers.OptimizerMap), by its path or a regular expression.

    A key equal to the path has precedence; regular expressions must match the whole path. Lookup raises ConfigError if
    several match.
    """

    default_optimizer: Optimizer = option(formula)
    optimizer_map: dict[str, Optimizer] = option(lambda value: _by_pattern(value or {}), default=None)

    def __getitem__(self, path: str) -> Optimizer:
        if path in self.optimizer_map:
            return self.optimizer_map[path]
        matching = [pattern for pattern in self.optimizer_map if re.fullmatch(pattern, path)]
        if len(matching) > 1:
            raise ConfigError(f"OptimizerMap: weight '{path}' matches {matching}, expected at most one of them")
        return self.optimizer_map[matching[0]] if matching else self.default_optimizer

    @property
    def optimizers(self) -> list[Optimizer]:
        """The distinct optimizers, with the default one last."""
        found: list[Optimizer] = []
        for item in (*self.optimizer_map.values(), self.default_optimizer):
            if not any(item is known for known in found):
                found.append(item)
        return found

    def get_config(self) -> dict[str, Any]:
        return {
            "default_optimizer": keras_object("keras.optimizers", self.default_optimizer),
            "optimizer_map": {
                pattern: keras_object("keras.optimizers", item) for pattern, item in self.optimizer_map.items()
            },
        }


def _map(value: Any) -> OptimizerMap:
    if isinstance(value, Mapping) and value.get("class_name") == "OptimizerMap":
        config = value.get("config")
        value = OptimizerMap.from_config(config) if isinstance(config, Mapping) else None
    if not isinstance(value, OptimizerMap):
        raise Expected("an OptimizerMap")
    return value


class MultiOptimizer(BaseOptimizer):
    """Applies one of several optimizers to each weight (keras.optimizers.MultiOptimizer).

    loss_scale_factor   replaces that of the inner optimizers

    There is no common learning rate: callbacks change that of each inner optimizer.
    """

    optimizer_map: OptimizerMap = option(_map)
    loss_scale_factor: float | None = option(optional(number), default=None)

    def setup(self) -> None:
        super().setup()
        self.iterations = 0
        self.learning_rate = None
        self.optimizers = self.optimizer_map.optimizers
        for inner in self.optimizers:
            inner.loss_scale_factor = self.loss_scale_factor
        #: For each optimizer, the indices of its weights.
        self._places: list[list[int]] = [[] for _ in self.optimizers]

    def follow(self, rules: TrainingRules) -> None:
        for inner in self.optimizers:
            inner.follow(rules)

    @property
    def takes_rows(self) -> bool:
        return all(inner.takes_rows for inner in self.optimizers)

    @property
    def variables(self) -> list[Variable]:
        own = [
            Variable("iteration", np.array(self.iterations, np.int32)),
            Variable("learning_rate", np.array(0.0, np.float32)),
        ]
        return [*own, *(variable for inner in self.optimizers for variable in inner.variables)]

    def build(self, weights: Iterable[Trainable]) -> None:
        weights = tuple(weights)
        chosen = [self.optimizer_map[weight.path] for weight in weights]
        self._places = [[i for i, item in enumerate(chosen) if item is inner] for inner in self.optimizers]
        for inner, places in zip(self.optimizers, self._places, strict=True):
            inner.build([weights[place] for place in places])

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        """Loads the state from a Keras file. Raises DataError if it doesn't fit."""
        counts = [len(inner.variables) for inner in self.optimizers]
        # An optimizer without steps has no slots.
        unbuilt = [sum(not variable.value.shape for variable in inner.variables[:2]) for inner in self.optimizers]
        if len(arrays) == _OWN + sum(unbuilt) and not any(array.shape for array in arrays):
            counts = unbuilt
        if len(arrays) != _OWN + sum(counts):
            raise DataError(
                f"optimizer '{self.name}': got {len(arrays)} arrays of state, expected {_OWN + sum(counts)}"
            )
        start = _OWN
        for inner, count in zip(self.optimizers, counts, strict=True):
            inner.load(arrays[start : start + count])
            start += count
        self.iterations = int(arrays[0])

    def state(self) -> dict[str, Any]:
        return {"iterations": self.iterations, "inner": [inner.state() for inner in self.optimizers]}

    def restore(self, state: Mapping[str, Any]) -> None:
        for inner, kept in zip(self.optimizers, state["inner"], strict=True):
            inner.restore(kept)
        self.iterations = state["iterations"]

    @property
    def rated(self) -> list[tuple[str, BaseOptimizer]]:
        # As in Keras, if several have the same name, the last one is logged.
        return [(f"learning_rate_{inner.name}", inner) for inner in self.optimizers]

    def rate(self) -> float:
        return self.optimizers[-1].rate()

    def scaled(self, loss: Tensor) -> Tensor:
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        for inner, places in zip(self.optimizers, self._places, strict=True):
            if places:
                inner.apply([gradients[place] for place in places])
        self.iterations += 1

    def finalize(self) -> None:
        for inner in self.optimizers:
            inner.finalize()

    @property
    def averaging(self) -> list[Optimizer]:
        return [inner for inner in self.optimizers if inner.use_ema]

    @property
    def inner_states(self) -> dict[str, list[Variable]]:
        found: dict[str, list[Variable]] = {}
        kinds: Counter[str] = Counter()
        for inner in self.optimizers:
            kind = snake_case(type(inner).__name__)
            found[f"optimizers/{kind}_{kinds[kind]}" if kinds[kind] else f"optimizers/{kind}"] = inner.variables
            kinds[kind] += 1
        return found

    def get_config(self) -> dict[str, Any]:
        return {
            "optimizer_map": keras_object("keras.optimizers", self.optimizer_map),
            "loss_scale_factor": self.loss_scale_factor,
            "name": self.name,
        }
