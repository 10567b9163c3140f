"""The process that trains or evaluates: `python -m layerserve_server.training.process.main RUN_FOLDER`, or by torchrun.

It reads the run's folder, appends to its events, and leaves checkpoints, a result and an outcome there. It never
touches the repository, so whenever it is killed, what is served stays as it is. A run with several workers it has
started by torchrun as so many of itself, unless torchrun has started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from layerserve_server.training.process import workers
from layerserve_server.training.request import Kind, RunRequest
from layerserve_server.training.result import Interruption, RunResult, StopRequest
from layerserve_server.training.runs.folder import CHILD_LOCK

if TYPE_CHECKING:
    from layerserve_server.training.process.reporting import Place


#: Name of a run's process, of at most 15 characters.
NAME = "layerserve-run"


def main(folder: Path) -> int:
    """Carries the run in `folder` out; gives the exit status, 0 for whatever it could say in its outcome."""
    request = RunRequest.read(folder)
    # The lock is held by the process that has started all workers, or by the first one.
    if workers.started_here() or (workers.under_torchrun() and os.environ["RANK"] != "0"):
        return _work(folder, request)
    with _locked(folder):
        if request.workers == 1 or workers.under_torchrun():
            return _work(folder, request)
        workers.launch(folder, request)
    return 0


def _work(folder: Path, request: RunRequest) -> int:
    """What one process does of a run. Gives the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    from layerserve_server.training.process.reporting import Place

    place = Place()
    outcome: RunResult | None
    try:
        outcome = _carried_out(folder, request, place)
    except StopRequest:
        # Of several workers torchrun stops all where one fails: only the process that started them knows why.
        outcome = None if workers.started_here() else RunResult("cancelled", epoch=place.epoch)
    except Interruption:
        outcome = RunResult("interrupted", epoch=place.epoch)
    except Exception as error:
        if workers.under_torchrun() and workers.left_alone(error):
            return workers.LEFT_ALONE
        outcome = _failure(error, place)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if outcome is not None:
        outcome.write(folder)
    return 0


def _carried_out(folder: Path, request: RunRequest, place: Place) -> RunResult | None:
    """The outcome; None for a worker that isn't the first."""
    # Here, so that what can be refused is refused before torch comes.
    from layerserve_server.training.process import work

    if request.kind is Kind.EVALUATION:
        return work.evaluate(folder, request, place)
    if not workers.under_torchrun():
        return work.train(folder, request, place, None)
    joined = workers.join()
    if joined.first:
        return work.train(folder, request, place, joined)
    work.help_training(folder, request, joined)
    return None


def _failure(error: Exception, place: Place) -> RunResult:
    """What a person is told. Errors that aren't our own are defects: their traceback goes to the run's log."""
    from layergraph.errors import LayerGraphError, NonFiniteLossError

    from layerserve_server.errors import ServerError

    if isinstance(error, NonFiniteLossError):
        return RunResult("failed", str(error), error.epoch, error.step)
    if isinstance(error, MemoryError) or any(said in str(error) for said in ("can't allocate memory", "out of memory")):
        return RunResult("failed", "out of memory", place.epoch, place.step, resumable=True)
    if isinstance(error, (LayerGraphError, ServerError)):
        return RunResult("failed", str(error), place.epoch, place.step)
    if isinstance(error, OSError) and error.strerror:
        reason = f"the run's files can't be read or written: {error.strerror}"
        return RunResult("failed", reason, place.epoch, place.step, resumable=True)
    traceback.print_exc()
    return RunResult(
        "failed", f"internal error ({type(error).__name__}); the run's log has it", place.epoch, place.step
    )


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopRequest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock that says that this run's child lives."""
    # Not "w": that would empty the file, which names the process that holds the lock, before it is had.
    with (folder / CHILD_LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def carry_out(folder: Path) -> NoReturn:
    """Carries the run in `folder` out, and ends the process."""
    # So that `ps` and `top` tell runs from other processes; not all systems have it.
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    status = 1
    try:
        status = main(folder)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is on the disk; taking torch down in order would only keep the version from being published for a second.
    os._exit(status)


if __name__ == "__main__":
    carry_out(Path(sys.argv[1]))
