"""Training and evaluation in a run's process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from layergraph import load_model
from layergraph.archive.finding import find_model
from layergraph.errors import LayerGraphError
from layergraph.training.callbacks.callback import Callback
from layergraph.training.checkpoint import read_whole
from layergraph.training.frozen_cache import FrozenCache
from layergraph.training.restored_model import restore_model

from layerserve_server.errors import NotFiniteError, NotTrainableError, ServerError
from layerserve_server.inference.runner import load_plugins
from layerserve_server.training import events
from layerserve_server.training.budget import cache_room, text_room
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from layerserve_server.training.model import (
    configured_callbacks,
    evaluate_arguments,
    fit_arguments,
    prepare_model,
    result_format,
    save_result,
)
from layerserve_server.training.precision import policy_of
from layerserve_server.training.process import warm_start
from layerserve_server.training.process.checkpoint_retention import CheckpointRetention
from layerserve_server.training.process.checkpoints import RunCheckpoints
from layerserve_server.training.process.cpu_yield import CpuYield
from layerserve_server.training.process.gpu import gpu
from layerserve_server.training.process.priority import lower_priority
from layerserve_server.training.process.reporting import EvaluationReporter, Position, Reporter, numbers
from layerserve_server.training.process.run_commands import RunCommands
from layerserve_server.training.process.sample_losses import SampleLosses
from layerserve_server.training.process.workers import is_worker, join
from layerserve_server.training.publish_policy import compared_log, no_improvement, why_withheld
from layerserve_server.training.request import EVALUATION, RunRequest
from layerserve_server.training.run_folder.checkpoints import KeptCheckpoints, best_of
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.data import read_data
from layerserve_server.training.run_folder.layout import BASE, BEST, CACHE, CHECKPOINTS, FILES, RIVAL, result_file
from layerserve_server.training.run_folder.result import INTERRUPT, RunResult

if TYPE_CHECKING:
    from layergraph.models.model import Model
    from layergraph.training.workers import Workers


#: Returns one more callback, the last one, of a run that writes these checkpoints, or of an evaluation.
Watch: TypeAlias = Callable[[RunCheckpoints | None], Callback]


def execute(folder: Path, request: RunRequest, position: Position, watch: Watch | None = None) -> RunResult | None:
    """Trains or evaluates. Returns the result; None for all workers but the first."""
    if (folder / RIVAL).is_dir():
        return compare(folder, request)
    if request.kind == EVALUATION:
        return evaluate(folder, request, position, watch)
    if not is_worker():
        return train(folder, request, position, None, watch)
    joined = join()
    if joined.first:
        return train(folder, request, position, joined, watch)
    help_training(folder, request, joined)
    return None


def train(
    folder: Path, request: RunRequest, position: Position, workers: Workers | None, watch: Watch | None = None
) -> RunResult:
    """Trains, from the latest checkpoint if there is one, and writes the trained model to the folder.

    With several workers this is the part of the first one, which alone writes files.
    """
    base, model, arrays = prepared(folder, request)
    writer = EventWriter(folder)
    began = time.monotonic()
    together = f", workers {request.workers}" if workers is not None else ""
    policy = policy_of(request.precision, request.device)
    computing = f", precision {policy}" if policy is not None else ""
    text = f"from version {request.version}, seed {request.seed}, threads {request.threads}{together}{computing}"
    writer.write(events.Log(text))
    start = warm_start.begin(folder, request, model)
    retention = CheckpointRetention(folder, request, model, writer.write)
    checkpoints = RunCheckpoints(folder / CHECKPOINTS, request.checkpoint_seconds, retention, start.exact)
    signal.signal(INTERRUPT, lambda *_: checkpoints.interrupt())
    begins = not checkpoints.path.exists()
    if EventLog.read(folder).newest(events.Started):
        if begins:
            writer.write(events.Resumed())
    else:
        for line in start.texts:
            writer.write(events.Log(line))
    reporter = Reporter(writer, position, resumes=not begins)
    configured = configured_callbacks(request, folder / FILES)
    # After the configured callbacks, so that logs that these add are reported, and weights that they set are saved.
    callbacks = [
        *(*configured, reporter, RunCommands(folder, checkpoints)),
        *(*_yielding(request), *([watch(checkpoints)] if watch else [])),
    ]
    arguments = fit_arguments(request, arrays) | {
        "epochs": start.epochs_done + request.epochs,
        "cache_frozen": _frozen_cache(folder, request, model, writer),
    }
    # Not earlier: at a low priority the setup takes a minute on a busy machine.
    lower_priority(request.nice)
    model.fit(**arguments, callbacks=callbacks, checkpoints=checkpoints, workers=workers)
    signal.signal(INTERRUPT, signal.SIG_IGN)
    control = ControlFile(folder).read()
    if control.stop:
        step = f"step {position.step} of epoch {position.epoch}" if position.step else f"epoch {position.epoch}"
        why = f": {control.why_stopped}" if control.why_stopped else ""
        writer.write(events.Log(f"stopped early, after {step}{why}"))
    try:
        result = _keep_result(folder, request, model, base, writer)
        withheld = why_withheld(load_model, base, result, request, arrays)
    except NotFiniteError as error:
        if request.on_nan != "continue":
            raise
        # No file is kept, so no call can publish it.
        withheld = str(error)
    writer.close()
    return RunResult(
        "trained", epoch=position.epoch, seconds=time.monotonic() - began, logs=reporter.logs, withheld=withheld
    )


def compare(folder: Path, request: RunRequest) -> RunResult:
    """Compares the trained model with the newest version, which was published meanwhile, on the validation data."""
    trained = RunResult.read(folder / RIVAL)
    if trained is None:
        raise NotTrainableError("the result of the training process can't be read")
    _set_up_torch(request)
    data = read_data(folder, request.data, text_room(request, folder))
    lower_priority(request.nice)
    rival, log = find_model(folder / RIVAL), compared_log(request)
    try:
        withheld = no_improvement(load_model, rival, result_file(folder), request, data, log, trained.compared)
    except (LayerGraphError, ServerError) as error:
        withheld = f"version {trained.compared} was published meanwhile, and can't be compared with the result: {error}"
    return replace(trained, withheld=withheld)


def help_training(folder: Path, request: RunRequest, workers: Workers) -> None:
    """Trains as a worker other than the first, which writes no files."""
    signal.signal(INTERRUPT, signal.SIG_IGN)
    _, model, arrays = prepared(folder, request)
    start = warm_start.begin(folder, request, model)
    checkpoints = RunCheckpoints(folder / CHECKPOINTS, request.checkpoint_seconds, start=start.exact)
    arguments = fit_arguments(request, arrays) | {"epochs": start.epochs_done + request.epochs}
    lower_priority(request.nice)
    model.fit(**arguments, checkpoints=checkpoints, workers=workers)


def evaluate(folder: Path, request: RunRequest, position: Position, watch: Watch | None = None) -> RunResult:
    """Evaluates the model, and returns the metrics in the result's logs."""
    _, model, arrays = prepared(folder, request)
    warm_start.finish(folder, model)
    writer = EventWriter(folder)
    began = time.monotonic()
    reporter = EvaluationReporter(writer, position)
    lower_priority(request.nice)
    callbacks = [reporter, *_yielding(request), *([watch(None)] if watch else [])]
    arguments = evaluate_arguments(request, arrays)
    if request.sample_losses:
        with SampleLosses(folder / FILES, request.data[0].rows, arguments.get("rows")) as losses:
            logs = numbers(model.evaluate(**arguments, callbacks=callbacks, row_losses=losses.add))
    else:
        logs = numbers(model.evaluate(**arguments, callbacks=callbacks))
    writer.close()
    return RunResult("evaluated", epoch=1, seconds=time.monotonic() - began, logs=logs)


def _yielding(request: RunRequest) -> list[Callback]:
    """Returns the callback that yields to serving; none if the run has the same priority."""
    return [CpuYield()] if request.nice else []


def _frozen_cache(folder: Path, request: RunRequest, model: Model, writer: EventWriter) -> FrozenCache | bool:
    """Returns how outputs of frozen layers are kept; False if they aren't."""
    if request.workers > 1:
        return False

    def note(text: str) -> None:
        # Most runs have no frozen layers, and no line about them.
        if any(not layer.trainable for layer in model.walk_layers()):
            writer.write(events.Log(text))

    resting = CpuYield() if request.nice else None
    room = cache_room(request, folder, model.count_params())
    return FrozenCache(
        folder / CACHE,
        room,
        log=note,
        pause=(lambda: resting.on_train_batch_end(0)) if resting is not None else lambda: None,
    )


def prepared(folder: Path, request: RunRequest) -> tuple[Path, Model, list[Any]]:
    """Returns the base version's file, its model prepared for the request, and the data."""
    _set_up_torch(request)
    base = find_model(folder / BASE)
    model = load_model(base, keep_lora=True)
    prepare_model(model, request)
    if request.device != "cpu":
        model.to(gpu(request.device))
    return base, model, read_data(folder, request.data, text_room(request, folder))


def _set_up_torch(request: RunRequest) -> None:
    torch.set_num_threads(max(1, request.threads // request.workers))
    # Before torch starts its threads, which inherit this mode.
    torch.set_flush_denormal(True)
    load_plugins()


def _keep_result(folder: Path, request: RunRequest, model: Model, base: Path, writer: EventWriter) -> Path:
    """Writes the model to publish, of the last or the best epoch, to the result's folder. Returns its file.

    Raises NotFiniteError if a weight isn't finite.
    """
    format = result_format(model, request)
    result = result_file(folder, format.suffix)
    result.parent.mkdir(exist_ok=True)
    kept = KeptCheckpoints(folder / BEST)
    for best in best_of(kept.list())[:1]:
        writer.write(events.Log(f"the best epoch is {best.epoch}"))
        restore_model(model, read_whole(kept.path(best.id)))
    save_result(model, result, request, format, base)
    return result
