"""Options of publication: only weights that improve on the base version; and best epochs of earlier releases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergraph.errors import ConfigError

from layerserve_server.disk import json_object
from layerserve_server.errors import NotTrainableError
from layerserve_server.records import checked
from layerserve_server.training.model import (
    TrainableModel,
    compile_model,
    evaluate_arguments,
    larger_is_better,
    monitored,
)
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.folder import BEST

#: Name of a file in the folder of the best epoch's model, with the epoch, the log's value and the model file.
NOTE = "best.json"


@dataclass(frozen=True, slots=True)
class Best:
    """A best epoch, counted from 1: the log's value there, and the name of its model file."""

    epoch: int
    value: float
    file: str


def read_best(folder: Path) -> Best | None:
    """Returns the best epoch whose model an earlier release saved; None if there is none.

    Now the checkpoint of the best epoch is kept instead (see `process.keeping`). Raises NotTrainableError if the note
    is damaged, and OSError.
    """
    try:
        return checked(Best(**json_object((folder / BEST / NOTE).read_bytes())))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise NotTrainableError(f"the note of the best epoch, {BEST}/{NOTE}, is damaged: {error}") from error


def why_withheld(
    load: Callable[[Path], TrainableModel], base: Path, result: Path, request: RunRequest, arrays: list[Any]
) -> str:
    """Returns the reason not to publish a result, no improvement of a log on the validation data. Empty if none."""
    log = request.publish_if_improved
    return no_improvement(load, base, result, request, arrays, log, request.version) if log else ""


def compared_log(request: RunRequest) -> str:
    """Returns the name of the log by which a result is compared with a version that was published meanwhile."""
    return request.publish_if_improved or monitored(request).removeprefix("val_")


def no_improvement(
    load: Callable[[Path], TrainableModel],
    base: Path,
    result: Path,
    request: RunRequest,
    arrays: list[Any],
    log: str,
    version: int,
) -> str:
    """Evaluates a model, which is of this version, and a result, and returns why the result isn't better; or empty."""
    values = []
    for path in (base, result):
        model = load(path)
        compile_model(model, request.compile)
        logs = model.evaluate(**evaluate_arguments(request, arrays))
        if log not in logs:
            raise ConfigError(f"version {version} has no log '{log}'")
        values.append(float(logs[log]))
    before, after = values
    better = after > before if larger_is_better(model, log, request.monitor_mode) else after < before
    if better:
        return ""
    return f"{log} {after:.6g} is no improvement on {before:.6g} of version {version}"
