"""The process that trains: `python -m layerserve_server.training.child RUN_FOLDER`.

It reads the run's folder, appends to its events, and leaves a result and an outcome there. It never touches the
repository, so whenever it is killed, what is served stays as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from layerserve_server.training import events
from layerserve_server.training.events import EventWriter
from layerserve_server.training.request import RunRequest
from layerserve_server.training.spool import read_data

CHILD_LOCK = "child.lock"
OUTCOME = "outcome.json"
BASE = "base"
RESULT = "result"

#: Least time between two step events, in seconds: at first a bar should move, later a glance is enough.
STEP_SECONDS = 0.1
LATER_STEP_SECONDS = 1.0
#: How long "at first" lasts, in seconds.
LIVELY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended: "trained", "failed" or "cancelled"."""

    kind: str
    reason: str = ""
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    logs: Mapping[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Leaves the outcome in the run's folder, whole or not at all."""
        temporary = folder / (OUTCOME + ".part")
        temporary.write_text(json.dumps(asdict(self)), "utf-8")
        os.replace(temporary, folder / OUTCOME)

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """The outcome in a run's folder; None where the child left none."""
        try:
            return cls(**json.loads((folder / OUTCOME).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


class StopRequest(BaseException):
    """SIGTERM came. Not an Exception, so that nothing on the way takes it for an error of its own."""


def main(folder: Path) -> int:
    """Trains the run in `folder`; gives the exit status, 0 for whatever it could say in its outcome."""
    with _locked(folder):
        request = RunRequest.read(folder)
        os.nice(request.nice)
        signal.signal(signal.SIGTERM, _stop)
        place = Place()
        try:
            outcome = _train(folder, request, place)
        except StopRequest:
            outcome = Outcome("cancelled", epoch=place.epoch)
        except Exception as error:
            outcome = _failure(error, place)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        outcome.write(folder)
    return 0


@dataclass(slots=True)
class Place:
    """Where training is: epoch and step from 1, 0 outside of one."""

    epoch: int = 0
    step: int = 0


def _train(folder: Path, request: RunRequest, place: Place) -> Outcome:
    import torch
    from layergraph import load_model

    from layerserve_server.training.model import compile_model, fit_arguments

    torch.set_num_threads(request.threads)
    (base,) = (folder / BASE).iterdir()
    model = load_model(base)
    compile_model(model, request.compile)
    arguments = fit_arguments(request, read_data(folder, request.data))
    writer = EventWriter(folder)
    began = time.monotonic()
    writer.write(events.Log(f"from version {request.version}, seed {request.seed}, threads {request.threads}"))
    reporter = _reporter(writer, place)
    model.fit(**arguments, callbacks=[reporter])
    result = folder / RESULT
    result.mkdir(exist_ok=True)
    model.save(result / "model.keras")
    writer.close()
    return Outcome("trained", epoch=place.epoch, seconds=time.monotonic() - began, logs=reporter.logs)


def _failure(error: Exception, place: Place) -> Outcome:
    """What a person is told. Errors that aren't layergraph's own are defects: their traceback goes to the run's log."""
    from layergraph.errors import LayerGraphError, NonFiniteLossError

    if isinstance(error, NonFiniteLossError):
        return Outcome("failed", str(error), error.epoch, error.step)
    if isinstance(error, MemoryError):
        return Outcome("failed", "out of memory", place.epoch, place.step)
    if isinstance(error, LayerGraphError):
        return Outcome("failed", str(error), place.epoch, place.step)
    import traceback

    traceback.print_exc()
    return Outcome("failed", f"internal error ({type(error).__name__}); the run's log has it", place.epoch, place.step)


def _reporter(writer: EventWriter, place: Place) -> Any:
    from layergraph.training.callbacks import Callback

    class Reporter(Callback):
        """Turns Keras's hooks into events. Logs are read only for an event: reading waits for the device."""

        def __init__(self) -> None:
            super().__init__()
            self.logs: dict[str, float] = {}
            self._began = self._epoch_began = time.monotonic()
            self._reported = 0.0

        def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
            writer.write(events.Started(self._epochs, self._steps, self.params["rows"]))

        def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            place.epoch, place.step = epoch + 1, 0
            self._epoch_began = time.monotonic()

        def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            place.step = batch + 1

        def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            now = time.monotonic()
            least = STEP_SECONDS if now - self._began < LIVELY_SECONDS else LATER_STEP_SECONDS
            if now - self._reported >= least or place.step == self._steps:
                self._reported = now
                writer.write(events.Step(place.epoch, self._epochs, place.step, self._steps, _numbers(logs)))

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            self.logs = _numbers(logs)
            seconds = time.monotonic() - self._epoch_began
            place.step = 0
            writer.write(events.Epoch(place.epoch, self._epochs, self.logs, seconds))

        @property
        def _epochs(self) -> int:
            return int(self.params["epochs"])

        @property
        def _steps(self) -> int:
            return int(self.params["steps"])

    return Reporter()


def _numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (logs or {}).items()}


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
