"""Program of a run's process: `python -m layerserve_server.training.program.main RUN_FOLDER`, or through torchrun.

It reads the run's folder, appends events, and writes checkpoints, the trained model and a `RunResult` there. It never
accesses the repository, so killing it doesn't affect serving. For a run with several workers it forks them, unless
torchrun has started it as one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from layerserve_server.disk import locked
from layerserve_server.training.process import workers
from layerserve_server.training.process.cpu_usage import SERVER
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.computing import computing
from layerserve_server.training.run_folder.layout import CHILD_LOCK, RIVAL
from layerserve_server.training.run_folder.result import NO_SPACE, Interruption, RunResult, StopRequest, out_of_space

if TYPE_CHECKING:
    from layerserve_server.training.process.reporting import Position


#: Name of a run's process; Linux allows 15 characters.
NAME = "layerserve-run"
#: Variable with the module that executes the run (see `RunKind.program`), unless that is `training.process.work`.
PROGRAM = "LAYERSERVE_RUN_PROGRAM"


def main(folder: Path) -> int:
    """Executes the run in `folder`. Returns the exit status: 0 if a result was written, also of a failed run."""
    request = RunRequest.read(folder)
    # The lock is held by the process that forked the workers, or else by the first worker.
    if workers.under_torchrun() and os.environ["RANK"] != "0":
        return _work(folder, request)
    with _locked(folder), _marked(folder):
        if (folder / RIVAL).is_dir() or request.workers == 1 or workers.under_torchrun():
            return _work(folder, request)
        workers.launch(folder, request, functools.partial(_work, folder, request))
    return 0


def _work(folder: Path, request: RunRequest) -> int:
    """Executes one process's part of a run. Returns the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    from layerserve_server.training.process.reporting import Position

    position = Position()
    result: RunResult | None
    try:
        result = _execute(folder, request, position)
    except StopRequest:
        # All workers are stopped if one fails; the process that forked them reports the reason.
        result = None if workers.forked() else RunResult("cancelled", epoch=position.epoch)
    except Interruption:
        result = RunResult("interrupted", epoch=position.epoch, step=position.step)
    except Exception as error:
        if workers.is_worker() and workers.lost_peer(error):
            return workers.LOST_PEER
        result = _failure(error, position)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if result is None:
        return 0
    try:
        result.write(folder)
    except OSError as error:
        if out_of_space(error):
            return NO_SPACE
        raise
    return 0


def _execute(folder: Path, request: RunRequest, position: Position) -> RunResult | None:
    """Does what runs of this kind do. Returns the result; None for all workers but the first."""
    # Imported late, since it imports torch: errors in the request are found before.
    if program := os.environ.get(PROGRAM):
        result: RunResult = import_module(program).execute(folder, request, position)
        return result
    from layerserve_server.training.process import work

    return work.execute(folder, request, position)


def _failure(error: Exception, position: Position) -> RunResult:
    """Returns the result for an error. The traceback of an unexpected error goes to the run's log."""
    from layergraph.errors import LayerGraphError, NonFiniteLossError

    from layerserve_server.errors import ServerError

    if out_of_space(error):
        reason = "there is no space left on the server's disk"
        return RunResult("failed", reason, position.epoch, position.step, resumable=True, out_of_space=True)
    if isinstance(error, NonFiniteLossError):
        return RunResult("failed", str(error), error.epoch, error.step)
    if isinstance(error, MemoryError) or any(text in str(error) for text in ("can't allocate memory", "out of memory")):
        return RunResult("failed", "out of memory", position.epoch, position.step, resumable=True)
    if isinstance(error, (LayerGraphError, ServerError)):
        return RunResult("failed", str(error), position.epoch, position.step)
    if isinstance(error, OSError) and error.strerror:
        reason = f"the run's files can't be read or written: {error.strerror}"
        return RunResult("failed", reason, position.epoch, position.step, resumable=True)
    traceback.print_exc()
    return RunResult(
        "failed", f"internal error ({type(error).__name__}); see the run's log", position.epoch, position.step
    )


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopRequest


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock that marks the run's process as alive."""
    with locked(folder / CHILD_LOCK) as file:
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def _marked(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Marks the time in which a run of a server on this machine computes, for the tuning of engines to wait.

    The program of an extension may compute now and then only.
    """
    if PROGRAM in os.environ or SERVER not in os.environ:
        return contextlib.nullcontext()
    return computing(folder.parent)


def carry_out(folder: Path) -> NoReturn:
    """Executes the run in `folder` and ends the process."""
    # The name shown by `ps` and `top`; not all systems support it.
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    status = 1
    try:
        status = main(folder)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # All files are written. Shutting torch down would delay publishing by a second.
    os._exit(status)


if __name__ == "__main__":
    carry_out(Path(sys.argv[1]))
