"""Runs, their events and files as messages."""

from __future__ import annotations

from layerserve.v1 import training_pb2 as pb

from layerserve_server.services.messages import model_spec, timestamp
from layerserve_server.training import events
from layerserve_server.training.events import Event, Logs
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.files import RunFile
from layerserve_server.training.runs.remaining import remaining_seconds
from layerserve_server.training.runs.run import Run, RunState

STATES: dict[RunState, pb.RunState.ValueType] = {
    RunState.QUEUED: pb.RUN_STATE_QUEUED,
    RunState.RUNNING: pb.RUN_STATE_RUNNING,
    RunState.FINISHED: pb.RUN_STATE_FINISHED,
    RunState.FAILED: pb.RUN_STATE_FAILED,
    RunState.CANCELLED: pb.RUN_STATE_CANCELLED,
    RunState.PAUSED: pb.RUN_STATE_PAUSED,
}


def event_message(run: Run, event: Event, *, found: bool = False) -> pb.TrainEvent:
    message = pb.TrainEvent(run_id=run.id, sequence=event.sequence, time=timestamp(event.time))
    what = event.what
    if isinstance(what, events.Accepted):
        message.accepted.base.CopyFrom(model_spec(what.model, what.version))
        message.accepted.data_bytes = what.data_bytes
        message.accepted.found = found
        message.accepted.repeatable = bool(run.request.idempotency_key)
        message.accepted.kept_back = what.kept_back
    elif isinstance(what, events.Queued):
        message.queued.ahead = what.ahead
        message.queued.SetInParent()
    elif isinstance(what, events.Started):
        message.started.CopyFrom(
            pb.RunStarted(epochs=what.epochs, steps_per_epoch=what.steps_per_epoch, rows=what.rows)
        )
    elif isinstance(what, events.Step):
        message.step.CopyFrom(
            pb.StepProgress(
                epoch=what.epoch,
                epochs=what.epochs,
                step=what.step,
                steps_per_epoch=what.steps_per_epoch,
                logs=log_values(what.logs),
            )
        )
    elif isinstance(what, events.Epoch):
        message.epoch.CopyFrom(
            pb.EpochEnd(epoch=what.epoch, epochs=what.epochs, logs=log_values(what.logs), seconds=what.seconds)
        )
    elif isinstance(what, events.Log):
        message.log.text = what.text
        message.log.SetInParent()
    elif isinstance(what, events.Finished):
        finished = pb.RunFinished(
            logs=log_values(what.logs), seconds=what.seconds, withheld=what.withheld, kept_back=what.kept_back
        )
        message.finished.CopyFrom(finished)
        if what.version:
            message.finished.published.CopyFrom(model_spec(run.request.model, what.version))
    elif isinstance(what, events.Failed):
        failed = pb.RunFailed(reason=what.reason, epoch=what.epoch, step=what.step, resumable=what.resumable)
        message.failed.CopyFrom(failed)
    elif isinstance(what, events.Paused):
        message.paused.CopyFrom(pb.RunPaused(epoch=what.epoch, step=what.step, reason=what.reason))
    elif isinstance(what, events.Resumed):
        message.resumed.CopyFrom(pb.RunResumed(epoch=what.epoch, step=what.step))
    elif isinstance(what, events.Checkpoint):
        kept = pb.CheckpointKept(checkpoint_id=what.id, epoch=what.epoch, step=what.step, bytes=what.bytes)
        message.checkpoint.CopyFrom(kept)
    else:
        message.cancelled.CopyFrom(pb.RunCancelled(epoch=what.epoch))
    return message


def kind_number(request: RunRequest) -> pb.RunKind.ValueType:
    """Returns the kind of a run; RUN_KIND_UNSPECIFIED for one that the contract doesn't have."""
    return dict(pb.RunKind.items()).get(f"RUN_KIND_{request.kind.upper()}", pb.RUN_KIND_UNSPECIFIED)


def _reason(run: Run) -> str:
    """Returns why a run failed, is paused, or ends early; empty if it does none of these, or since a call asked."""
    if run.state is RunState.PAUSED:
        paused = run.log.newest(events.Paused)
        return paused.reason if paused else ""
    failed = run.log.newest(events.Failed)
    return failed.reason if failed else run.control.why_stopped


def file_message(file: RunFile) -> pb.RunFile:
    return pb.RunFile(name=file.name, bytes=file.bytes, modified_time=timestamp(file.modified_time))


def log_values(logs: Logs) -> list[pb.LogValue]:
    return [pb.LogValue(name=name, value=value) for name, value in logs.items()]


def existence_message(run: Run) -> pb.Run:
    """Returns what those see of a run who may train its model but not read it: that it is there, and its state."""
    request = run.request
    message = pb.Run(
        id=run.id,
        state=STATES[run.state],
        base=model_spec(request.model, request.version),
        kind=kind_number(request),
        caller=request.caller,
    )
    message.created_time.CopyFrom(timestamp(run.created_time))
    return message


def run_message(run: Run, owner: str = "") -> pb.Run:
    request, log = run.request, run.log
    started = log.newest(events.Started)
    finished = log.newest(events.Finished)
    parent, _, checkpoint = (request.from_checkpoint or "").partition("/")
    message = pb.Run(
        id=run.id,
        state=STATES[run.state],
        base=model_spec(request.model, request.version),
        reason=_reason(run),
        epochs_done=run.epochs_done,
        # A run that goes on from a checkpoint counts the epochs before it, too.
        epochs=started.epochs if started else request.epochs,
        steps_done=0 if log.ended else run.position[1],
        steps_per_epoch=started.steps_per_epoch if started else 0,
        logs=log_values(run.logs),
        seed=request.seed,
        description=run.description,
        kind=kind_number(request),
        resumable=run.resumable,
        resumed=run.resumed,
        priority=run.priority,
        workers=request.workers,
        owner=owner,
        parent=parent,
        from_checkpoint=checkpoint,
        remaining_seconds=remaining_seconds(run),
        metadata=run.metadata,
        caller=request.caller,
        withheld=finished.withheld if finished else "",
        kept_back=finished.kept_back if finished else "",
        publishable=run.publishable,
        stopped=run.control.stop,
        idempotency_key=request.idempotency_key or "",
        sweep_id=request.sweep,
        trial=request.trial,
    )
    if (best := run.best) is not None:
        message.best.name, message.best.value, message.best_epoch = best
    if version := run.published_version:
        message.published.CopyFrom(model_spec(request.model, version))
    for field, seconds in (
        (message.created_time, log.time_of(events.Accepted)),
        (message.started_time, log.time_of(events.Started)),
        (message.ended_time, log.time_of(*events.LAST)),
    ):
        if seconds is not None:
            field.CopyFrom(timestamp(seconds))
    return message
