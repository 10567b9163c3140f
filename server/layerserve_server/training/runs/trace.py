"""The span of a training run: its identity is in the run's folder, so that any server that ends the run exports it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.disk import replace_file
from layerserve_server.records import log_damaged, read_object
from layerserve_server.training import events
from layerserve_server.training.runs.run import Run

if TYPE_CHECKING:
    from layerserve_server.observability.telemetry import Tracer

logger = logging.getLogger(__name__)

#: Name of the file in the run's folder: the W3C headers of the run's span, and the id of the span of its call.
TRACE = "trace.json"
#: Maximum number of epochs in a span; of longer runs, the last ones.
MAX_EPOCHS = 128
#: Variables by which a process gets the span that it belongs to.
VARIABLES = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE", "baggage": "BAGGAGE"}


def write(folder: Path, headers: Mapping[str, str]) -> None:
    """Writes the identity of a run's span. A run without it isn't traced."""
    try:
        replace_file(folder / TRACE, json.dumps(dict(headers)))
    except OSError as error:
        logger.warning("the run has no trace: %s", error.strerror)


def read(folder: Path) -> dict[str, str]:
    """Returns what `write` wrote; empty if the run isn't traced."""
    found = read_object(folder / TRACE)
    try:
        for name in found:
            # Headers, which become variables of a process.
            if not (found[name].isascii() and found[name].isprintable()):
                raise ValueError(f"{name}: got {found[name][:80]!r}, expected a header")
    except (ValueError, AttributeError) as error:
        log_damaged(folder / TRACE, error)
        return {}
    return found


def variables(folder: Path) -> dict[str, str]:
    """Returns the variables by which the run's process gets the run's span."""
    headers = read(folder)
    return {variable: headers[name] for name, variable in VARIABLES.items() if headers.get(name)}


def export(tracer: Tracer, run: Run) -> None:
    """Exports the span of a run that has ended, with its epochs as events."""
    headers = read(run.folder)
    if not headers:
        return
    happened: list[tuple[str, float, Mapping[str, Any]]] = []
    for event in run.log.copy():
        what = event.what
        if isinstance(what, events.Epoch):
            happened.append(("epoch", event.time, {"epoch": what.epoch, **what.logs}))
        elif isinstance(what, (events.Queued, events.Started, events.Resumed)):
            happened.append((type(what).__name__.lower(), event.time, {}))
    last = run.log.last
    attributes = {
        "layerserve.run": run.id,
        "layerserve.model": run.request.model,
        "layerserve.version": str(run.request.version),
        "layerserve.state": run.state.value,
    }
    if isinstance(last, events.Finished) and last.version:
        attributes["layerserve.published_version"] = str(last.version)
    failure = last.reason if isinstance(last, events.Failed) else ""
    times = run.created_time, time.time()
    tracer.run_ended(headers, run.request.kind, times, attributes, happened[-MAX_EPOCHS:], failure)
