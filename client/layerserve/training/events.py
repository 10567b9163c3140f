"""Events of a training run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from layerserve.models.info import read_time
from layerserve.v1 import training_pb2

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


def read_event(message: training_pb2.TrainEvent) -> TrainingEvent | None:
    """Converts a message to an event; None if this release doesn't know its kind."""
    kind = message.WhichOneof("kind")
    at = (message.run_id, message.sequence, read_time(message.time))
    if kind == "accepted":
        accepted = message.accepted
        base, found, repeatable = accepted.base, accepted.found, accepted.repeatable
        return RunAccepted(*at, base.name, base.version, accepted.data_bytes, found, repeatable, accepted.kept_back)
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
        logs, reasons = read_logs(finished.logs), (finished.withheld, finished.kept_back)
        return RunFinished(*at, version, finished.seconds, logs, *reasons)
    if kind == "failed":
        failed = message.failed
        return RunFailed(*at, failed.reason, failed.epoch, failed.step, failed.resumable)
    if kind == "resumed":
        return RunResumed(*at, message.resumed.epoch, message.resumed.step)
    if kind == "checkpoint":
        kept = message.checkpoint
        return CheckpointKept(*at, kept.checkpoint_id, kept.epoch, kept.step, kept.bytes)
    if kind == "paused":
        return RunPaused(*at, message.paused.epoch, message.paused.step, message.paused.reason)
    if kind == "cancelled":
        return RunCancelled(*at, message.cancelled.epoch)
    return None
