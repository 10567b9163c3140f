"""Worker processes of a distributed run, started through torchrun by the run's process or by a cluster."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.training import events
from layerserve_server.training.events import EventLog
from layerserve_server.training.proc_files import children_of
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.result import INTERRUPT, NO_SPACE, RunResult, ended_by_signal

if TYPE_CHECKING:
    from layergraph.training.workers import Workers

#: Environment variable with the rendezvous file of workers on one machine, which then needn't listen on a network.
RENDEZVOUS = "LAYERSERVE_WORKERS_RENDEZVOUS"
#: Exit status of a worker that ended because another worker was lost.
LOST_PEER = 75
#: Option of Linux's prctl: the signal that a process receives when its parent ends.
PR_SET_PDEATHSIG = 1


def under_torchrun() -> bool:
    """Whether this process is one of torchrun's workers."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_here() -> bool:
    """Whether this process is a worker that `launch` has started."""
    return under_torchrun() and RENDEZVOUS in os.environ


def launch(folder: Path, request: RunRequest) -> None:
    """Trains the run in `folder` with its workers. Writes the result if they fail."""
    # Imported here, since nothing else in this process needs torch.
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    signal.signal(INTERRUPT, lambda *_: _signal_workers(INTERRUPT))
    with tempfile.TemporaryDirectory(prefix="workers.", dir=folder) as rendezvous:
        os.environ[RENDEZVOUS] = f"{rendezvous}/workers"
        # gloo connects only processes on this machine.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
        arguments = torchrun.parse_args(  # type: ignore[no-untyped-call]
            [
                "--nnodes=1",
                f"--nproc-per-node={request.workers}",
                # A run that lost a worker is resumed by the server that owns it, like any interrupted run.
                "--max-restarts=0",
                "--rdzv-backend=c10d",
                "--rdzv-conf=store_type=file",
                f"--rdzv-endpoint={rendezvous}/torchrun",
                "--local-addr=localhost",
                # By default it makes a folder for each run in the system's temporary folder, and leaves it there.
                f"--log-dir={rendezvous}",
                "--module",
                "layerserve_server.training.program.main",
                str(folder),
            ]
        )
        try:
            torchrun.run(arguments)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            if any(failure.exitcode == NO_SPACE for failure in error.failures.values()):
                sys.exit(NO_SPACE)
            _write_unless_written(folder, lost(folder, error.failures))
        except SignalException:
            _write_unless_written(folder, RunResult("cancelled"))


def join() -> Workers:
    """Joins the process group of the run's workers, and returns this worker's place in it. Waits for all workers."""
    from layergraph.training.workers import Workers
    from torch import distributed

    if started_here():
        end_with_parent()
        count = int(os.environ["WORLD_SIZE"])
        store = distributed.FileStore(os.environ[RENDEZVOUS], count)  # type: ignore[attr-defined]
        distributed.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=count)
    else:
        distributed.init_process_group("gloo")
    return Workers()


def lost_peer(error: Exception) -> bool:
    """Whether an error means that another worker was lost. gloo has no error class for it."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "connection" in text or "timed out" in text)


def _write_unless_written(folder: Path, result: RunResult) -> None:
    """Writes a result, unless a worker has written one before it ended, which may have made the others fail."""
    if RunResult.read(folder) is None:
        result.write(folder)


def lost(folder: Path, failures: Mapping[int, Any]) -> RunResult:
    """Returns the result of a run whose workers failed. `failures` are torchrun's, by rank."""
    step = EventLog.read(folder).newest(events.Step)
    position = (step.epoch, step.step) if step is not None else (0, 0)
    # In the order in which torchrun saw them end: the first one's end may have caused the others'.
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    # torchrun ends the remaining workers with SIGTERM.
    killed = [rank for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM]
    # A thread of gloo may abort when another worker is lost, so SIGABRT is the least likely cause.
    killed.sort(key=lambda rank: -codes[rank] == signal.SIGABRT)
    if killed:
        reason = f"worker {killed[0]} of the run {ended_by_signal(-codes[killed[0]])}"
        return RunResult("killed", reason, *position)
    broken = [rank for rank, code in codes.items() if code not in (LOST_PEER, -signal.SIGTERM)]
    if broken:
        return RunResult("failed", f"internal error in worker {broken[0]}; see the run's log", *position)
    return RunResult("killed", "a worker of the run was lost", *position)


def _signal_workers(number: int) -> None:
    for pid in children_of(os.getpid()):
        os.kill(pid, number)


def end_with_parent() -> None:
    """Makes the system kill this process when torchrun's is killed: otherwise it would never end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def _loopback() -> str:
    return "lo" if sys.platform == "linux" else "lo0"
