"""Tuning: finds the fastest engine for a version in the background, after it was loaded."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

from layergraph.errors import LayerGraphError
from layergraph.execution.engines.table import EAGER
from layergraph.execution.tuning.result import Choice, Tuning, choices_from_json, choices_to_json
from layergraph.golden import golden_path
from layergraph.lower_precision import calibration_path, reduce_precision
from layergraph.models.model import Model

from layerserve_server.inference.runner import LoadModel, ServedModel
from layerserve_server.quantization.kept import KeptGraphs, installed
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.version import LoadedVersion

logger = logging.getLogger(__name__)

#: Maximum time that `close` waits for the current step, in seconds.
_MOST_WAIT = 15.0
#: Maximum time for which the tuning of a version waits while runs compute, in seconds.
_MAX_BUSY_SECONDS = 600.0
#: Size of a weight, in bytes.
_BYTES = 4
#: Packages whose versions affect the speed of engines.
_PACKAGES = ("torch", "onnxruntime", "openvino", "layerserve")


class EngineUnfitError(LayerGraphError):
    """The engine in the settings can't run a model."""


def pinning(load: LoadModel, engine: str, threads: int) -> LoadModel:
    """Wraps `load` to run models on this engine. The result raises EngineUnfitError if it can't run a model."""

    def pinned(path: Path) -> ServedModel:
        model = load(path)
        found: Tuning = model.plan().tune(engines=(engine,), threads=threads, shared=True, pin=True)
        if found.dropped:
            raise EngineUnfitError(f"setting 'engine': '{engine}' can't run the model: {found.dropped[engine]}")
        return model

    return load if engine == EAGER else pinned


def reducing(
    load: LoadModel,
    precision: str,
    threads: int,
    graphs: KeptGraphs,
    rtol: float | None = None,
    atol: float | None = None,
) -> LoadModel:
    """Wraps `load` to run models in lower precision, if they have a golden file and stay within its tolerance.

    `graphs` keeps quantized graphs. `rtol` and `atol` override the golden file's tolerances.
    """

    def reduced(path: Path) -> ServedModel:
        model = cast("Model", load(path))
        proof = golden_path(path)
        if not proof.exists():
            logger.warning("%s stays in float32: %s requires %s", path.name, precision, proof.name)
            return model
        try:
            reduce_precision(
                model,
                proof,
                precision,
                threads,
                shared=True,
                rtol=rtol,
                atol=atol,
                calibration=calibration_path(path),
                workshop=graphs.of(model, threads),
            )
        except Exception as reason:
            logger.warning("%s stays in float32: %s", path.name, str(reason).splitlines()[0])
        else:
            difference = max(choice.difference for choice in model.engines)
            engines = {str(choice.rows): choice.engine for choice in model.engines}
            logger.info(
                "%s computes in %s",
                path.name,
                precision,
                extra={"largest_difference": difference, "engines": engines},
            )
        return model

    return reduced


class Tuner:
    """Tunes versions one after another in a thread, and saves the results in a folder.

    seconds     approximate time per version
    threads     number of threads per engine; 0 for torch's default
    max_bytes   maximum size of the weights; larger models stay on eager torch, since engines copy the weights
    busy        whether a run computes on this machine. Tuning waits meanwhile, as each would slow down the other, but
                not forever
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float,
        threads: int,
        max_bytes: int,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._seconds = seconds
        self._threads = threads
        self._max_bytes = max_bytes
        self._busy = busy
        self._waiting: list[LoadedVersion] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="tuner", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, loaded: LoadedVersion) -> None:
        """Queues a version for tuning. It is skipped if it was retired meanwhile."""
        loaded.choosing_engine = True
        with self._wake:
            # Retired versions are dropped now, to free their weights: versions may be loaded faster than tuned.
            self._waiting = [one for one in self._waiting if not one.retired] + [loaded]
            self._wake.notify()

    def close(self) -> None:
        """Stops tuning after the current step, and waits for it: a process must not exit while an engine is running."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(_MOST_WAIT)

    def _work(self) -> None:
        while self._tune_next():
            pass

    def _tune_next(self) -> bool:
        """Waits for a queued version and tunes it. Returns False after `close`."""
        with self._wake:
            self._wake.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return False
            loaded = self._waiting.pop(0)
        lease = loaded.lease(counts=False)
        if lease is None:
            return True
        with lease:
            try:
                self._tune(loaded)
            except Exception:
                logger.exception("tuning of model '%s' version %s failed", loaded.name, loaded.version)
            finally:
                loaded.choosing_engine = False
        return True

    def _tune(self, loaded: LoadedVersion) -> None:
        if loaded.model.engines:
            return  # It runs in lower precision.
        if loaded.parameter_count * _BYTES > self._max_bytes:
            return

        def stopped() -> bool:
            return self._closed or loaded.retired

        end = time.monotonic() + _MAX_BUSY_SECONDS

        def busy() -> bool:
            return time.monotonic() < end and self._busy()

        threads = loaded.settings.compute_threads or self._threads
        note = self._folder / f"{_key(loaded.found, threads)}.json"
        known = _recall(note)
        tuned: Tuning = loaded.model.plan().tune(
            seconds=self._seconds,
            threads=threads,
            shared=True,
            known=known,
            stopped=stopped,
            busy=busy,
        )
        if tuned.choices and not known and not stopped():
            _remember(note, tuned)
        logger.info(
            "model '%s' version %s is tuned",
            loaded.name,
            loaded.version,
            extra={"engines": {str(c.rows): c.engine for c in tuned.choices}, "dropped": dict(tuned.dropped)},
        )


def _key(found: FoundVersion, threads: int) -> str:
    """Returns a file name for the results of a model file on this machine with the installed packages."""
    parts = [found.name, found.version, found.fingerprint, os.cpu_count(), threads, *installed(_PACKAGES)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _recall(note: Path) -> tuple[Choice, ...]:
    try:
        return choices_from_json(note.read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _remember(note: Path, tuned: Tuning) -> None:
    temporary = note.with_suffix(".part")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(choices_to_json(tuned.choices))
        temporary.replace(note)
    except OSError as error:
        logger.warning("can't save tuning results in %s: %s", note.parent, error.strerror)
