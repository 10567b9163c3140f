"""Information about training runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from layerserve.training.events import Logs, read_logs
from layerserve.v1 import training_pb2
from layerserve.values.replies import read
from layerserve.values.tables import Table, Tabular, count_text, logs_text, moment_text, time_text

#: Kind of a run.
RunKind = Literal["training", "evaluation", "online", "scoring", "unknown"]
#: State of a run; "queued" includes receiving data.
RunState = Literal["queued", "running", "paused", "finished", "failed", "cancelled", "unknown"]

_COLUMNS = (
    *("Run", "Kind", "Model", "#From", "State", "#Epochs", "#Left", "Logs", "Best", "#Published", "Created"),
    "Description",
)


@dataclass(frozen=True, slots=True)
class RunInfo(Tabular):
    """Snapshot of a training run.

    It starts from `base_version` of `model`; `version` is the published version or None. `reason` is the error of a
    failed run, or why one was paused or stopped early that no call has, and `logs` are its latest losses and metrics. A
    `resumable` run was interrupted and can be resumed; `resumed` is how often it was. `workers` is the number of worker
    processes. `owner` is the server that owns the run, if that isn't the one that replied, `caller` the name of the
    caller that began it. `withheld` is the reason why its result isn't published although that was requested, and a
    `publishable` one is kept. A `stopped` run was stopped early. A run that went on from a checkpoint has its id in
    `from_checkpoint`, and the id of its run in `parent`. `sweep` is the id of the sweep of which the run is a trial, or
    empty. `remaining_seconds` is the time until the run ends, by what it has done so far, None if it isn't known.
    `kept_back` is the reason if the version that it published didn't become the default.
    `best` is the best value of the log that matters, by name, and `best_epoch` its epoch; empty and None before the end
    of the first epoch.
    """

    id: str
    state: RunState
    model: str
    base_version: int
    version: int | None
    reason: str
    epochs_done: int
    epochs: int
    steps_done: int
    steps_per_epoch: int
    logs: Logs
    created_time: datetime | None
    started_time: datetime | None
    ended_time: datetime | None
    seed: int
    description: str
    kind: RunKind
    resumable: bool
    resumed: int
    priority: int
    workers: int = 1
    owner: str = ""
    parent: str = ""
    from_checkpoint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    caller: str = ""
    withheld: str = ""
    publishable: bool = False
    stopped: bool = False
    idempotency_key: str = ""
    sweep: str = ""
    trial: int = 0
    remaining_seconds: float | None = None
    best: Logs = field(default_factory=dict)
    best_epoch: int | None = None
    kept_back: str = ""

    def table(self) -> Table:
        """Returns the run as a table of one row."""
        return Runs((self,)).table()


class Runs(tuple[RunInfo, ...], Tabular):
    """A tuple of runs, shown as a table in notebooks."""

    __slots__ = ()

    def table(self, title: str = "") -> Table:
        """Returns a table with a row per run. The title is their number by default."""
        return Table(title or count_text(len(self), "run"), _COLUMNS, [_row(info) for info in self])


def _row(info: RunInfo) -> tuple[str, ...]:
    return (
        info.id,
        info.kind,
        info.model,
        f"{info.parent}/{info.from_checkpoint}" if info.parent else str(info.base_version),
        _state_text(info),
        # A single pass over the data, without epochs.
        "" if info.kind in ("evaluation", "scoring") else f"{info.epochs_done}/{info.epochs}",
        "" if info.remaining_seconds is None else time_text(info.remaining_seconds),
        logs_text(info.logs),
        best_text(info),
        "" if info.version is None else str(info.version),
        moment_text(info.created_time),
        info.description,
    )


def best_text(info: RunInfo) -> str:
    """Formats the best value of the log that matters: "val_loss=0.12 in 7"."""
    return f"{logs_text(info.best)} in {info.best_epoch}" if info.best else ""


def _state_text(info: RunInfo) -> str:
    state = "interrupted" if info.resumable else info.state
    if info.owner:
        return f"{state} ({info.owner})"
    return f"{state}: {info.reason}" if info.reason else state


def read_run_info(message: training_pb2.Run) -> RunInfo:
    return read(
        RunInfo,
        message,
        model=message.base.name,
        base_version=message.base.version,
        version=message.published.version if message.HasField("published") else None,
        logs=read_logs(message.logs),
        workers=message.workers or 1,
        sweep=message.sweep_id,
        best={message.best.name: message.best.value} if message.HasField("best") else {},
        best_epoch=message.best_epoch or None,
    )
