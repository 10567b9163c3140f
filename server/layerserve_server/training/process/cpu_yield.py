"""How a training process lets those go first that answer requests."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from layergraph.training.callbacks.callback import Callback

from layerserve_server.training.process.cpu_usage import SERVER, seconds_served, seconds_waited, serving_processes

#: Seconds that a process trains at the least before it looks whether it is in the way.
TRAINS = 0.05
#: If it is, it rests so many times as long as it computed, and no more seconds than these.
RESTS, MOST_RESTS = 9.0, 5.0
#: It is where it waited for a core for more than this part of the time, while the server computed for so much of it.
WAITED, SERVED = 0.3, 0.75


class CpuYield(Callback):
    """Has the scheduler choose anew after each batch, and leaves the processor to a server that needs all of it.

    A woken thread that has had more than its share of late waits until the scheduler looks again: at its next tick, up
    to 4 ms away, however little the training process is due. Where requests come as fast as they are answered that
    happens all the time; training then goes on for a tenth of it, in one piece, so that few requests meet it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._server = int(os.environ.get(SERVER, "0"))
        self._serving = serving_processes(self._server)
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        os.sched_yield()
        if time.monotonic() - self._began > TRAINS:
            self._look()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.on_train_batch_end(batch)

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._waited = seconds_waited()
        self._served = seconds_served(self._serving)

    def _look(self) -> None:
        took = time.monotonic() - self._began
        waited = seconds_waited() - self._waited
        if waited > WAITED * took:
            if seconds_served(self._serving) - self._served > SERVED * took:
                # Where others than the server take the cores as well it may hardly have computed: it is out of the way.
                time.sleep(min(RESTS * max(took - waited, 0.0), MOST_RESTS))
            # Workers come and go; to find them takes too long to be done where nobody is in the way.
            self._serving = serving_processes(self._server)
        self._begin()
