"""Information about training runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast

from layerserve.models.info import read_time
from layerserve.training.events import Logs, read_logs
from layerserve.v1 import training_pb2
from layerserve.values.tables import Table, Tabular, count_text, number_text, time_text

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

#: Kind of a run.
RunKind = Literal["training", "evaluation", "online", "unknown"]
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
        # An evaluation is a single pass over the data, without epochs.
        "" if info.kind == "evaluation" else f"{info.epochs_done}/{info.epochs}",
        "" if info.remaining_seconds is None else time_text(info.remaining_seconds),
        " ".join(f"{name}={number_text(value)}" for name, value in info.logs.items()),
        " ".join(f"{name}={number_text(value)} in {info.best_epoch}" for name, value in info.best.items()),
        "" if info.version is None else str(info.version),
        info.created_time.astimezone().strftime("%Y-%m-%d %H:%M:%S") if info.created_time else "",
        info.description,
    )


def _state_text(info: RunInfo) -> str:
    state = "interrupted" if info.resumable else info.state
    if info.owner:
        return f"{state} ({info.owner})"
    return f"{state}: {info.reason}" if info.reason else state


def read_run_info(message: training_pb2.Run) -> RunInfo:
    def time(field: str, timestamp: Timestamp) -> datetime | None:
        return read_time(timestamp) if message.HasField(field) else None  # type: ignore[arg-type]

    return RunInfo(
        id=message.id,
        state=_state(message.state),
        model=message.base.name,
        base_version=message.base.version,
        version=message.published.version if message.HasField("published") else None,
        reason=message.reason,
        epochs_done=message.epochs_done,
        epochs=message.epochs,
        steps_done=message.steps_done,
        steps_per_epoch=message.steps_per_epoch,
        logs=read_logs(message.logs),
        created_time=time("created_time", message.created_time),
        started_time=time("started_time", message.started_time),
        ended_time=time("ended_time", message.ended_time),
        seed=message.seed,
        description=message.description,
        kind=_kind(message.kind),
        resumable=message.resumable,
        resumed=message.resumed,
        priority=message.priority,
        workers=message.workers or 1,
        owner=message.owner,
        parent=message.parent,
        from_checkpoint=message.from_checkpoint,
        metadata=dict(message.metadata),
        caller=message.caller,
        withheld=message.withheld,
        publishable=message.publishable,
        stopped=message.stopped,
        idempotency_key=message.idempotency_key,
        sweep=message.sweep_id,
        trial=message.trial,
        remaining_seconds=message.remaining_seconds if message.HasField("remaining_seconds") else None,
        best={message.best.name: message.best.value} if message.HasField("best") else {},
        best_epoch=message.best_epoch or None,
        kept_back=message.kept_back,
    )


def _state(number: int) -> RunState:
    names = training_pb2.RunState.DESCRIPTOR.values_by_number
    if number == 0 or number not in names:
        return "unknown"
    return cast(RunState, names[number].name.removeprefix("RUN_STATE_").lower())


def _kind(number: int) -> RunKind:
    names = training_pb2.RunKind.DESCRIPTOR.values_by_number
    if number == 0 or number not in names:
        return "unknown"
    return cast(RunKind, names[number].name.removeprefix("RUN_KIND_").lower())
