"""Callbacks, which are called at fixed points of a run by Keras's hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from layergraph.errors import ConfigError
from layergraph.training.compiled_model import CompiledModel

Logs = Mapping[str, Any]
Hook: TypeAlias = Callable[..., Any]


class Callback:
    """Base of callbacks (keras.callbacks.Callback). All hooks do nothing.

    model    the model that is trained or evaluated; `model.stop_training = True` ends the run after the current batch
    params   "epochs", "steps" (per epoch), "rows", "verbose", and in `fit` "logs": the names that epochs will log

    Hooks of batches take time in each batch, so only those that a subclass overrides are called. Their logs are the
    running means of the epoch, which are read from the device on access and valid only during the call.
    """

    model: CompiledModel

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def set_model(self, model: CompiledModel) -> None:
        """Called once before a run."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once before a run."""
        self.params = params

    def state(self) -> dict[str, Any]:
        """State for a checkpoint: arrays, tensors and plain values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state`. Called between `on_train_begin` and the next `on_epoch_begin`."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called before the first epoch. `params["resumed"]` is whether the run is resumed from a checkpoint."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called after the last epoch, with its logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called before an epoch, and again if a run is resumed in the middle of it; `epoch` counts from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called after an epoch and its validation. `logs` is a dict, sorted by name, to which keys may be added."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch; `batch` counts from 0."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Called before an evaluation, including validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Called after an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Called before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Called after a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after a batch of a prediction."""


class LambdaCallback(Callback):
    """Calls functions at the hooks of a run (keras.callbacks.LambdaCallback).

    Arguments are functions, named as the hooks of Callback and called with their arguments. Raises ConfigError for an
    unknown hook.
    """

    def __init__(
        self,
        on_epoch_begin: Hook | None = None,
        on_epoch_end: Hook | None = None,
        on_train_begin: Hook | None = None,
        on_train_end: Hook | None = None,
        on_train_batch_begin: Hook | None = None,
        on_train_batch_end: Hook | None = None,
        **hooks: Hook | None,
    ) -> None:
        super().__init__()
        hooks |= {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
        }
        for name, function in hooks.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                known = [hook for hook in vars(Callback) if hook.startswith("on_")]
                raise ConfigError(f"LambdaCallback: got hook '{name}', expected one of {', '.join(known)}")
            if function is not None:
                setattr(self, name, function)


class History(Callback):
    """Logs of all epochs (keras.callbacks.History), which `fit` returns.

    history   name -> values, one per epoch that logged it
    epoch     indices of the epochs, from 0
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
    """Several callbacks, called in order. Hooks of batches are called only on callbacks that override them."""

    def __init__(self, callbacks: Iterable[Callback], model: CompiledModel, params: dict[str, Any]) -> None:
        self.all = list(callbacks)
        #: The params of all callbacks, one shared dict.
        self.params = params
        for callback in self.all:
            callback.set_params(params)
            callback.set_model(model)
        self._defining: dict[str, list[Callback]] = {}

    def call(self, hook: str, *args: Any) -> None:
        """Calls `hook` on all callbacks."""
        for callback in self.all:
            getattr(callback, hook)(*args)

    def defining(self, hook: str) -> list[Callback]:
        """The callbacks that override `hook`."""
        if hook not in self._defining:
            empty = getattr(Callback, hook)
            # On the instance, too: a LambdaCallback has its functions there.
            self._defining[hook] = [
                c for c in self.all if hook in vars(c) or getattr(type(c), hook, empty) is not empty
            ]
        return self._defining[hook]
