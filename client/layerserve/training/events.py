"""Events of a training run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from layerserve.v1 import training_pb2
from layerserve.values.replies import read, read_time

#: Names and values of losses and metrics, named as Keras logs them.
Logs = dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """Base class of events: the run's id, the event's sequence number in the run, and its time (UTC)."""

    run_id: str
    sequence: int
    time: datetime


@dataclass(frozen=True, slots=True)
class RunAccepted(TrainingEvent):
    """The request is valid. The run starts from `version` of `model`; `data_bytes` bytes of data are to be uploaded.

    A run that was `found` was begun by an earlier call with the same idempotency key; no data is uploaded. `repeatable`
    is whether a call with the same key would find this run. `kept_back` is the reason if the version that it publishes
    won't be the default: another one is pinned, or the model's settings name it.
    """

    model: str
    version: int
    data_bytes: int
    found: bool = False
    repeatable: bool = False
    kept_back: str = ""


@dataclass(frozen=True, slots=True)
class RunQueued(TrainingEvent):
    """The upload is complete; the run waits in the queue behind `ahead` others."""

    ahead: int


@dataclass(frozen=True, slots=True)
class RunStarted(TrainingEvent):
    """The process has started: `epochs` epochs of `steps_per_epoch` steps over `rows` rows."""

    epochs: int
    steps_per_epoch: int
    rows: int


@dataclass(frozen=True, slots=True)
class StepProgress(TrainingEvent):
    """`step` of `epoch` is completed, both counted from 1; `logs` are means over the epoch so far."""

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    logs: Logs


@dataclass(frozen=True, slots=True)
class EpochEnd(TrainingEvent):
    """`epoch` (from 1) of `epochs` ended after `seconds`; `logs` are its means and the validation's."""

    epoch: int
    epochs: int
    seconds: float
    logs: Logs


@dataclass(frozen=True, slots=True)
class LogLine(TrainingEvent):
    """A line of text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished(TrainingEvent):
    """The run completed and published `version`, None if it published nothing; training took `seconds`.

    `withheld` is the reason if publishing was requested and withheld: no improvement, or another version was published
    meanwhile. `kept_back` is the reason if the published version isn't the default.
    """

    version: int | None
    seconds: float
    logs: Logs
    withheld: str = ""
    kept_back: str = ""


@dataclass(frozen=True, slots=True)
class RunFailed(TrainingEvent):
    """The run ended with an error. `epoch` and `step` count from 1; 0 outside of one.

    A `resumable` run was interrupted, and can be continued with `resume`.
    """

    reason: str
    epoch: int
    step: int
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class RunCancelled(TrainingEvent):
    """The run was cancelled in `epoch`, counted from 1; 0 before the first."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RunResumed(TrainingEvent):
    """The run was resumed from its checkpoint, after `step` steps of `epoch` (from 1); epoch 0 is the very start.

    Later steps are repeated: of two events about the same epoch the last one counts.
    """

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class CheckpointKept(TrainingEvent):
    """The run keeps a checkpoint: after `step` steps of `epoch` (from 1), or after its end if `step` is 0."""

    checkpoint: str
    epoch: int
    step: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RunPaused(TrainingEvent):
    """The run was paused after `step` steps of `epoch` (from 1); epoch 0 is before the start. `resume` continues it.

    `reason` is why, if no call has paused it: the server's disk is full. Empty otherwise.
    """

    epoch: int
    step: int
    reason: str = ""


def read_logs(values: Iterable[training_pb2.LogValue]) -> Logs:
    return {value.name: value.value for value in values}


#: Events by the field of the message that has them.
_EVENTS: Mapping[str, type[TrainingEvent]] = {
    "accepted": RunAccepted,
    "queued": RunQueued,
    "started": RunStarted,
    "step": StepProgress,
    "epoch": EpochEnd,
    "log": LogLine,
    "finished": RunFinished,
    "failed": RunFailed,
    "resumed": RunResumed,
    "checkpoint": CheckpointKept,
    "paused": RunPaused,
    "cancelled": RunCancelled,
}


#: The names of events in the contract.
EVENT_NAMES: Mapping[type[TrainingEvent], str] = {kind: name for name, kind in _EVENTS.items()}


def read_event(message: training_pb2.TrainEvent) -> TrainingEvent | None:
    """Converts a message to an event; None if this release doesn't know its kind."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    part = getattr(message, kind)
    given: dict[str, Any] = {"run_id": message.run_id, "sequence": message.sequence, "time": read_time(message.time)}
    if kind in ("step", "epoch", "finished"):
        given["logs"] = read_logs(part.logs)
    if kind == "accepted":
        given |= {"model": part.base.name, "version": part.base.version}
    elif kind == "finished":
        given["version"] = part.published.version if part.HasField("published") else None
    elif kind == "checkpoint":
        given["checkpoint"] = part.checkpoint_id
    return read(_EVENTS[kind], part, **given)
