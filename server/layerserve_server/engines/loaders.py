"""Loading of models with the engines of their settings, or with those that were chosen at an earlier start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import layergraph
from layergraph.errors import LayerGraphError
from layergraph.execution.engines.engine import EAGER
from layergraph.golden import golden_path
from layergraph.lower_precision import calibration_path, reduce_precision
from layergraph.models.model import Model

from layerserve_server.engines.chosen_engines import ChosenEngines
from layerserve_server.engines.quantized_graphs import QuantizedGraphs
from layerserve_server.inference.runner import LoadModel, ServedModel

if TYPE_CHECKING:
    from layergraph.execution.tuning.result import Tuning

logger = logging.getLogger(__name__)


class EngineUnfitError(LayerGraphError):
    """The engine in the settings can't run a model."""


def reopening(read: Callable[[Path], Model] | None, threads: int, engines: ChosenEngines) -> Callable[[Path], Model]:
    """Wraps `read`, by default layergraph's, to run models on the engines that were chosen for them earlier."""

    def reopened(path: Path) -> Model:
        model = layergraph.load_model(path) if read is None else read(path)
        engines.open(model, threads)
        return model

    return reopened


def pinning(load: LoadModel, engine: str, threads: int, engines: ChosenEngines) -> LoadModel:
    """Wraps `load` to run models on this engine. The result raises EngineUnfitError if it can't run a model."""

    def pinned(path: Path) -> ServedModel:
        model = cast("Model", load(path))
        if not engines.open(model, threads, engine):

            def make(folder: Path | None) -> None:
                options = {"engines": (engine,), "threads": threads, "shared": True, "pin": True, "folder": folder}
                found: Tuning = model.plan().tune(**options)
                if found.dropped:
                    raise EngineUnfitError(f"setting 'engine': '{engine}' can't run the model: {found.dropped[engine]}")

            with engines.made(model, threads, make, engine):
                if not model.engines:
                    # What was kept can't be opened, such as an engine that has no file.
                    make(None)
        return model

    return load if engine == EAGER else pinned


def reducing(
    load: LoadModel,
    precision: str,
    threads: int,
    graphs: QuantizedGraphs,
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
