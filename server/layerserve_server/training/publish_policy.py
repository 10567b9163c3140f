"""The option of publication that only weights which improve on the base version are published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergraph.errors import ConfigError

from layerserve_server.training.model import (
    compile_model,
    evaluate_arguments,
    larger_is_better,
    monitored,
)
from layerserve_server.training.request import RunRequest

if TYPE_CHECKING:
    from layergraph.models.model import Model


def why_withheld(
    load: Callable[[Path], Model], base: Path, result: Path, request: RunRequest, arrays: list[Any]
) -> str:
    """Returns the reason not to publish a result, no improvement of a log on the validation data. Empty if none."""
    log = request.publish_if_improved
    return no_improvement(load, base, result, request, arrays, log, request.version) if log else ""


def compared_log(request: RunRequest) -> str:
    """Returns the name of the log by which a result is compared with a version that was published meanwhile."""
    return request.publish_if_improved or monitored(request).removeprefix("val_")


def no_improvement(
    load: Callable[[Path], Model],
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
