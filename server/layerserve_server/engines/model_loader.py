"""Model files loaded as the settings say: with which engine, precision and threads, or from what was kept of them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layergraph.golden import check_golden, golden_path

from layerserve_server.engines.chosen_engines import ChosenEngines
from layerserve_server.engines.kept_models import KeptModels
from layerserve_server.engines.quantized_graphs import QuantizedGraphs
from layerserve_server.importing.imports import Imports
from layerserve_server.inference import runner
from layerserve_server.inference.runner import LoadModel, ServedModel
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.settings.settings import Settings

if TYPE_CHECKING:
    from layergraph import Model

    from layerserve_server.engines.tuner import Tuner

logger = logging.getLogger(__name__)


class ModelLoader:
    """Loads model files according to the settings of the server and of a model."""

    def __init__(
        self, settings: Settings, jobs: Jobs, load: LoadModel | None = None, imports: Imports | None = None
    ) -> None:
        """`load` loads a file, by default with layergraph. `imports` has files read by another process."""
        self._settings = settings
        self._load = load
        self._read = None if imports is None else imports.load
        self._prepared = False
        self._preparing = threading.Lock()
        self._graphs = QuantizedGraphs(settings.state_folder / "quantized", jobs)

    def __call__(self, path: Path, model: ModelSettings = DEFAULTS) -> ServedModel:
        """Loads a model file. Raises layergraph's errors."""
        self.prepare()
        return self.configured(model)(path)

    def prepare(self) -> None:
        """Imports what loading needs, with torch, once. Raises ConfigError if a plugin can't be imported."""
        # Models are loaded by several threads.
        with self._preparing:
            if not self._prepared:
                runner.set_threads(torch_threads(self._settings))
                if custom := runner.load_plugins(self._settings.plugins):
                    logger.info("custom layers: %s", ", ".join(custom))
                runner.make_ready()
                self._prepared = True

    def configured(self, model: ModelSettings) -> LoadModel:
        """Returns the function that loads files of a model with these settings."""
        settings, rtol, atol = self._settings, model.golden_rtol, model.golden_atol
        threads = model.compute_threads or settings.compute_threads
        engine, precision = engine_of(settings, model), model.precision or settings.precision
        read: Callable[[Path], Any] | None = self._read
        # Imported here, since these modules import torch.
        # With a limit of memory, engines are opened for the models that are used often, as they take more of it.
        reopens = settings.tuning_seconds > 0 and not settings.max_model_bytes and self._load is None
        if engine == "auto" and precision == "float32" and reopens:
            from layerserve_server.engines.loaders import reopening

            read = reopening(read, threads, _chosen_engines(settings))
        load = self._load or partial(runner.load_model, read=read, rtol=rtol, atol=atol)
        if engine != "auto":
            from layerserve_server.engines.loaders import pinning

            load = pinning(load, engine, threads, _chosen_engines(settings))
        if precision != "float32":
            from layerserve_server.engines.loaders import reducing

            load = reducing(load, precision, threads, self._graphs, rtol, atol)
        return load


def torch_threads(settings: Settings) -> int:
    """Returns torch's number of threads in each process: by default the cores divided by the processes.

    0 is torch's own default, for one process.
    """
    if settings.compute_threads or settings.workers == 1:
        return settings.compute_threads
    return max(1, (os.cpu_count() or 1) // settings.workers)


def kept_models(settings: Settings) -> KeptModels | None:
    """Returns where versions are kept; None if the settings choose no engines or limit memory, or with plugins."""
    if settings.tuning_seconds <= 0 or settings.max_model_bytes or runner.has_plugins(settings.plugins):
        return None
    engines, threads = _chosen_engines(settings), settings.compute_threads
    return KeptModels(settings.state_folder / "kept", engines, threads, torch_threads(settings))


def open_kept(
    settings: Settings, models: KeptModels | None, found: FoundVersion, digest: str, model: ModelSettings
) -> ServedModel | None:
    """Returns what was kept of a version, if its settings change nothing in how it is computed.

    Raises GoldenMismatchError if its engines differ from the golden file beside it.
    """
    padded = settings.pads(found.name) if model.pad_sequences is None else model.pad_sequences
    precision = model.precision or settings.precision
    if models is None or engine_of(settings, model) != "auto" or precision != "float32" or padded:
        return None
    if model.warm_up_rows or model.compute_threads:
        return None
    kept = models.open(digest)
    proof = golden_path(found.path)
    if kept is not None and os.path.lexists(proof):
        check_golden(cast("Model", kept), proof, model.golden_rtol, model.golden_atol)
    return kept


def engine_of(settings: Settings, model: ModelSettings) -> str:
    """Returns the engine of a model, or "auto"."""
    return model.engine or settings.engine


def make_tuner(settings: Settings, jobs: Jobs, imports: Imports | None = None) -> Tuner | None:
    """Returns the tuner of engines; None if the settings turn tuning off."""
    if settings.tuning_seconds <= 0:
        return None
    # Imported here, since these modules import torch.
    from layerserve_server.engines.tuner import Tuner
    from layerserve_server.engines.tuning_process import TuningProcess

    folder, spare = (None, None) if imports is None else (imports.folder, imports.spare)
    return Tuner(
        TuningProcess(jobs, folder, spare, settings.state_folder / "runs"),
        _chosen_engines(settings),
        seconds=settings.tuning_seconds,
        threads=settings.compute_threads,
        max_bytes=settings.tuning_max_bytes,
        kept=kept_models(settings),
    )


def _chosen_engines(settings: Settings) -> ChosenEngines:
    return ChosenEngines(settings.state_folder / "engines")
