"""Samples of requests: rows and answers of a share of a model's requests, kept in files as data for training."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import numpy as np

from layerserve_server.extensions.mirroring.mirror import Choose
from layerserve_server.extensions.mirroring.model_settings import MirroringModelSettings
from layerserve_server.extensions.mirroring.sample_files import Sample, SampleFiles, keyed
from layerserve_server.extensions.mirroring.sampled_requests import OWNER
from layerserve_server.extensions.mirroring.settings import MirroringSettings
from layerserve_server.inference.queue import Arrays
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.observer import Answered
from layerserve_server.services.prediction.predict_protocol import RequestedOutputs

logger = logging.getLogger(__name__)


def share_of(settings: MirroringSettings, record: ModelRecord) -> float:
    """Returns the share of a model's requests that are kept: that of its settings, or else of the server's."""
    own = record.in_force.sample_share if isinstance(record.in_force, MirroringModelSettings) else None
    return settings.sample_share(record.name) if own is None else own


class RequestSamples:
    """Chooses requests, and has their rows and answers written. It never delays or fails a request. Thread-safe."""

    def __init__(self, share: Callable[[ModelRecord], float], make_files: Callable[[], SampleFiles]) -> None:
        """`share` is the share of a model's requests, and `make_files` is called for the first one that is chosen."""
        self._share = share
        self._make_files = make_files
        self._files: SampleFiles | None = None
        self._lock = threading.Lock()

    def of_model(self, record: ModelRecord) -> Choose | None:
        """See `Watcher`."""
        share = self._share(record)
        return (lambda _: self._begin if random.random() < share else None) if share else None

    def _begin(self, requested: RequestedOutputs, inputs: Arrays, id: str, owner: str) -> Answered:
        # What computes a batch may write to its inputs, unless they are read-only.
        kept = {name: one.copy() if one.flags.writeable else one for name, one in inputs.items()}

        def answered(version: LoadedVersion, outputs: tuple[str, ...], results: Arrays | None) -> None:
            if results is None:
                return
            try:
                self.put(version, kept, results, id, owner)
            except Exception:
                # Other requests of the batch still wait for their answers.
                logger.exception("a request isn't kept")

        return answered

    def put(self, version: LoadedVersion, inputs: Arrays, results: Arrays, id: str, owner: str) -> None:
        """Has rows and answers written, if the answers are all outputs of the model, with a row for each row."""
        if set(results) != {spec.name for spec in version.model.output_specs} or not version.runner.plan(()).batched:
            return
        arrays = keyed(inputs, results)
        rows = {len(array) if array.ndim else -1 for array in arrays.values()}
        # An array of this name would tell whose the rows are.
        if len(rows) != 1 or OWNER in arrays:
            return
        # Copies, since results are a part of those of a batch, which would all be kept.
        copies = {name: np.array(array) for name, array in arrays.items()}
        self._opened().add(Sample(version.name, version.version, copies, rows.pop(), id, owner, time.time()))

    def close(self) -> None:
        """Writes what waits."""
        if self._files is not None:
            self._files.close()

    def _opened(self) -> SampleFiles:
        with self._lock:
            if self._files is None:
                self._files = self._make_files()
            return self._files
