"""Matches the arguments of `compile` to a model's outputs: optimizer, losses with weights, metrics, and their names.

The release that wrote the model's file determines which argument applies to which output, Keras 3 for other models.
Arguments that only Keras 2 accepts (one loss with a list of weights, one list of metrics for all outputs) have its
meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from layergraph.config.options import Expected, as_list, keras_object, short_repr
from layergraph.config.training_rules import KERAS3_RULES, TrainingRules
from layergraph.errors import ConfigError, DataError, LayerGraphError, unknown_name
from layergraph.functional.tensor import Shape
from layergraph.training import losses
from layergraph.training.losses import Loss
from layergraph.training.metrics import table as metrics
from layergraph.training.metrics.metric import Metric, Result
from layergraph.training.optimizers import table as optimizers
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.options import number

#: Maximum number of metrics of a model; each epoch logs all of them.
MOST_METRICS = 1000


@dataclass(frozen=True, slots=True)
class ByShapes:
    """A name ("accuracy", "crossentropy") that is resolved by the shapes of the first batch."""

    word: str


def is_single(value: object) -> bool:
    """Whether `value` is one loss or metric rather than several; a serialised one is a dict, too."""
    if isinstance(value, Mapping):
        return "class_name" in value
    return not isinstance(value, (list, tuple))


#: Path of an output in nested dicts and lists: ("heads", "left") or (0, "left").
Path = tuple[str | int, ...]


def output_paths(structure: Any, path: Path = ()) -> list[Path]:
    """Paths of a model's outputs in flat order: dicts by sorted keys, as Keras flattens them."""
    if isinstance(structure, Mapping):
        return [found for key in sorted(structure) for found in output_paths(structure[key], (*path, key))]
    if isinstance(structure, (list, tuple)):
        return [found for place, item in enumerate(structure) for found in output_paths(item, (*path, place))]
    return [path]


def at_path(what: str, given: Any, path: Path) -> Any:
    """The item for the output at `path`: the one in the nesting, or one that applies to all outputs below it.

    Raises ConfigError if `given` isn't nested like the outputs.
    """
    for key in path:
        if given is None or is_single(given):
            return given
        if isinstance(given, Mapping):
            given = given.get(key)
        elif isinstance(key, int) and key < len(given):
            given = given[key]
        else:
            raise ConfigError(f"{what}: got a list of {len(given)}, expected the nesting of the outputs")
    return given


def labels_at(given: Any, path: Path) -> Any:
    """The labels of the output at `path`. Raises DataError if they aren't nested like the outputs."""
    for place, key in enumerate(path):
        if given is not None and not isinstance(given, (Mapping, list, tuple)):
            raise DataError(f"labels: got an array at {list(path[:place])}, expected the nesting of the outputs")
        given = at_path("labels", given, (key,))
    return given


def is_flat(given: Any, outputs: int) -> bool:
    """Whether `given` is a list with an item per output, regardless of the outputs' nesting."""
    return isinstance(given, (list, tuple)) and len(given) == outputs and all(map(is_single, given))


class Compiled:
    """The optimizer, and by output in flat order: loss, loss weight, metrics. All of them follow `rules`.

    Raises ConfigError for unknown names and arguments that don't fit the outputs.
    """

    def __init__(
        self,
        output_names: Sequence[str],
        *,
        paths: Sequence[Path] | None = None,
        shown_names: Sequence[str] | None = None,
        rules: TrainingRules = KERAS3_RULES,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        self.output_names = tuple(output_names)
        #: Keras's names of the outputs: all outputs of one layer have its name.
        self.shown_names = self.output_names if shown_names is None else tuple(shown_names)
        #: Paths of the outputs, if they are nested more than one level deep.
        self.paths = tuple(paths) if paths is not None and any(len(path) > 1 for path in paths) else None
        self.rules = rules
        given = _as_json([optimizer, loss, loss_weights, metrics, weighted_metrics])
        optimizer, loss, loss_weights, metrics, weighted_metrics = given
        self.optimizer: BaseOptimizer = optimizers.optimizer(optimizer, legacy=not rules.has_new_optimizers)
        self.optimizer.follow(rules)
        self._given = {
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        loss, loss_weights = self._flattened("loss", loss), self._flattened("loss_weights", loss_weights)
        self._losses = [self._loss(item) for item in _losses_by_output(loss, self.output_names)]
        self.loss_weights = _weights_by_output(loss_weights, loss, self.output_names, by_name=rules.lists_for_all)
        self._metrics = self._metrics_by_output("metrics", metrics)
        self._weighted_metrics = self._metrics_by_output("weighted_metrics", weighted_metrics)
        metrics_given = sum(map(len, (*self._metrics, *self._weighted_metrics)))
        if metrics_given > MOST_METRICS:
            raise ConfigError(f"metrics: got {metrics_given} for all outputs together, expected at most {MOST_METRICS}")

    def _flattened(self, what: str, given: Any) -> Any:
        """A nesting like that of the outputs as a list in flat order; a dict with Keras's names with our own names."""
        if given is None or is_single(given):
            return given
        if self.paths is None:
            return self._by_own_names(given) if isinstance(given, Mapping) else given
        if what in ("loss", "loss_weights") and is_flat(given, len(self.paths)):
            return list(given)
        return [at_path(what, given, path) for path in self.paths]

    def _metrics_by_output(self, what: str, given: Any) -> list[list[Metric | ByShapes]]:
        given = self._flattened(what, given)
        several = _several_by_output(what, given, self.output_names, for_all=self.rules.lists_for_all)
        return [[self._metric(metric) for metric in ones] for ones in several]

    def _loss(self, given: Any) -> Loss | ByShapes | None:
        if given is None:
            return None
        if isinstance(given, str) and given.lower() in losses.BY_SHAPES:
            return ByShapes(given)
        made = losses.loss(given)
        made.follow(self.rules)
        return made

    def _metric(self, given: Any) -> Metric | ByShapes:
        return ByShapes(given) if metrics.by_shapes(given) else self._following(metrics.metric(given))

    def _following(self, metric: Metric) -> Metric:
        metric.follow(self.rules)
        return metric

    # Resolved by shapes.

    def resolve(self, label_shapes: Sequence[Shape | None], output_shapes: Sequence[Shape]) -> None:
        """Resolves what depends on shapes, once: as in Keras, later data with other shapes has no effect.

        Raises DataError if an output with a loss or metrics has no labels, or if a metric doesn't support the shapes.
        """
        for index, (labels, outputs) in enumerate(zip(label_shapes, output_shapes, strict=True)):
            several = [self._metrics[index], self._weighted_metrics[index]]
            if labels is None:
                if self._losses[index] is not None or any(several):
                    raise DataError(f"labels of output '{self.output_names[index]}' are missing")
                continue
            loss = self._losses[index]
            if isinstance(loss, ByShapes):
                self._losses[index] = self._loss(losses.loss_for_shapes(labels, outputs))
            for ones in several:
                ones[:] = [self._resolved(metric, index, labels, outputs) for metric in ones]
                for metric in ones:
                    if isinstance(metric, Metric):
                        metric.check_shapes(labels, outputs)

    def _resolved(self, metric: Metric | ByShapes, index: int, labels: Shape, outputs: Shape) -> Metric:
        if isinstance(metric, Metric):
            return metric
        return self._following(self._metric_for(metric.word, index, labels, outputs))

    def _metric_for(self, word: str, index: int, labels: Shape, outputs: Shape) -> Metric:
        if self.rules.accuracy_by_loss:
            return metrics.metric_for_loss(word, self.loss(index), outputs)
        return metrics.metric_for_shapes(word, labels, outputs)

    @contextmanager
    def undecided_on_error(self) -> Iterator[None]:
        """Undoes `resolve` if the data turns out not to fit."""
        before = self._losses[:], [m[:] for m in self._metrics], [m[:] for m in self._weighted_metrics]
        try:
            yield
        except LayerGraphError:
            self._losses, self._metrics, self._weighted_metrics = before
            raise

    def loss(self, index: int) -> Loss | None:
        """The loss of an output; None if it has none. Raises DataError if it isn't resolved yet."""
        loss = self._losses[index]
        if isinstance(loss, ByShapes):
            raise DataError(f"loss '{loss.word}' of output '{self.output_names[index]}' needs labels to be resolved")
        return loss

    def has_loss(self, index: int) -> bool:
        """Whether an output has a loss, resolved or not."""
        return self._losses[index] is not None

    @property
    def given(self) -> Mapping[str, Any]:
        """The arguments of `compile` other than the optimizer, by name."""
        return self._given

    def listed_metrics(self, *, weighted: bool = False) -> list[list[Metric | ByShapes]]:
        """All metrics, or weighted metrics, by output; those not resolved yet as ByShapes."""
        return [list(ones) for ones in (self._weighted_metrics if weighted else self._metrics)]

    def likely_metric(self, word: str, index: int, output_shape: Shape) -> Metric:
        """The metric that a name will be resolved to for an output, by the labels that its loss takes."""
        loss = self.loss(index)
        classes = loss is not None and loss.labels_are_classes
        return self._metric_for(word, index, output_shape[:-1] if classes else output_shape, output_shape)

    def needs_labels(self, index: int) -> bool:
        """Whether an output has a loss or a metric."""
        return self._losses[index] is not None or bool(self._metrics[index] or self._weighted_metrics[index])

    def metrics(self, index: int) -> list[Metric]:
        """The metrics of an output that are computed without sample weights."""
        return [m for m in self._metrics[index] if isinstance(m, Metric)]

    def weighted_metrics(self, index: int) -> list[Metric]:
        """The metrics of an output that are computed with sample weights."""
        return [m for m in self._weighted_metrics[index] if isinstance(m, Metric)]

    @property
    def shown_losses(self) -> dict[int, str]:
        """Index -> log name of the outputs' own losses: of all outputs with a loss, if there are at least two."""
        having = [index for index, loss in enumerate(self._losses) if loss is not None]
        return {index: f"{self._shown_name(index)}_loss" for index in having} if len(having) > 1 else {}

    def _by_own_names(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        names = {own: shown for own, shown in zip(self.output_names, self.shown_names, strict=True) if own != shown}
        known = {own: given[shown] for own, shown in names.items() if shown in given}
        return {**known, **{name: item for name, item in given.items() if name not in names.values()}}

    def _shown_name(self, index: int) -> str:
        # As in Keras: the path, with the output's name in place of its index in a list.
        path = () if self.paths is None else self.paths[index]
        keys = path if path and isinstance(path[-1], str) else (*path[:-1], self.shown_names[index])
        return "/".join(map(str, keys))

    # Logs.

    def reset_metrics(self) -> None:
        """Resets the state of all metrics."""
        for index in range(len(self.output_names)):
            for metric in (*self.metrics(index), *self.weighted_metrics(index)):
                metric.reset()

    def named_metrics(self) -> dict[str, Metric]:
        """The metrics by their log names (Keras's CompileMetrics.result).

        Repeated names get the suffixes _1, _2; that of a weighted metric is prefixed with `weighted_` first.
        """
        named: dict[str, Metric] = {}
        seen: Counter[str] = Counter()
        for plain in (True, False):
            for index, output in enumerate(self.shown_names):
                prefix = f"{output}_" if len(self.shown_names) > 1 else ""
                for metric in self.metrics(index) if plain else self.weighted_metrics(index):
                    name = f"{prefix}{metric.name}"
                    if seen[name] and not plain:
                        name = f"{prefix}weighted_{metric.name}"
                    seen[name] += 1
                    named[name if seen[name] == 1 else f"{name}_{seen[name] - 1}"] = metric
        return named

    def in_keras_order(self, logs: Mapping[str, Result]) -> list[Result]:
        """The logs in the order of `evaluate`: loss, metrics without prefix, losses of outputs, the rest by name."""
        own = [m.name for index in range(len(self.output_names)) for m in self.metrics(index)]
        own += [m.name for index in range(len(self.output_names)) for m in self.weighted_metrics(index)]
        first = ["loss", *own, *self.shown_losses.values()]
        return [logs[n] for n in first if n in logs] + [logs[n] for n in sorted(logs) if n not in first]

    # Files.

    def keras_config(self) -> dict[str, Any]:
        """Keras 3's `compile_config`. Raises ConfigError for Python functions, which can't be serialised."""
        return {
            "optimizer": keras_object("keras.optimizers", self.optimizer),
            "loss": _written(self._given["loss"], lambda item: keras_object("keras.losses", losses.loss(item))),
            "loss_weights": _written(self._given["loss_weights"], lambda item: item),
            "metrics": _written(
                self._given["metrics"], lambda item: keras_object("keras.metrics", metrics.metric(item))
            ),
            "weighted_metrics": _written(
                self._given["weighted_metrics"], lambda item: keras_object("keras.metrics", metrics.metric(item))
            ),
            "run_eagerly": False,
            "steps_per_execution": 1,
            "jit_compile": False,
        }


def _by_name(what: str, given: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    for name in given:
        if name not in names:
            raise ConfigError(f"{what}: " + unknown_name("output", name, names))
    return [given.get(name) for name in names]


def _losses_by_output(given: Any, names: Sequence[str]) -> list[Any]:
    if is_single(given):
        return [given] * len(names)
    if isinstance(given, Mapping):
        # As in Keras 2, outputs that a dict doesn't name have no loss; Keras 3 requires all names.
        return _by_name("loss", given, names)
    if len(given) != len(names):
        raise ConfigError(f"loss: got a list of {len(given)}, expected one for each output: {list(names)}")
    return list(given)


def _weights_by_output(given: Any, loss: Any, names: Sequence[str], *, by_name: bool) -> list[float | None]:
    if given is None:
        return [None] * len(names)
    if isinstance(given, Mapping):
        weights = _by_name("loss_weights", given, names)
        if isinstance(loss, (list, tuple)) and not by_name:
            # Keras 3 pairs a list of losses with a dict of weights by the sorted order of its keys, not by name.
            if len(given) != len(names):
                raise ConfigError(f"loss_weights: got {sorted(given)}, expected all of {list(names)}")
            weights = [given[key] for key in sorted(given)]
    elif isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise ConfigError(f"loss_weights: got a list of {len(given)}, expected one for each output: {list(names)}")
        weights = list(given)
    elif len(names) == 1:
        weights = [given]
    else:
        raise ConfigError(f"loss_weights is {short_repr(given)}, expected a list or dict for outputs {list(names)}")
    try:
        return [None if weight is None else number(weight) for weight in weights]
    except Expected:
        raise ConfigError(f"loss_weights is {short_repr(given)}, expected numbers") from None


def _several_by_output(what: str, given: Any, names: Sequence[str], *, for_all: bool) -> list[list[Any]]:
    """The metrics of each output; `for_all` is whether a flat list always applies to all outputs, as in Keras 2."""
    if given is None:
        return [[] for _ in names]
    if is_single(given):
        return [[_own(given, index)] for index in range(len(names))]
    if len(names) == 1:
        # One output: all metrics apply to it, however they are nested.
        if isinstance(given, Mapping):
            return [_flat(_by_name(what, given, names))]
        return [_flat(given)]
    if isinstance(given, Mapping):
        return [_flat(item) for item in _by_name(what, given, names)]
    is_flat_list = all(is_single(item) for item in given)
    if len(given) == len(names) and not (for_all and is_flat_list):
        return [_flat(item) for item in given]
    if is_flat_list:
        return [[_own(item, index) for item in given] for index in range(len(names))]
    raise ConfigError(f"{what}: got a list of {len(given)}, expected one for each output: {list(names)}")


def _own(given: Any, index: int) -> Any:
    """A metric for the output at `index`, which doesn't share the state of one given for several."""
    return type(given).from_config(given.get_config()) if index and isinstance(given, Metric) else given


def _flat(given: Any) -> list[Any]:
    if given is None:
        return []
    if is_single(given):
        return [given]
    items = given.values() if isinstance(given, Mapping) else given
    return [leaf for item in items for leaf in _flat(item)]


def _written(given: Any, serialise: Callable[[Any], Any]) -> Any:
    """A structure as JSON. Names are kept, since their resolution may depend on shapes."""
    if given is None or isinstance(given, (str, bool, int, float)):
        return given
    if is_single(given):
        return serialise(given)
    if isinstance(given, Mapping):
        return {key: _written(item, serialise) for key, item in given.items()}
    return [_written(item, serialise) for item in given]


def compile_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `compile` from a file's config.

    Accepts `compile_config` of a Keras 3 file, and the results of `config.compiled` for other files.
    """
    config = _as_json(config)
    taken = {name: config.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    optimizer_config = config.get("optimizer", config.get("optimizer_config"))
    return {"optimizer": "rmsprop" if optimizer_config is None else optimizer_config, **taken}


def _as_json(value: Any) -> Any:
    """Settings with arrays, and what Keras 3 marks as a tuple, an array or a tensor, replaced by lists."""
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__tuple__" and isinstance(value.get("items"), list):
            return [_as_json(item) for item in value["items"]]
        if kind in ("__numpy__", "__tensor__") and isinstance(config, Mapping):
            return config.get("value")
        return {key: _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list) else as_list(value)
