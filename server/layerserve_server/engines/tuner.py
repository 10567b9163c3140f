"""Tuning: finds the fastest engine for a version in the background, after it was loaded."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

from layergraph.execution.engines.engine import UnfitError
from layergraph.execution.tuning.engine_folder import noted_choices

from layerserve_server.engines.chosen_engines import ChosenEngines, default_threads
from layerserve_server.engines.kept_models import KeptModels
from layerserve_server.engines.tuning_process import NoTimeError, TuningError, TuningProcess, Wanted
from layerserve_server.errors import CallCancelledError
from layerserve_server.inference.runner import ServedModel
from layerserve_server.repository.version import LoadedVersion

if TYPE_CHECKING:
    from layergraph.execution.tuning.result import Tuning
    from layergraph.models.model import Model

logger = logging.getLogger(__name__)

#: Maximum time that `close` waits for the current step, in seconds.
_MOST_WAIT = 15.0
#: Number of further tries, each with twice the time, for a version whose time was too short.
_MORE_TRIES = 2
#: Size of a weight, in bytes.
_BYTES = 4


class Tuner:
    """Has versions tuned one after another, and opens the engines that were chosen. Thread-safe.

    process     tunes a model file
    engines     where the chosen engines are kept
    seconds     approximate time per version
    threads     number of threads per engine; 0 for torch's default
    kept        where tuned versions are kept for later starts; None to not keep them
    max_bytes   maximum size of the weights; larger models stay on eager torch, since engines copy the weights
    """

    def __init__(
        self,
        process: TuningProcess,
        engines: ChosenEngines,
        *,
        seconds: float,
        threads: int,
        max_bytes: int,
        kept: KeptModels | None = None,
    ) -> None:
        self._process = process
        self._engines = engines
        self._seconds = seconds
        self._threads = threads
        self._max_bytes = max_bytes
        self._kept = kept
        #: Versions, and how often their time was too short.
        self._waiting: list[tuple[LoadedVersion, int]] = []
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
            self._waiting = [one for one in self._waiting if not one[0].retired] + [(loaded, 0)]
            self._wake.notify()

    def close(self) -> None:
        """Stops tuning, and waits for the current step: a process must not exit while an engine is running."""
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
            loaded, tries = self._waiting.pop(0)
        lease = loaded.lease(counts=False)
        if lease is None:
            return True
        with lease:
            try:
                self._tune(loaded, self._seconds * 2**tries)
            except CallCancelledError:
                pass
            except TuningError as reason:
                logger.warning("model '%s' version %s isn't tuned: %s", loaded.name, loaded.version, reason)
                if isinstance(reason, NoTimeError) and tries < _MORE_TRIES:
                    with self._wake:
                        self._waiting.append((loaded, tries + 1))
                    return True
            except Exception:
                logger.exception("tuning of model '%s' version %s failed", loaded.name, loaded.version)
            loaded.choosing_engine = False
        return True

    def _tune(self, loaded: LoadedVersion, seconds: float) -> None:
        if loaded.parameter_count * _BYTES > self._max_bytes:
            return
        self._tune_model(loaded, loaded.model, "", seconds)
        for derived in loaded.derived:
            self._tune_model(loaded, derived.model, derived.function, seconds)
        if self._kept is not None:
            self._kept.keep(loaded)

    def _tune_model(self, loaded: LoadedVersion, served: ServedModel, derived: str, seconds: float) -> None:
        """Tunes the model of a version, or the one that the function `derived` makes of it."""
        if served.engines:
            return  # It runs in lower precision, or on engines that were kept.
        from layergraph.execution.samples import TORCH_ONLY

        if any(spec.dtype in TORCH_ONLY for spec in served.input_specs):
            return

        def stopped() -> bool:
            return self._closed or loaded.retired

        threads = loaded.settings.compute_threads or self._threads
        dropped: dict[str, str] = {}

        def make(folder: Path) -> None:
            wanted = Wanted(loaded.found.path, folder, seconds, threads or default_threads(), derived)
            dropped.update(self._process.tune(wanted, stopped))

        model = cast("Model", served)
        with self._engines.made(model, threads, make, stopped=stopped) as folder:
            tuned = _opened(model, folder, threads or default_threads(), seconds)
        dropped.update(tuned.dropped)
        logger.info(
            "model '%s' version %s is tuned",
            loaded.name,
            loaded.version,
            extra={"engines": {str(c.rows): c.engine for c in tuned.choices}, "dropped": dropped, "derived": derived},
        )


def _opened(model: Model, folder: Path, threads: int, seconds: float) -> Tuning:
    """Lets a model use the engines in `folder`; builds them here if they can't be opened from files."""
    plan = model.plan()
    try:
        # The file may have been replaced while it was tuned: compared with the model that is served.
        return plan.open_engines(folder, threads, shared=True, compare=True)
    except UnfitError as reason:
        logger.debug("engines are built again: %s", reason)
        return plan.tune(seconds=seconds, threads=threads, shared=True, known=noted_choices(folder))
