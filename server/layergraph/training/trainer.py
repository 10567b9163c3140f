"""compile, fit, evaluate and predict: what models have beside their graph."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from layergraph.config.options import brief
from layergraph.errors import ConfigError, DataError, NotCompiledError
from layergraph.functional.run import Run
from layergraph.functional.tensor import Shape
from layergraph.training import data
from layergraph.training.callbacks import Callback, Callbacks, History
from layergraph.training.compile import Compiled, compile_arguments
from layergraph.training.data import Array, Column, Data
from layergraph.training.labels import check_labels
from layergraph.training.loop import Loop, RunningLogs, epoch_order, new_generator
from layergraph.training.losses import Loss
from layergraph.training.optimizer import Optimizer
from layergraph.training.progress import Progress

if TYPE_CHECKING:
    from layergraph.functional.model import Model

#: Rows of a batch unless said otherwise.
BATCH_SIZE = 32


class Trainer:
    """The training side of a model. Arguments are Keras's, with the same meaning and order.

    A model read from a file knows what it was compiled with (`compile_config`) and the state of its optimizer
    (`optimizer_state`); both are used when training starts, unless `compile` was called.
    """

    def __init__(self) -> None:
        self._compiled: Compiled | None = None
        self._filed_config: Mapping[str, Any] | None = None
        #: Arrays of the file's optimizer in Keras 3's order, until the optimizer is made.
        self.optimizer_state: Sequence[Array] | None = None
        #: Set by a callback to end the run after the batch.
        self.stop_training = False
        #: What the last `fit` gave back.
        self.history: History | None = None

    @property
    def _model(self) -> Model:
        return cast("Model", self)

    # --- compile ------------------------------------------------------------------------------------------------------

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
        """Says how to train: optimizer, and for the outputs losses, their weights, and metrics.

        Each is a name, an object, or Keras's {"class_name", "config"}; losses and metrics one for all outputs, a list
        in the order of the outputs, or a dict by output name. How batches are executed (the last four arguments) is
        layergraph's own affair. Raises ConfigError for what isn't known or doesn't fit the outputs.
        """
        self._compiled = Compiled(
            self._model.output_names,
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
        )
        self.optimizer_state = None

    @property
    def compiled(self) -> bool:
        """Whether there is something to train with: from `compile`, or from the file."""
        return self._compiled is not None or self._filed_config is not None

    @property
    def compile_config(self) -> dict[str, Any] | None:
        """Arguments of `compile` as JSON: those of the call, else those of the file; None without either.

        Raises ConfigError where a loss or metric is a Python function.
        """
        if self._compiled is not None:
            return self._compiled.keras_config()
        if self._filed_config is None:
            return None
        return compile_arguments(self._filed_config, self._model.output_names)

    @compile_config.setter
    def compile_config(self, config: Mapping[str, Any] | None) -> None:
        self._filed_config = config
        self._compiled = None

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer, with the state that it had in the file; None before `compile`."""
        return self._ready().optimizer if self.compiled else None

    @property
    def metrics_names(self) -> list[str]:
        """Names of the logs, sorted. Metrics that depend on shapes are among them once data was seen."""
        ready = self._ready()
        return sorted(["loss", *ready.shown_losses.values(), *ready.named_metrics()])

    def log_direction(self, name: str) -> str | None:
        """Whether a log is better when it goes "up" or "down"; None where that isn't known."""
        ready = self._ready()
        if name == "loss" or name in ready.shown_losses.values():
            return "down"
        metric = ready.named_metrics().get(name)
        return None if metric is None else metric.direction

    def _ready(self) -> Compiled:
        """What to train with, the optimizer's state loaded. Raises NotCompiledError."""
        if self._compiled is None:
            if self._filed_config is None:
                raise NotCompiledError(
                    f"model '{self._model.name}' has no optimizer and no loss; call compile(optimizer=..., loss=...)"
                )
            names = self._model.output_names
            self._compiled = Compiled(names, **compile_arguments(self._filed_config, names))
        if self.optimizer_state is not None:
            self._compiled.optimizer.build(self._model.trainable_weights)
            self._compiled.optimizer.load(self.optimizer_state)
            self.optimizer_state = None
        return self._compiled

    # --- fit ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Callback | Iterable[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        seed: int | None = None,
        stop_on_nan: bool = False,
    ) -> History:
        """Trains for some epochs and gives back their logs.

        x, y                arrays, lists in the order of inputs and outputs, or dicts by name; first axis rows.
                            Arrays mapped from a file (`np.load(..., mmap_mode="r")`) are read batch by batch.
        validation_split    share of the rows, from the end, that are evaluated after each epoch and not trained on
        validation_data     (x, y) or (x, y, sample_weight) to be evaluated after each epoch
        class_weight        weight by class number, for models with one output; not together with sample_weight
        sample_weight       by row (or row and step), for all outputs, or a list or dict by output
        seed                of shuffling and of layers that draw; None for a random one
        stop_on_nan         ends with NonFiniteLossError when the loss is no number, for which each step waits for the
                            device; Keras, and False, go on

        The order of an epoch depends on seed and epoch number only. Raises DataError for data that doesn't fit, before
        anything is trained, and NotCompiledError.
        """
        compiled = self._ready()
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = self._split(x, y, sample_weight, validation_split)
        training = self._data(x, y, sample_weight, class_weight)
        validation = None if validation_data is None else self._data(*_unpacked(validation_data))
        size = _batch_size(batch_size)
        device = self._device()
        seed = random.randrange(2**31) if seed is None else seed
        loop = Loop(self._model, compiled, new_generator(seed, device))
        compiled.optimizer.build(self._model.trainable_weights)

        self.history = history = History()
        steps = data.steps_of(training.rows, size)
        hooks = self._hooks(callbacks, verbose, epochs=epochs, steps=steps, rows=training.rows, more=[history])
        hooks.params["logs"] = [
            *self.metrics_names,
            *(f"val_{n}" for n in self.metrics_names if validation is not None),
        ]
        self.stop_training = False
        logs: dict[str, Any] = {}
        hooks.call("on_train_begin", {})
        for epoch in range(initial_epoch, epochs):
            hooks.call("on_epoch_begin", epoch, {})
            order = epoch_order(training.rows, seed, epoch) if shuffle else None
            logs = self._train_epoch(loop, training, size, order, hooks, epoch if stop_on_nan else None)
            if validation is not None and _validates(epoch, validation_freq):
                found = self._tested(loop, validation, validation_batch_size or size, hooks)
                logs.update({f"val_{name}": value for name, value in found.items()})
            hooks.call("on_epoch_end", epoch, logs)
            if self.stop_training:
                break
        if epochs > 0:
            compiled.optimizer.finalize()
        hooks.call("on_train_end", logs)
        return history

    def _train_epoch(
        self,
        loop: Loop,
        rows: Data,
        size: int,
        order: torch.Tensor | None,
        hooks: Callbacks,
        checked_epoch: int | None,
    ) -> dict[str, Any]:
        begin, end = hooks.defining("on_train_batch_begin"), hooks.defining("on_train_batch_end")
        loop.reset()
        with loop.recording():
            for step, batch in enumerate(rows.batches(size, order)):
                for callback in begin:
                    callback.on_train_batch_begin(step, {})
                loop.train(batch)
                if checked_epoch is not None:
                    loop.check_finite(checked_epoch, step)
                if end:
                    running = RunningLogs(loop)
                    for callback in end:
                        callback.on_train_batch_end(step, running)
                if self.stop_training:
                    break
        return loop.logs()

    def _tested(self, loop: Loop, rows: Data, size: int, hooks: Callbacks) -> dict[str, float]:
        begin, end = hooks.defining("on_test_batch_begin"), hooks.defining("on_test_batch_end")
        hooks.call("on_test_begin", {})
        loop.reset()
        for step, batch in enumerate(rows.batches(size)):
            for callback in begin:
                callback.on_test_batch_begin(step, {})
            loop.test(batch)
            if end:
                running = RunningLogs(loop)
                for callback in end:
                    callback.on_test_batch_end(step, running)
        logs = loop.logs()
        hooks.call("on_test_end", logs)
        return logs

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on one batch. Gives the loss before it, with metrics as a list, or a dict by name."""
        compiled = self._ready()
        batch = self._data(x, y, sample_weight, class_weight)
        loop = Loop(self._model, compiled, new_generator(None, self._device()))
        compiled.optimizer.build(self._model.trainable_weights)
        loop.reset()
        with loop.recording():
            loop.train(batch.batch(slice(0, batch.rows), batch.rows))
        return self._numbers(loop.logs(), return_dict)

    # --- evaluate -----------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics on data: one number, a list in Keras's order, or a dict by name. Raises as `fit` does."""
        compiled = self._ready()
        rows = self._data(x, y, sample_weight)
        size = _batch_size(batch_size)
        hooks = self._hooks(callbacks, verbose, epochs=1, steps=data.steps_of(rows.rows, size), rows=rows.rows)
        loop = Loop(self._model, compiled, new_generator(None, self._device()))
        return self._numbers(self._tested(loop, rows, size, hooks), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics on one batch."""
        batch = self._data(x, y, sample_weight)
        loop = Loop(self._model, self._ready(), new_generator(None, self._device()))
        loop.reset()
        loop.test(batch.batch(slice(0, batch.rows), batch.rows))
        return self._numbers(loop.logs(), return_dict)

    def _numbers(self, logs: dict[str, float], as_dict: bool) -> Any:
        if as_dict:
            return logs
        numbers = self._ready().in_keras_order(logs)
        return numbers[0] if len(numbers) == 1 else numbers

    # --- predict ------------------------------------------------------------------------------------------------------

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        callbacks: Callback | Iterable[Callback] | None = None,
    ) -> Any:
        """Outputs for arrays, as NumPy arrays nested as the model's outputs are; zero rows give zero rows."""
        model = self._model
        arrays = data.input_arrays(x, model.input_specs)
        count = data.same_rows({f"input '{s.name}'": a for s, a in zip(model.input_specs, arrays, strict=True)})
        columns = data.input_columns(arrays, model.input_specs, self._device())
        rows = Data(count, columns, [], [])
        size = _batch_size(batch_size)
        hooks = self._hooks(callbacks, verbose, epochs=1, steps=data.steps_of(count, size), rows=count)
        begin, end = hooks.defining("on_predict_batch_begin"), hooks.defining("on_predict_batch_end")
        hooks.call("on_predict_begin", {})
        parts: list[list[Array]] = [[] for _ in model.outputs]
        batches = rows.batches(size) if count else [rows.batch(slice(0, 0), 0)]
        plan = model.plan()
        with torch.no_grad():
            for step, batch in enumerate(batches):
                for callback in begin:
                    callback.on_predict_batch_begin(step, {})
                outputs, _ = plan.forward(Run(training=False, losses=None), batch.inputs)
                for part, output in zip(parts, outputs, strict=True):
                    part.append(_as_numpy(output))
                for callback in end:
                    callback.on_predict_batch_end(step, {"outputs": [part[-1] for part in parts]})
        hooks.call("on_predict_end", {})
        return model.output_structure([part[0] if len(part) == 1 else np.concatenate(part) for part in parts])

    def predict_on_batch(self, x: Any) -> Any:
        """Outputs for one batch."""
        arrays = data.input_arrays(x, self._model.input_specs)
        return self.predict(arrays if len(arrays) > 1 else arrays[0], batch_size=max(1, len(arrays[0])))

    # --- data ---------------------------------------------------------------------------------------------------------

    def _device(self) -> torch.device:
        weights = self._model.weights
        return weights[0].value.device if weights else torch.device("cpu")

    def _hooks(
        self,
        callbacks: Callback | Iterable[Callback] | None,
        verbose: int | str,
        *,
        epochs: int,
        steps: int,
        rows: int,
        more: Sequence[Callback] = (),
    ) -> Callbacks:
        own = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        verbose = 1 if verbose == "auto" else int(verbose)
        shown = [Progress(verbose)] if verbose else []
        params = {"epochs": epochs, "steps": steps, "rows": rows, "verbose": verbose}
        # As in Keras the caller's callbacks come first: what they add to the logs is shown and kept.
        return Callbacks([*own, *shown, *more], self._model, params)

    def _split(self, x: Any, y: Any, weight: Any, share: float) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
        """The rows to train on, and the last ones for validation."""
        arrays = data.input_arrays(x, self._model.input_specs)
        rows = data.check_rows({"x": arrays[0]})
        at = int(np.floor(rows * (1.0 - share)))
        if not 0 < share < 1 or at in (0, rows):
            raise DataError(f"validation_split is {share}, expected a share that leaves rows on both sides of {rows}")
        halves = [data.split(part, at) for part in (arrays, y, weight)]
        return (halves[0][0], halves[1][0], halves[2][0]), (halves[0][1], halves[1][1], halves[2][1])

    def _data(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Mapping[int, float] | None = None
    ) -> Data:
        """Checked columns. Raises DataError where shapes, rows, names or labels don't fit."""
        model, compiled = self._model, self._ready()
        names = model.output_names
        inputs = data.input_arrays(x, model.input_specs)
        labels = self._label_arrays(y, compiled)
        shapes = [spec.shape for spec in model.output_specs]
        compiled.resolve([None if a is None else a.shape for a in labels], shapes)
        if class_weight is not None:
            sample_weight = self._from_classes(labels, class_weight, sample_weight)
        weights = _weight_arrays(sample_weight, names)
        device = self._device()
        label_columns: list[Column | None] = []
        for index, array in enumerate(labels):
            loss = compiled.loss(index)
            if array is not None and loss is not None:
                check_labels(names[index], array, shapes[index], loss)
            label_columns.append(None if array is None else Column(array, _label_dtype(array, loss), device))
        for index, name in enumerate(names):
            _check_weights(name, weights[index], shapes[index], compiled.loss(index))
        rows = data.check_rows(
            {
                **{f"input '{s.name}'": a for s, a in zip(model.input_specs, inputs, strict=True)},
                **{f"labels of output '{n}'": a for n, a in zip(names, labels, strict=True)},
                **{f"sample_weight of output '{n}'": a for n, a in zip(names, weights, strict=True)},
            }
        )
        return Data(
            rows,
            data.input_columns(inputs, model.input_specs, device),
            label_columns,
            [None if a is None else Column(a, torch.float32, device) for a in weights],
        )

    def _label_arrays(self, y: Any, compiled: Compiled) -> list[Array | None]:
        """Labels by output. A list may leave out outputs without a loss, as in Keras."""
        names = compiled.output_names
        wanted = [name for index, name in enumerate(names) if compiled.needs_labels(index)]
        if y is None:
            given: dict[str, Any] = {}
        elif isinstance(y, Mapping):
            given = dict(zip(names, data.matched("labels", y, names), strict=True))
        else:
            count = len(y) if isinstance(y, (list, tuple)) else 1
            taken = wanted if count == len(wanted) else list(names)
            given = dict(zip(taken, data.matched("labels", y, taken), strict=True))
        for name in wanted:
            if given.get(name) is None:
                raise DataError(f"labels of output '{name}' are missing")
        return [
            None if given.get(name) is None else data.as_array(f"labels of output '{name}'", given[name])
            for name in names
        ]

    def _from_classes(self, labels: Sequence[Array | None], weights: Mapping[int, float], sample_weight: Any) -> Array:
        if sample_weight is not None:
            raise ConfigError("class_weight and sample_weight can't be given together")
        if len(labels) != 1 or labels[0] is None:
            raise ConfigError("class_weight is only for models with one output; use sample_weight")
        return data.class_weights(labels[0], {int(key): float(value) for key, value in weights.items()})


def _weight_arrays(given: Any, names: Sequence[str]) -> list[Array | None]:
    """Sample weights by output; one array is for all outputs."""
    if given is None:
        return [None] * len(names)
    single = not isinstance(given, (Mapping, list, tuple))
    items = [given] * len(names) if single else data.matched("sample_weight", given, names)
    return [
        None if i is None else data.as_array(f"sample_weight of '{n}'", i) for n, i in zip(names, items, strict=True)
    ]


def _check_weights(name: str, weights: Array | None, predictions: Shape, loss: Loss | None) -> None:
    """Weights are by row, or by row and step: the beginning of the predictions' shape without the axis of a loss."""
    if weights is None or getattr(loss, "axis", -1) != -1:
        return
    shape = weights.shape[:-1] if weights.ndim == len(predictions) and weights.shape[-1] == 1 else weights.shape
    steps = predictions[1:-1]
    if len(shape) > 1 + len(steps) or any(w not in (1, n or w) for w, n in zip(shape[1:], steps, strict=False)):
        raise DataError(
            f"sample_weight of output '{name}': got shape {weights.shape}, expected (rows,)"
            + (f" or {predictions[:-1]}" if steps else "")
        )


def _label_dtype(labels: Array, loss: Loss | None) -> torch.dtype:
    """Class numbers stay integers; all other labels get the type of the predictions."""
    classes = loss.labels_are_classes if loss is not None else labels.dtype.kind in "iu"
    return torch.int64 if classes else torch.float32


def _unpacked(validation: Any) -> tuple[Any, Any, Any]:
    if not isinstance(validation, (list, tuple)) or len(validation) not in (2, 3):
        raise DataError("validation_data: expected (x, y) or (x, y, sample_weight)")
    x, y, *weight = validation
    return x, y, weight[0] if weight else None


def _batch_size(given: int | None) -> int:
    if given is None:
        return BATCH_SIZE
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1:
        raise ConfigError(f"batch_size is {brief(given)}, expected a positive integer")
    return int(given)


def _validates(epoch: int, frequency: int | Sequence[int]) -> bool:
    return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency


def _as_numpy(tensor: torch.Tensor) -> Array:
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy())
