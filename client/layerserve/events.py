"""What happens in a training run, as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from layerserve.model_info import read_time
from layerserve.v1 import training_pb2

#: Names and values of losses and metrics, named as Keras logs them.
Logs = dict[str, float]


@dataclass(frozen=True, slots=True)
class TrainingEvent:
    """What all events have: the run, the event's number in it, and when it happened (UTC)."""

    run_id: str
    sequence: int
    time: datetime


@dataclass(frozen=True, slots=True)
class RunAccepted(TrainingEvent):
    """The request is valid. The run starts from `version` of `model`; `data_bytes` of data are still to come."""

    model: str
    version: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class RunQueued(TrainingEvent):
    """All data has come; the run waits for `ahead` others."""

    ahead: int


@dataclass(frozen=True, slots=True)
class RunStarted(TrainingEvent):
    """The training process works: `epochs` of `steps_per_epoch` steps over `rows` rows."""

    epochs: int
    steps_per_epoch: int
    rows: int


@dataclass(frozen=True, slots=True)
class StepProgress(TrainingEvent):
    """`step` of `steps_per_epoch` in `epoch` of `epochs` is done, from 1; `logs` are means over the epoch so far."""

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    logs: Logs


@dataclass(frozen=True, slots=True)
class EpochEnd(TrainingEvent):
    """`epoch` of `epochs` ended, after `seconds`; `logs` are its means, then those of validation."""

    epoch: int
    epochs: int
    seconds: float
    logs: Logs


@dataclass(frozen=True, slots=True)
class LogLine(TrainingEvent):
    """A line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished(TrainingEvent):
    """The run ended well and published `version`, or None where none was asked for; training took `seconds`.

    `withheld` says why nothing was published although it was asked for: no improvement.
    """

    version: int | None
    seconds: float
    logs: Logs
    withheld: str = ""


@dataclass(frozen=True, slots=True)
class RunFailed(TrainingEvent):
    """The run ended by an error. `epoch` and `step` count from 1; 0 outside of one.

    A `resumable` one was interrupted: `resume` goes on with it.
    """

    reason: str
    epoch: int
    step: int
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class RunCancelled(TrainingEvent):
    """The run was stopped on request, in `epoch`, from 1; 0 before the first."""

    epoch: int


@dataclass(frozen=True, slots=True)
class RunResumed(TrainingEvent):
    """The run goes on from its checkpoint: `step` steps of `epoch` (from 1) are done; epoch 0 is the very beginning.

    What was done behind that is done again: of two events about one epoch the later one counts.
    """

    epoch: int
    step: int


def read_logs(values: Iterable[training_pb2.LogValue]) -> Logs:
    return {value.name: value.value for value in values}


def read_event(message: training_pb2.TrainEvent) -> TrainingEvent | None:
    """The event of a message; None for a kind that this release doesn't know."""
    kind = message.WhichOneof("kind")
    at = (message.run_id, message.sequence, read_time(message.time))
    if kind == "accepted":
        accepted = message.accepted
        return RunAccepted(*at, accepted.base.name, accepted.base.version, accepted.data_bytes)
    if kind == "queued":
        return RunQueued(*at, message.queued.ahead)
    if kind == "started":
        started = message.started
        return RunStarted(*at, started.epochs, started.steps_per_epoch, started.rows)
    if kind == "step":
        step = message.step
        return StepProgress(*at, step.epoch, step.epochs, step.step, step.steps_per_epoch, read_logs(step.logs))
    if kind == "epoch":
        epoch = message.epoch
        return EpochEnd(*at, epoch.epoch, epoch.epochs, epoch.seconds, read_logs(epoch.logs))
    if kind == "log":
        return LogLine(*at, message.log.text)
    if kind == "finished":
        finished = message.finished
        version = finished.published.version if finished.HasField("published") else None
        return RunFinished(*at, version, finished.seconds, read_logs(finished.logs), finished.withheld)
    if kind == "failed":
        failed = message.failed
        return RunFailed(*at, failed.reason, failed.epoch, failed.step, failed.resumable)
    if kind == "resumed":
        return RunResumed(*at, message.resumed.epoch, message.resumed.step)
    if kind == "cancelled":
        return RunCancelled(*at, message.cancelled.epoch)
    return None
