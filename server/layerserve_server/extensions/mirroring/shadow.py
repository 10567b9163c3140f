"""Shadow versions: compute a share of a model's requests again, after their callers have their answers, and compare."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from layerserve_server.errors import ServerError
from layerserve_server.extensions.mirroring.metrics import ShadowMetrics
from layerserve_server.extensions.mirroring.mirror import Choose
from layerserve_server.extensions.mirroring.model_settings import MirroringModelSettings
from layerserve_server.inference.queue import Arrays, bytes_of
from layerserve_server.repository.canary import read_share
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction import observer
from layerserve_server.services.prediction.endpoint import endpoint_of
from layerserve_server.services.prediction.observer import Watch
from layerserve_server.services.prediction.predict_protocol import RequestedOutputs

logger = logging.getLogger(__name__)

#: Maximum number of answered requests that wait, and the size of their arrays, in bytes. Further ones are dropped.
MAX_WAITING, MAX_WAITING_BYTES = 64, 64 << 20
#: Maximum size of the inputs of a request that is compared, in bytes.
MAX_INPUT_BYTES = 4 << 20
#: Age at which a waiting request is dropped, in seconds.
MAX_AGE_SECONDS = 5.0
#: Niceness of the thread that computes (Linux).
NICE = 19

#: What became of a request: the outputs are within the tolerances, or they aren't; the shadow version can't compute it;
#: there was no time or memory for it.
Outcome: TypeAlias = Literal["equal", "different", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class Shadow:
    """The version, its share of requests, and how far its results may be from those of the version that answers."""

    model: str
    version: int
    share: float
    rtol: float
    atol: float


def shadow_version(record: ModelRecord) -> int | None:
    """Returns the version that a model's settings make its shadow; None if there is none."""
    settings = record.in_force
    shadow = settings.shadow if isinstance(settings, MirroringModelSettings) else None
    return record.labels.get(shadow) if isinstance(shadow, str) else shadow


def shadow_of(record: ModelRecord) -> Shadow | None:
    """Returns the shadow in force: None if there is none, its version isn't ready, or is the default anyway."""
    settings, version = record.in_force, shadow_version(record)
    entry = None if version is None else record.versions.get(version)
    if not isinstance(settings, MirroringModelSettings) or not (share := read_share(settings.shadow_share)):
        return None
    if entry is None or not entry.answers or entry.found.version == record.default():
        return None
    return Shadow(record.name, entry.found.version, share, settings.shadow_rtol, settings.shadow_atol)


@dataclass(frozen=True, slots=True)
class Answered:
    """A request, its version's results, and the shadow version to compare with."""

    shadow: Shadow
    requested: RequestedOutputs
    inputs: Arrays
    #: Names of the outputs in order, and their arrays.
    outputs: tuple[str, ...]
    results: Arrays
    at: float

    @property
    def size(self) -> int:
        """Memory that it keeps, in bytes."""
        return sum(map(_kept_bytes, (*self.inputs.values(), *self.results.values())))


class Shadows:
    """Chooses requests, and compares their results with those of shadow versions in a thread of its own. Thread-safe.

    It never delays or fails a request: what doesn't fit is dropped.
    """

    def __init__(self, repository: Repository, metrics: ShadowMetrics) -> None:
        self._repository = repository
        self._metrics = metrics
        # A shadow is loaded before its requests come.
        repository.catalogue.routes.append(shadow_version)
        self._waiting: deque[Answered] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def of_model(self, record: ModelRecord) -> Choose | None:
        """See `Watcher`. Only requests that name no version are compared."""
        shadow = shadow_of(record)
        return None if shadow is None else partial(self._choose, shadow)

    def _choose(self, shadow: Shadow, choice: Choice) -> Watch | None:
        if choice[1] is not None or choice[2] is not None or random.random() >= shadow.share:
            return None
        return partial(self._begin, shadow)

    def _begin(self, shadow: Shadow, requested: RequestedOutputs, inputs: Arrays, *_: str) -> observer.Answered | None:
        """Returns what is called with the answer to a request; None if the request is too large."""
        if sum(map(bytes_of, inputs.values())) > MAX_INPUT_BYTES:
            self._metrics.shadowed(shadow.model, shadow.version, "dropped")
            return None
        # What computes a batch may write to its inputs, unless they are read-only.
        kept = {name: one.copy() if one.flags.writeable else one for name, one in inputs.items()}

        def answered(version: LoadedVersion, outputs: tuple[str, ...], results: Arrays | None) -> None:
            if results is None or version.version == shadow.version:
                return
            try:
                one = Answered(shadow, requested, kept, outputs, results, time.monotonic())
                self.put(one, busy=version.queue.queued_rows > 0)
            except Exception:
                # Other requests of the batch still wait for their answers.
                logger.exception("a request can't be compared with shadow version %s", shadow.version)

        return answered

    def put(self, one: Answered, *, busy: bool) -> None:
        """Has an answered request compared, unless the model is `busy` or too many wait. Doesn't block."""
        size = one.size
        with self._changed:
            room = len(self._waiting) < MAX_WAITING and self._bytes + size <= MAX_WAITING_BYTES
            if room and not busy and not self._closed:
                self._waiting.append(one)
                self._bytes += size
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="shadow versions", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        self._metrics.shadowed(one.shadow.model, one.shadow.version, "dropped")

    def close(self) -> None:
        """Ends the thread after the current request."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        except OSError:
            logger.debug("the thread of shadow versions keeps its niceness")
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                one = self._waiting.popleft()
            try:
                outcome = self._outcome(one)
            except Exception:
                logger.exception("the comparison with shadow version %s failed", one.shadow.version)
                outcome = "failed"
            self._metrics.shadowed(one.shadow.model, one.shadow.version, outcome)
            with self._changed:
                self._bytes -= one.size

    def _outcome(self, one: Answered) -> Outcome:
        if time.monotonic() - one.at > MAX_AGE_SECONDS:
            return "dropped"
        try:
            # Loads it if it isn't in memory.
            with self._repository.leases.lease(one.shadow.model, one.shadow.version) as version:
                endpoint = endpoint_of(version, one.requested)
                inputs = endpoint.admission.admit(tuple(one.inputs.items())).arrays
                results = version.runner(endpoint.computed, _writable(inputs))
        except (ServerError, ArithmeticError, RuntimeError, MemoryError) as error:
            logger.debug("shadow version %s can't compute a request: %s", one.shadow.version, error)
            return "failed"
        return self._compared(one, [results[name] for name in endpoint.computed])

    def _compared(self, one: Answered, results: Sequence[np.ndarray[Any, Any]]) -> Outcome:
        expected = [one.results[name] for name in one.outputs]
        if [array.shape for array in expected] != [array.shape for array in results]:
            return "different"
        shadow, equal, absolute, relative = one.shadow, True, 0.0, 0.0
        # By position: generated names of outputs differ from one training to the next.
        for ours, theirs in zip(expected, results, strict=True):
            if not (_numeric(ours) and _numeric(theirs)):
                equal = equal and bool(np.array_equal(ours, theirs))
                continue
            ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
            equal = equal and np.allclose(theirs, ours, shadow.rtol, shadow.atol, equal_nan=True)
            both = np.isfinite(ours) & np.isfinite(theirs)
            largest = float(np.abs(theirs[both] - ours[both]).max(initial=0.0))
            absolute = max(absolute, largest)
            scale = float(np.abs(ours[both]).max(initial=0.0))
            relative = max(relative, largest / scale if scale else float(largest > 0))
        self._metrics.shadow_differed(shadow.model, shadow.version, absolute, relative)
        return "equal" if equal else "different"


def _numeric(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"


def _writable(arrays: Arrays) -> Arrays:
    return {name: array if array.flags.writeable else array.copy() for name, array in arrays.items()}


def _kept_bytes(array: np.ndarray[Any, Any]) -> int:
    """Size of an array, or of the one of which it is a part."""
    base = array.base
    return max(bytes_of(array), base.nbytes if isinstance(base, np.ndarray) else 0)
