"""Samples of requests: rows and answers of a share of a model's requests, kept in files as data for training."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import numpy as np

from layerserve_server.inference.queue import Arrays
from layerserve_server.observability.sample_files import Sample, SampleFiles, keyed
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion

logger = logging.getLogger(__name__)


class RequestSamples:
    """Chooses requests, and has their rows and answers written. It never delays or fails a request. Thread-safe."""

    def __init__(self, repository: Repository, make_files: Callable[[], SampleFiles]) -> None:
        """`make_files` is called for the first request that is chosen."""
        self._repository = repository
        self._make_files = make_files
        self._files: SampleFiles | None = None
        self._lock = threading.Lock()

    def chosen(self, model: str) -> bool:
        """Whether the next request of a model is kept."""
        return random.random() < self._repository.sampled.get(model, 0.0)

    def sample(self, inputs: Arrays, id: str) -> RequestSample:
        """Returns the sample of a request that was chosen. `id` is its id, if it has one."""
        return RequestSample(self, inputs, id)

    def put(self, version: LoadedVersion, inputs: Arrays, results: Arrays, id: str) -> None:
        """Has rows and answers written, if the answers are all outputs of the model, with a row for each row."""
        if set(results) != {spec.name for spec in version.model.output_specs} or not version.runner.plan(()).batched:
            return
        arrays = keyed(inputs, results)
        rows = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(rows) != 1:
            return
        # Copies, since results are a part of those of a batch, which would all be kept.
        copies = {name: np.array(array) for name, array in arrays.items()}
        self._opened().add(Sample(version.name, version.version, copies, rows.pop(), id, time.time()))

    def close(self) -> None:
        """Writes what waits."""
        if self._files is not None:
            self._files.close()

    def _opened(self) -> SampleFiles:
        with self._lock:
            if self._files is None:
                self._files = self._make_files()
            return self._files


class RequestSample:
    """A request that was chosen, until it is answered."""

    __slots__ = ("_id", "_inputs", "_samples")

    def __init__(self, samples: RequestSamples, inputs: Arrays, id: str) -> None:
        self._samples, self._id = samples, id
        # What computes a batch may write to its inputs, unless they are read-only.
        self._inputs = {name: one.copy() if one.flags.writeable else one for name, one in inputs.items()}

    def answered(self, version: LoadedVersion, outputs: tuple[str, ...], results: Arrays | None) -> None:
        """Called after the answer was given. `results` is None if that is an error."""
        if results is None:
            return
        try:
            self._samples.put(version, self._inputs, results, self._id)
        except Exception:
            # Other requests of the batch still wait for their answers.
            logger.exception("a request isn't kept")
