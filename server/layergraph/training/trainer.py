"""compile, fit, evaluate and predict: the methods of a model for training."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch

from layergraph.errors import ConfigError
from layergraph.functional.call_context import CallContext
from layergraph.functional.nest import Structure
from layergraph.functional.strings import Strings
from layergraph.training import data
from layergraph.training.arguments import (
    backup_checkpoints,
    check_alone,
    checked_batch_size,
    checked_steps,
    chosen_rows,
    count_batches,
    created_callbacks,
    unpacked_validation,
)
from layergraph.training.callbacks.callback import Callback, Callbacks, History
from layergraph.training.callbacks.progress import Progress
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.compile import Compiled
from layergraph.training.compiled_model import CompiledModel
from layergraph.training.data import Array, Batch, Data
from layergraph.training.data_adapter import adapt_data, adapt_inputs, model_device, split_rows
from layergraph.training.denormals import flushed_denormals
from layergraph.training.epochs import Epochs
from layergraph.training.fit import Fit, FitOptions, Validation, tested
from layergraph.training.frozen_cache import FrozenCache
from layergraph.training.loop import Loop, new_generator
from layergraph.training.malloc_tuning import keep_freed_memory
from layergraph.training.metrics.metric import Result
from layergraph.training.shareable import check_shareable
from layergraph.training.streams import Source, Stream, StreamEpochs, batch_inputs, source
from layergraph.training.workers import Workers


class Trainer(CompiledModel):
    """A trainable graph. Methods have Keras's arguments, in order and meaning. `models.Model` is the full class."""

    def __init__(self, inputs: Structure, outputs: Structure, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(inputs, outputs, name, trainable)
        #: The return value of the last `fit`.
        self.history: History | None = None
        #: States of stateful layers after the last batch.
        self._states: dict[object, list[torch.Tensor]] = {}

    def reset_states(self) -> None:
        """Resets the states of stateful layers to zeros."""
        self._states.clear()

    # Fit.

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
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        seed: int | None = None,
        on_nan: str = "continue",
        checkpoints: Checkpoints | None = None,
        workers: Workers | None = None,
        *,
        rows: Any = None,
        validation_rows: Any = None,
        cache_frozen: FrozenCache | bool = False,
    ) -> History:
        """Trains for some epochs and returns their logs.

        x, y                arrays, lists in the order of inputs and outputs, or dicts by name; the first axis is rows.
                            Memory-mapped arrays (`np.load(..., mmap_mode="r")`) are read batch by batch. x may also be
                            an iterable of batches (x, y) or (x, y, sample_weight): a keras.utils.PyDataset, whose
                            batches are shuffled, a torch.utils.data.DataLoader, or a generator, for which
                            steps_per_epoch sets the length of an epoch
        callbacks           callbacks, their names, or Keras's {"class_name", "config"}
        validation_split    fraction of the rows, from the end, that are validated on and not trained on
        validation_data     (x, y), (x, y, sample_weight) or batches to evaluate after each epoch
        class_weight        weight by class index, for models with one output; not together with sample_weight
        sample_weight       by row (or row and timestep), for all outputs, or a list or dict by output
        steps_per_epoch     batches per epoch; the next epoch continues behind them. An epoch also ends with the data
        validation_steps    number of batches to evaluate, from the first
        validation_freq     epochs between validations, or a list of epochs, counted from 1
        seed                of shuffling and of random layers; None for a random one
        on_nan              if the loss is NaN or infinite: "continue", as in Keras, or "stop", which raises
                            NonFiniteLossError and synchronises with the device after each step
        checkpoints         where the state of the run is saved. If a checkpoint exists, the run is resumed from it and
                            must have the same data and arguments; it ends with the weights of an uninterrupted run
        workers             group of processes that all make this call and train one model together. Logs and weights
                            equal those of one process; callbacks and checkpoints are the first worker's
        rows                indices of the rows to train on, in the order of an epoch without shuffling; default: all.
                            The others aren't read, and none are copied
        validation_rows     indices of the rows of x, y and sample_weight to validate on, in place of validation_data
        cache_frozen        True keeps the outputs of the frozen layers before all trained ones: they are computed once
                            for each row, not in each epoch. Losses and weights stay the same, to the rounding of a row
                            in another batch, and bit for bit without shuffling. A FrozenCache says where and how much

        The order of rows in an epoch depends on seed and epoch only. Raises DataError for data that doesn't fit, before
        training starts, ConfigError for invalid arguments, and NotCompiledError before `compile`.
        """
        compiled = self._ready()
        if on_nan not in ("stop", "continue"):
            raise ConfigError(f"on_nan: got {on_nan!r}, expected 'stop' or 'continue'")
        callbacks = created_callbacks(callbacks)
        given = source(x)
        if given is not None:
            check_alone(given, y=y, sample_weight=sample_weight, validation_split=validation_split or None)
        elif validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = split_rows(self, x, y, sample_weight, validation_split)
        training = chosen_rows("rows", self._data(compiled, x, y, sample_weight, class_weight, given), rows)
        validation = self._validation(compiled, (x, y, sample_weight), validation_data, validation_rows)
        size = checked_batch_size(batch_size)
        steps_per_epoch = checked_steps("steps_per_epoch", steps_per_epoch)
        validation_steps = checked_steps("validation_steps", validation_steps)
        checkpoints = checkpoints or backup_checkpoints(callbacks)
        resumed = None if checkpoints is None else checkpoints.read()
        if seed is None:
            seed = random.randrange(2**31) if resumed is None else int(resumed["run"]["seed"])
        if workers is not None:
            seed = self._join(workers, seed, training, validation)
            if not workers.first:
                callbacks, verbose, checkpoints = [], 0, None
        loop = Loop(self, compiled, new_generator(seed, model_device(self)), workers, self._states)
        compiled.optimizer.build(self.trainable_weights)
        batches: Epochs | StreamEpochs
        if isinstance(training, Stream):
            if checkpoints is not None and not training.source.indexed:
                raise ConfigError(f"checkpoints: got {training.source.kind}, expected arrays or a PyDataset")
            batches = StreamEpochs(training, seed=seed, shuffle=shuffle, number=initial_epoch)
        else:
            batches = Epochs(training, size, seed=seed, shuffle=shuffle, number=initial_epoch, workers=workers)
        self.history = history = History()
        steps = steps_per_epoch or batches.steps
        hooks = self._hooks(callbacks, verbose, epochs=epochs, steps=steps, rows=training.rows, more=[history])
        names = self.metrics_names
        hooks.params["logs"] = [*names, *(f"val_{name}" for name in names if validation is not None)]
        hooks.params["resumed"] = resumed is not None
        self.stop_training = False
        validated = None
        if validation is not None:
            tested_size = checked_batch_size(validation_batch_size or size)
            validated = Validation(validation, tested_size, validation_steps, validation_freq)
        options = FitOptions(
            epochs=range(initial_epoch, epochs),
            steps=steps_per_epoch,
            seed=seed,
            stops_on_nan=on_nan == "stop",
            checkpoints=checkpoints,
            workers=workers,
            cache=FrozenCache(required=True) if cache_frozen is True else cache_frozen or None,
        )
        fit = Fit(self, compiled, loop, batches, validated, hooks, options)
        with keep_freed_memory(), flushed_denormals(), closing(loop):
            fit.run(resumed)
        return history

    def _validation(
        self, compiled: Compiled, training: tuple[Any, Any, Any], given: Any, rows: Any
    ) -> Data | Stream | None:
        """The data of `validation_data`, or these rows of the training data; None if there are neither."""
        if rows is None:
            return None if given is None else self._data(compiled, *unpacked_validation(given))
        if given is not None:
            raise ConfigError("validation_rows: got it with other validation data, expected one of the two")
        return chosen_rows("validation_rows", self._data(compiled, *training), rows)

    def _join(self, workers: Workers, seed: int, training: Data | Stream, validation: Data | Stream | None) -> int:
        """Makes this process one of the workers, with the weights and the seed of the first. Returns the seed."""
        if isinstance(training, Stream) or isinstance(validation, Stream):
            raise ConfigError("workers: got batches, expected arrays, whose rows can be split between workers")
        check_shareable(self)
        workers.take_over([weight.value for weight in self.weights])
        (seed,) = map(int, workers.agree(seed))
        return seed

    def _data(
        self,
        compiled: Compiled,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        batches: Source | None = None,
    ) -> Data | Stream:
        """Matches arrays, or an iterable of batches, to the model."""
        batches = source(x) if batches is None else batches
        if batches is None:
            return adapt_data(self, compiled, x, y, sample_weight, class_weight)
        check_alone(batches, y=y, sample_weight=sample_weight)
        return Stream(self, compiled, batches, class_weight)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Trains on one batch. Returns the loss before the step, in a list with metrics, or a dict by name."""
        compiled = self._ready()
        batch = adapt_data(self, compiled, x, y, sample_weight, class_weight)
        loop = Loop(self, compiled, new_generator(None, model_device(self)), states=self._states)
        compiled.optimizer.build(self.trainable_weights)
        loop.reset()
        with loop.recording():
            loop.train(batch.batch(slice(0, batch.rows), batch.rows))
        return self._numbers(loop.logs(), return_dict)

    # Evaluate.

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
        *,
        rows: Any = None,
        row_losses: Callable[[Mapping[str, torch.Tensor]], None] | None = None,
    ) -> Any:
        """Computes loss and metrics: one number, a list in Keras's order, or a dict. `steps` limits the batches.

        `row_losses` is called after each batch with the losses of its rows by log name: "loss", the sum over outputs
        with their loss weights, and each output's if there are several. A row's loss is the mean of its values, without
        masked ones, times the sample weights; penalties of regularizers don't count.

        Takes the data, the `rows`, and raises the errors, of `fit`; ConfigError if a loss has no losses by row.
        """
        compiled = self._ready()
        steps = checked_steps("steps", steps)
        held = chosen_rows("rows", self._data(compiled, x, y, sample_weight), rows)
        size = checked_batch_size(batch_size)
        count = count_batches(held, size) if steps is None else steps
        hooks = self._hooks(callbacks, verbose, epochs=1, steps=count, rows=held.rows)
        loop = Loop(self, compiled, new_generator(None, model_device(self)), states=self._states)
        loop.row_losses = row_losses
        return self._numbers(tested(loop, Validation(held, size, steps), hooks, workers=None), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Computes loss and metrics on one batch."""
        compiled = self._ready()
        batch = adapt_data(self, compiled, x, y, sample_weight)
        loop = Loop(self, compiled, new_generator(None, model_device(self)), states=self._states)
        loop.reset()
        loop.test(batch.batch(slice(0, batch.rows), batch.rows))
        return self._numbers(loop.logs(), return_dict)

    def _numbers(self, logs: dict[str, Result], as_dict: bool) -> Any:
        if as_dict:
            return logs
        numbers = self._ready().in_keras_order(logs)
        return numbers[0] if len(numbers) == 1 else numbers

    # Predict.

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
    ) -> Any:
        """Returns outputs as NumPy arrays nested as the model's outputs; no rows give outputs without rows.

        x may also be an iterable of batches, as in `fit`, whose labels and weights are left out. `steps` limits the
        batches.
        """
        steps = checked_steps("steps", steps)
        size = checked_batch_size(batch_size)
        batches: Iterable[Batch]
        count, number = 0, steps
        given = source(x)
        if given is None:
            rows = adapt_inputs(self, x)
            count, number = rows.rows, steps or data.steps_of(rows.rows, size)
            batches = islice(rows.batches(size), steps) if count else [rows.batch(slice(0, 0), 0)]
        else:
            number = steps or given.count
            held = (adapt_inputs(self, one) for one in batch_inputs(given, steps))
            batches = (rows.batch(slice(0, rows.rows), rows.rows) for rows in held)
        hooks = self._hooks(callbacks, verbose, epochs=1, steps=number, rows=count)
        begin, end = hooks.defining("on_predict_batch_begin"), hooks.defining("on_predict_batch_end")
        hooks.call("on_predict_begin", {})
        parts: list[list[Array]] = [[] for _ in self.outputs]
        plan = self.plan()
        with torch.no_grad():
            for step, batch in enumerate(batches):
                for one in begin:
                    one.on_predict_batch_begin(step, {})
                outputs, _ = plan.forward(CallContext(training=False, losses=None, states=self._states), batch.inputs)
                for part, output in zip(parts, outputs, strict=True):
                    part.append(_as_numpy(output))
                for one in end:
                    one.on_predict_batch_end(step, {"outputs": [part[-1] for part in parts]})
        hooks.call("on_predict_end", {})
        return self.output_structure([part[0] if len(part) == 1 else np.concatenate(part) for part in parts])

    def predict_on_batch(self, x: Any) -> Any:
        """Returns the outputs for one batch."""
        arrays = data.input_arrays(x, self.input_specs)
        return self.predict(arrays if len(arrays) > 1 else arrays[0], batch_size=max(1, len(arrays[0])))

    def _hooks(
        self,
        callbacks: Callback | Iterable[Callback] | None,
        verbose: int | str,
        *,
        epochs: int,
        steps: int | None,
        rows: int,
        more: Sequence[Callback] = (),
    ) -> Callbacks:
        own = created_callbacks(callbacks)
        verbose = 1 if verbose == "auto" else int(verbose)
        shown = [Progress(verbose)] if verbose else []
        params = {"epochs": epochs, "steps": steps, "rows": rows, "verbose": verbose}
        # As in Keras, the caller's callbacks come first, so that logs they add are shown and recorded.
        return Callbacks([*own, *shown, *more], self, params)


def _as_numpy(tensor: torch.Tensor | Strings) -> Array:
    if isinstance(tensor, Strings):
        return tensor.values
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy())
