"""Makes the step model of a version that is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from layergraph.errors import NotSteppableError

from layerserve_server.errors import VersionFailedError
from layerserve_server.extensions.extension import Process
from layerserve_server.extensions.sequences.model_settings import OwnSequences, SequenceModelSettings
from layerserve_server.extensions.sequences.step_model import NoSteps, StepModel
from layerserve_server.extensions.sequences.steps import NAME
from layerserve_server.inference.runner import ServedModel
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.version import VersionPart

logger = logging.getLogger(__name__)

#: The function below.
STEP_MODEL: Final = f"{__name__}:step_model"


def make_steps(
    process: Process, found: FoundVersion, model: ServedModel, settings: ModelSettings
) -> Mapping[str, VersionPart]:
    """Returns the step model of a version by the extension's name; nothing if it has no sequences.

    Raises VersionFailedError if the settings ask for sequences, and steps can't be computed.
    """
    asked = settings.sequences if isinstance(settings, SequenceModelSettings) else None
    if not asked.enabled if asked is not None else not is_stateful(model):
        return {}
    try:
        precision = settings.precision or process.settings.precision
        if precision != "float32":
            raise NotSteppableError(f"it is served in {precision}, and steps are computed in float32 only")
        served: Any = model
        made = StepModel(
            served.stepper(),
            asked or OwnSequences(),
            process.metrics.batches(found.name, found.version),
            threads=settings.compute_threads,
            nice=settings.nice,
            # Workers compute no steps.
            derived=STEP_MODEL if process.forward is None else "",
        )
    except NotSteppableError as error:
        if asked is not None:
            raise VersionFailedError(f"setting 'sequences': {error}") from error
        return {NAME: NoSteps(str(error))}
    except Exception:
        if asked is not None:
            raise
        # Its settings don't ask for steps: it is served without them.
        logger.exception("%s: the model of its steps can't be made", found.label)
        return {NAME: NoSteps("the model of its steps can't be made; see the server's log")}
    return {NAME: made}


def step_model(model: Any) -> Any:
    """Returns the step model of a model, in the process that chooses its engines."""
    return model.stepper().model


def is_stateful(model: Any) -> bool:
    """Whether a layer of a model has the option `stateful`, within nested models, too."""
    return any(
        getattr(layer, "stateful", False) for outer in getattr(model, "layers", ()) for layer in outer.walk_layers()
    )
