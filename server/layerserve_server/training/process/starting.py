"""The begin of a run with a checkpoint of another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layergraph.training.checkpoint import read_whole
from layergraph.training.restored_model import finished_model, restore_model

from layerserve_server.training.continuation import STATE, differences
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.folder import START

if TYPE_CHECKING:
    from layergraph.models.model import Model


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a run begins. `texts` describe it."""

    #: The file of a checkpoint that the run goes on with exactly; None if it begins with a first epoch.
    exact: Path | None = None
    #: Number of epochs that are done there.
    epochs_done: int = 0
    texts: Sequence[str] = ()


def begin(folder: Path, request: RunRequest, model: Model) -> Beginning:
    """Returns how a run begins. Gives its compiled model weights and optimizer state, unless `fit` reads them.

    Raises CorruptFileError, DataError if the checkpoint is of another model, and OSError.
    """
    file = folder / START / STATE
    if not file.exists():
        return Beginning()
    state = read_whole(file)
    where = f"goes on from checkpoint {request.from_checkpoint}"
    found = differences(folder, request)
    if not found:
        return Beginning(file, state["epoch"], (f"{where}, with the same data and settings",))
    lost = restore_model(model, state, keep_rate="optimizer" in found and "optimizer" in request.compile)
    text = f"{where}; the order of rows starts anew, as these differ: {', '.join(found)}"
    return Beginning(texts=(text, *lost))


def finish(folder: Path, model: Model) -> None:
    """Gives a model the weights of the checkpoint that a run begins with, if any, as at the end of a run."""
    file = folder / START / STATE
    if file.exists():
        finished_model(model, read_whole(file))
