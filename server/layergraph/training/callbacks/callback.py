"""Callbacks: what a run tells about itself while it goes on, by Keras's hooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layergraph.training.trainer import Trainer

Logs = Mapping[str, Any]


class Callback:
    """Base of callbacks (keras.callbacks.Callback). All hooks do nothing.

    model    the model that is trained or evaluated; `model.stop_training = True` ends the run after the batch
    params   "epochs", "steps" (of an epoch), "rows", "verbose", and in `fit` "logs": the names that epochs will log

    Hooks of batches cost time in each batch: only those that a subclass defines are called. Their logs are the running
    means of the epoch so far; they are read from the device when looked at, and only valid during the call.
    """

    model: Trainer

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def set_model(self, model: Trainer) -> None:
        """Called once, before a run."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once, before a run."""
        self.params = params

    def state(self) -> dict[str, Any]:
        """What a run that goes on from a checkpoint has to know: arrays, tensors and plain values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`. Called between `on_train_begin` and the next `on_epoch_begin`."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch. `params["resumed"]` says whether the run goes on from a checkpoint."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, with its logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch, and again where a run goes on in the middle of one; `epoch` counts from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation. `logs` is a dict, sorted by name, to which keys may be added."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch; `batch` counts from 0."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation, also that of validation data."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of a prediction."""


class History(Callback):
    """Logs of all epochs (keras.callbacks.History): what `fit` gives back.

    history   name -> values, one for each epoch that had it
    epoch     numbers of the epochs, from 0
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = []

    def state(self) -> dict[str, Any]:
        return {"history": {name: list(values) for name, values in self.history.items()}, "epoch": list(self.epoch)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.epoch = list(state["epoch"])

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class Callbacks:
    """Several callbacks, called in order. Hooks of batches go only to those that define them."""

    def __init__(self, callbacks: Iterable[Callback], model: Trainer, params: dict[str, Any]) -> None:
        self.all = list(callbacks)
        #: What all callbacks were given, the same object.
        self.params = params
        for callback in self.all:
            callback.set_params(params)
            callback.set_model(model)
        self._defining: dict[str, list[Callback]] = {}

    def call(self, hook: str, *args: Any) -> None:
        """Calls `hook` of all."""
        for callback in self.all:
            getattr(callback, hook)(*args)

    def defining(self, hook: str) -> list[Callback]:
        """Those whose class defines `hook` itself."""
        if hook not in self._defining:
            empty = getattr(Callback, hook)
            self._defining[hook] = [c for c in self.all if getattr(type(c), hook, empty) is not empty]
        return self._defining[hook]
