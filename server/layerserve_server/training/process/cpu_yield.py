"""Yielding of the processor by training processes to the server's processes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from layergraph.training.callbacks.callback import Callback

from layerserve_server.training.process.cpu_usage import SERVER, seconds_served, seconds_waited, serving_processes

#: Minimum time of training between two checks for contention, in seconds.
MIN_TRAIN_SECONDS = 0.05
#: On contention, training pauses for this multiple of its processor time, and at most this number of seconds.
REST_RATIO, MAX_REST_SECONDS = 9.0, 5.0
#: Contention: training waited for a core for more than the first fraction of the time, and the server computed for more
#: than the second fraction.
WAITED_SHARE, SERVED_SHARE = 0.3, 0.75


class CpuYield(Callback):
    """Yields to the scheduler after each batch, and pauses while the server needs the whole processor.

    A serving thread that wakes up after having used more than its recent share has to wait for the scheduler's next
    tick, up to 4 ms, even if the training process has a low priority. Under full load this happens all the time.
    Training then continues for a tenth of the time, in one piece, so that it delays few requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self._server = int(os.environ.get(SERVER, "0"))
        self._serving = serving_processes(self._server)
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        os.sched_yield()
        if time.monotonic() - self._began > MIN_TRAIN_SECONDS:
            self._rest_on_contention()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.on_train_batch_end(batch)

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._waited = seconds_waited()
        self._served = seconds_served(self._serving)

    def _rest_on_contention(self) -> None:
        took = time.monotonic() - self._began
        waited = seconds_waited() - self._waited
        if waited > WAITED_SHARE * took:
            if seconds_served(self._serving) - self._served > SERVED_SHARE * took:
                # If other processes use the cores, too, training may hardly have computed, and pauses briefly.
                time.sleep(min(REST_RATIO * max(took - waited, 0.0), MAX_REST_SECONDS))
            # Workers come and go. Finding them is slow, so it is done on contention only.
            self._serving = serving_processes(self._server)
        self._begin()
