"""The process that trains or evaluates: `python -m layerserve_server.training.child RUN_FOLDER`.

It reads the run's folder, appends to its events, and leaves checkpoints, a result and an outcome there. It never
touches the repository, so whenever it is killed, what is served stays as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from layerserve_server.training import events
from layerserve_server.training.events import EventLog, EventWriter
from layerserve_server.training.outcome import INTERRUPT, Interruption, Outcome, StopRequest
from layerserve_server.training.request import Kind, RunRequest
from layerserve_server.training.run_folder import BASE, BEST, CHECKPOINTS, CHILD_LOCK, FILES, MODEL, RESULT
from layerserve_server.training.spool import read_data

if TYPE_CHECKING:
    from layerserve_server.training.reporting import Place


def main(folder: Path) -> int:
    """Carries the run in `folder` out; gives the exit status, 0 for whatever it could say in its outcome."""
    with _locked(folder):
        request = RunRequest.read(folder)
        os.nice(request.nice)
        signal.signal(signal.SIGTERM, _stop)
        from layerserve_server.training.reporting import Place

        place = Place()
        work = _train if request.kind is Kind.TRAINING else _evaluate
        try:
            outcome = work(folder, request, place)
        except StopRequest:
            outcome = Outcome("cancelled", epoch=place.epoch)
        except Interruption:
            outcome = Outcome("interrupted", epoch=place.epoch)
        except Exception as error:
            outcome = _failure(error, place)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        outcome.write(folder)
    return 0


def _train(folder: Path, request: RunRequest, place: Place) -> Outcome:
    import torch
    from layergraph import load_model

    from layerserve_server.execution import load_plugins
    from layerserve_server.training.checkpoints import RunCheckpoints
    from layerserve_server.training.model import configured_callbacks, fit_arguments, prepare_model
    from layerserve_server.training.reporting import Reporter
    from layerserve_server.training.selection import BestEpoch, read_best, why_withheld

    torch.set_num_threads(request.threads)
    (base,) = (folder / BASE).iterdir()
    load_plugins()
    model = load_model(base)
    prepare_model(model, request)
    arrays = read_data(folder, request.data, Path(request.data_root))
    writer = EventWriter(folder)
    began = time.monotonic()
    writer.write(events.Log(f"from version {request.version}, seed {request.seed}, threads {request.threads}"))
    checkpoints = RunCheckpoints(folder / CHECKPOINTS, request.checkpoint_seconds)
    signal.signal(INTERRUPT, lambda *_: checkpoints.interrupt())
    if EventLog.read(folder).newest(events.Started) and not checkpoints.path.exists():
        writer.write(events.Resumed())
    reporter = Reporter(writer, place)
    configured = configured_callbacks(request, folder / FILES)
    best = [BestEpoch(folder, request)] if request.publish_best else []
    # Ours come last: what configured ones add to the logs is told, and their weights are those that are kept.
    model.fit(**fit_arguments(request, arrays), callbacks=[*configured, reporter, *best], checkpoints=checkpoints)
    signal.signal(INTERRUPT, signal.SIG_IGN)
    result = folder / RESULT / MODEL
    result.parent.mkdir(exist_ok=True)
    kept = read_best(folder)
    if request.publish_best and kept:
        writer.write(events.Log(f"the best epoch is {kept['epoch']}"))
        # A second link: a process that is killed now and resumed needs the first one again.
        part = result.with_suffix(".part")
        part.unlink(missing_ok=True)
        os.link(folder / BEST / kept["file"], part)
        os.replace(part, result)
    else:
        model.save(result)
    withheld = why_withheld(load_model, base, result, request, arrays) if request.publish_if_improved else ""
    writer.close()
    return Outcome(
        "trained", epoch=place.epoch, seconds=time.monotonic() - began, logs=reporter.logs, withheld=withheld
    )


def _evaluate(folder: Path, request: RunRequest, place: Place) -> Outcome:
    import torch
    from layergraph import load_model

    from layerserve_server.execution import load_plugins
    from layerserve_server.training.model import evaluate_arguments, prepare_model
    from layerserve_server.training.reporting import EvaluationReporter, numbers

    torch.set_num_threads(request.threads)
    (base,) = (folder / BASE).iterdir()
    load_plugins()
    model = load_model(base)
    prepare_model(model, request)
    arguments = evaluate_arguments(request, read_data(folder, request.data, Path(request.data_root)))
    writer = EventWriter(folder)
    began = time.monotonic()
    logs = numbers(model.evaluate(**arguments, callbacks=[EvaluationReporter(writer, place)]))
    writer.close()
    return Outcome("evaluated", epoch=1, seconds=time.monotonic() - began, logs=logs)


def _failure(error: Exception, place: Place) -> Outcome:
    """What a person is told. Errors that aren't our own are defects: their traceback goes to the run's log."""
    from layergraph.errors import LayerGraphError, NonFiniteLossError

    from layerserve_server.errors import ServerError

    if isinstance(error, NonFiniteLossError):
        return Outcome("failed", str(error), error.epoch, error.step)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Outcome("failed", "out of memory", place.epoch, place.step, resumable=True)
    if isinstance(error, (LayerGraphError, ServerError)):
        return Outcome("failed", str(error), place.epoch, place.step)
    if isinstance(error, OSError) and error.strerror:
        reason = f"the run's files can't be read or written: {error.strerror}"
        return Outcome("failed", reason, place.epoch, place.step, resumable=True)
    import traceback

    traceback.print_exc()
    return Outcome("failed", f"internal error ({type(error).__name__}); the run's log has it", place.epoch, place.step)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopRequest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock that says that this run's child lives."""
    with (folder / CHILD_LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        yield


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # All is on the disk; taking torch down in order would only keep the version from being published for a second.
    os._exit(status)
