"""Options of publication: the best epoch's weights, and only weights that improve on the base version."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from layergraph import Model
from layergraph.errors import ConfigError
from layergraph.training.callbacks.callback import Callback

from layerserve_server.training.model import (
    TrainableModel,
    compile_model,
    evaluate_arguments,
    larger_is_better,
    monitored,
    result_format,
    save_result,
)
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.folder import BEST

#: Name of a file in the folder of the best epoch's model, with the epoch, the log's value and the model file.
NOTE = "best.json"


class BestEpoch(Callback):
    """Saves the model of the best epoch so far in the run's folder.

    The note is written after the model file and replaced atomically, so a killed process leaves a consistent pair. A
    resumed run repeats its epochs with the same values, and equal values don't replace the saved model.
    """

    model: Model

    def __init__(self, folder: Path, request: RunRequest) -> None:
        super().__init__()
        self._folder = folder / BEST
        self._request = request
        self._log = monitored(request)
        self._mode = request.monitor_mode
        self._best = read_best(folder)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._folder.mkdir(exist_ok=True)
        self._format = result_format(self.model, self._request)
        self._sign = 1.0 if larger_is_better(self.model, self._log, self._mode) else -1.0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        value = float((logs or {}).get(self._log, math.nan))
        if math.isnan(value) or (self._best and self._sign * (value - self._best["value"]) <= 0):
            return
        old, self._best = self._best, {"epoch": epoch + 1, "value": value, "file": f"{epoch + 1}{self._format.suffix}"}
        save_result(self.model, self._folder / self._best["file"], self._request, self._format)
        part = self._folder / (NOTE + ".part")
        part.write_text(json.dumps(self._best), "utf-8")
        os.replace(part, self._folder / NOTE)
        if old and old["file"] != self._best["file"]:
            (self._folder / old["file"]).unlink(missing_ok=True)


def read_best(folder: Path) -> dict[str, Any] | None:
    """Returns {"epoch", "value", "file"} of a run's best epoch; None before the end of the first epoch."""
    try:
        best: dict[str, Any] = json.loads((folder / BEST / NOTE).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return best


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
