"""The interface of sinks: where parameters, logs and ends of runs are copied to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import RunState

#: Maximum length of a parameter's value, in characters; a longer one is cut.
MAX_VALUE = 500


@dataclass(frozen=True, slots=True)
class Point:
    """Logs of a run after an epoch or a step, counted from 1 since its beginning; Unix time in seconds."""

    by: str
    position: int
    time: float
    logs: Mapping[str, float]


class Sink(Protocol):
    """Where runs are copied to. A method that fails is called again later, with the same arguments."""

    def begin(self, run_id: str, request: RunRequest, known: str) -> str:
        """Creates the copy of a run, or opens the one with the id `known`, if it isn't empty. Returns its id."""

    def add(self, id: str, points: list[Point]) -> None:
        """Adds logs to a copy."""

    def end(self, id: str, state: RunState, tags: Mapping[str, str]) -> None:
        """Ends a copy with the run's state and further tags."""


def parameters(request: RunRequest) -> dict[str, str]:
    """Returns the parameters of a run: its options, and each setting of `compile`, as texts."""
    skipped = ("model", "version", "data", "budget", "metadata", "description", "caller")
    values = {name: value for name, value in json.loads(request.to_json()).items() if name not in skipped}
    values |= values.pop("compile")
    return {name: _text(value) for name, value in values.items() if value not in (None, "", [], {})}


def tags(run_id: str, request: RunRequest) -> dict[str, str]:
    """Returns the tags of a run."""
    found = {
        "layerserve.run": run_id,
        "layerserve.model": request.model,
        "layerserve.base_version": str(request.version),
        "layerserve.kind": request.kind,
        "layerserve.caller": request.caller,
        "layerserve.description": request.description,
        **dict(request.metadata or {}),
    }
    return {name: value[:MAX_VALUE] for name, value in found.items() if value}


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:MAX_VALUE]
