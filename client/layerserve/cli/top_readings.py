"""What `layerserve top` shows: models with their rates, and runs, read again and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TypeVar

from layerserve import Client
from layerserve.errors import DeadlineExceeded, LayerserveError, Unavailable
from layerserve.models.info import ModelInfo
from layerserve.models.statistics import ModelStatistics, Statistics, milliseconds_text
from layerserve.training.run_info import RunInfo, best_text
from layerserve.values.tables import logs_text, number_text, time_text

T = TypeVar("T")

#: Maximum time of a call, in seconds: the view shows that a server doesn't answer soon after it began not to.
CALL_SECONDS = 5.0
#: States of runs that are shown first. Of the others the newest are shown.
ACTIVE = ("running", "queued", "paused")

MODEL_COLUMNS = (
    *("Model", "#Version", "State", "#Rate/s", "#Failed/s", "#Mean ms", "#p50 ms", "#p99 ms", "#Rows/batch"),
    *("#Queue ms", "#Waiting", "Engine"),
)
RUN_COLUMNS = ("Run", "Model", "State", "#Epoch", "#Left", "Logs", "Best")


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells, and the values by which it is sorted. `key` identifies it."""

    key: str
    cells: tuple[str, ...]
    values: tuple[float | str, ...]


@dataclass(frozen=True)
class Reading:
    """What the server answered at a time.

    `problems` has the errors by what wasn't answered: "models", "rates", "runs", or "server" for all of them.
    """

    time: datetime
    models: Sequence[Row] = ()
    runs: Sequence[Row] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


class Reader:
    """Reads a server. What can't be read stays as it was, beside the error."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._models: Sequence[ModelInfo] = ()
        self._runs: Sequence[RunInfo] = ()
        self._counted: Statistics | None = None
        self._rates: Mapping[str, ModelStatistics] = {}

    def close(self) -> None:
        """Closes the client, which ends a reading that is going on in another thread."""
        self._client.close()

    def read(self) -> Reading:
        """Returns what the server answers now. Rates are those since the reading before."""
        problems: dict[str, str] = {}

        def answer(what: str, call: Callable[[], T], before: T) -> T:
            if "server" in problems:
                return before
            try:
                return call()
            except (Unavailable, DeadlineExceeded) as error:
                # The server isn't asked for the rest: each call would take its time.
                problems["server"] = str(error)
            except LayerserveError as error:
                problems[what] = str(error)
            return before

        self._models = answer("models", lambda: self._client.models(timeout=CALL_SECONDS), self._models)
        counted = answer("rates", lambda: self._client.statistics(timeout=CALL_SECONDS), self._counted)
        self._runs = answer("runs", lambda: self._client.runs(timeout=CALL_SECONDS), self._runs)
        if counted is None or counted is self._counted:
            self._rates = {}
        else:
            self._rates = counted.since(self._counted) if self._counted is not None else {}
            self._counted = counted
        return Reading(
            datetime.now(timezone.utc),
            [_model_row(info, self._rates.get(info.name)) for info in _defaults(self._models)],
            [_run_row(info) for info in sorted(self._runs, key=_run_order)],
            problems,
        )


def _defaults(models: Sequence[ModelInfo]) -> list[ModelInfo]:
    """Returns a version of each model: the default, else the newest."""
    chosen: dict[str, ModelInfo] = {}
    for info in models:
        if info.name not in chosen or info.served_by_default:
            chosen[info.name] = info
    return list(chosen.values())


def _model_row(info: ModelInfo, rates: ModelStatistics | None) -> Row:
    numbers: Sequence[float | None] = (None,) * 8
    if rates is not None:
        numbers = (
            rates.answered_per_second,
            rates.failed_per_second,
            rates.mean_seconds,
            rates.seconds_at(0.5),
            rates.seconds_at(0.99),
            rates.rows_per_batch,
            rates.mean_queue_seconds,
            rates.waiting_requests,
        )
    labels = "".join(f" {label}" for label in info.labels)
    engines = ", ".join(dict.fromkeys(choice.engine for choice in info.engines)) or "eager"
    engine = "being chosen" if info.choosing_engine else engines if info.inputs else ""
    state = f"{info.state}: {info.reason}" if info.reason else info.state
    shown = [_number(value) for value in numbers]
    for place in (2, 3, 4, 6):
        shown[place] = milliseconds_text(numbers[place])
    cells = (info.name, f"{info.version}{labels}", state, *shown, engine)
    known = (-1.0 if value is None else float(value) for value in numbers)
    return Row(info.name, cells, (info.name, info.version, state, *known, engine))


def _number(value: float | None) -> str:
    return "" if value is None else number_text(value)


def _run_order(info: RunInfo) -> tuple[bool, float]:
    return info.state not in ACTIVE, -(info.created_time.timestamp() if info.created_time else 0.0)


def _run_row(info: RunInfo) -> Row:
    left = info.remaining_seconds
    logs, best = logs_text(info.logs), best_text(info)
    state = f"{info.state}: {info.reason}" if info.reason else info.state
    cells = (
        info.id,
        info.model,
        state,
        f"{info.epochs_done}/{info.epochs}",
        "" if left is None else time_text(left),
        logs,
        best,
    )
    values = (info.id, info.model, state, info.epochs_done, math.inf if left is None else left, logs, best)
    return Row(info.id, cells, values)
