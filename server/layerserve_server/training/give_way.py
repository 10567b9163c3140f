"""How a training process lets those go first that answer requests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from layergraph.training.callbacks import Callback


class GiveWay(Callback):
    """Has the scheduler choose anew after each batch.

    A woken thread that has had more than its share of late waits until the scheduler looks again: at its next tick, up
    to 4 ms away, however little the training process is due.
    """

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        os.sched_yield()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        os.sched_yield()
