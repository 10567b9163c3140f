"""The callback that swaps averaged weights into the model for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.config.options import Configurable, boolean, option
from layergraph.errors import ConfigError
from layergraph.training.callbacks.callback import Callback, Logs
from layergraph.training.optimizers.optimizer import Optimizer


class SwapEMAWeights(Configurable, Callback):
    """Swaps the optimizer's averages into the model while it is evaluated (keras.callbacks.SwapEMAWeights).

    swap_on_epoch   also from the end of an epoch to the next begin, for callbacks after it that save the model

    Raises ConfigError for an optimizer without averages (`use_ema`).
    """

    swap_on_epoch: bool = option(boolean, default=False)

    def setup(self) -> None:
        self.params = {}
        self._swapped = False

    def state(self) -> dict[str, Any]:
        return {"swapped": self._swapped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._swapped = state["swapped"]

    def _averaging(self) -> list[Optimizer]:
        found = [] if self.model.optimizer is None else self.model.optimizer.averaging
        if not found:
            raise ConfigError("SwapEMAWeights: the optimizer has no averages, expected one with use_ema")
        return found

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._averaging()

    def _swap(self, averages: bool) -> None:
        """Puts the averages, or the trained weights, into the model."""
        if averages == self._swapped:
            return
        for optimizer in self._averaging():
            optimizer.exchange_averages()
        self._swapped = averages

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self.swap_on_epoch:
            self._swap(averages=False)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if not self.swap_on_epoch or self._swapped:
            return
        self._swap(averages=True)
        if epoch == self.params["epochs"] - 1:
            # `finalize` copies the averages into the model: they must be what the model holds now.
            for optimizer in self._averaging():
                optimizer.average_anew()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._swap(averages=True)

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._swap(averages=False)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._swap(averages=True)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._swap(averages=False)
