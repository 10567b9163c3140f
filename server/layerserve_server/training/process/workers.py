"""The processes of a run with several workers: started by torchrun, by this server's own or by a cluster's."""

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
from layerserve_server.training.process.proc_files import children_of
from layerserve_server.training.request import RunRequest
from layerserve_server.training.result import INTERRUPT, RunResult, ended_by_signal

if TYPE_CHECKING:
    from layergraph.training.workers import Workers

#: Names the file through which workers of one machine find each other: so that none listens to a network for that.
MEETING = "LAYERSERVE_WORKERS_MEETING"
#: Exit status of a worker that could not go on without another one.
LEFT_ALONE = 75
#: Linux's prctl: the signal that a process gets when the one that started it ends.
PR_SET_PDEATHSIG = 1


def under_torchrun() -> bool:
    """Whether this process is one of torchrun's workers."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_here() -> bool:
    """Whether it is one that `launch` has started."""
    return under_torchrun() and MEETING in os.environ


def launch(folder: Path, request: RunRequest) -> None:
    """Trains the run in `folder` by its workers; leaves an outcome where they can't."""
    # Here, since nothing else of this process needs torch.
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    signal.signal(INTERRUPT, lambda *_: _tell_workers(INTERRUPT))
    with tempfile.TemporaryDirectory(prefix="workers.", dir=folder) as meeting:
        os.environ[MEETING] = f"{meeting}/workers"
        # What gloo connects is on this machine.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
        arguments = torchrun.parse_args(  # type: ignore[no-untyped-call]
            [
                "--nnodes=1",
                f"--nproc-per-node={request.workers}",
                # A run that lost a worker is resumed by whoever looks after it, as any that was interrupted.
                "--max-restarts=0",
                "--rdzv-backend=c10d",
                "--rdzv-conf=store_type=file",
                f"--rdzv-endpoint={meeting}/torchrun",
                "--local-addr=localhost",
                "--module",
                "layerserve_server.training.process.main",
                str(folder),
            ]
        )
        try:
            torchrun.run(arguments)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            _leave(folder, lost(folder, error.failures))
        except SignalException:
            _leave(folder, RunResult("cancelled"))


def join() -> Workers:
    """This worker's place among the others, once all are there."""
    from layergraph.training.workers import Workers
    from torch import distributed

    if started_here():
        _end_with_parent()
        count = int(os.environ["WORLD_SIZE"])
        store = distributed.FileStore(os.environ[MEETING], count)  # type: ignore[attr-defined]
        distributed.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=count)
    else:
        distributed.init_process_group("gloo")
    return Workers()


def left_alone(error: Exception) -> bool:
    """Whether an error says that another worker is gone: gloo has no class for it."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "connection" in text or "timed out" in text)


def _leave(folder: Path, outcome: RunResult) -> None:
    """Leaves an outcome, if no worker has left one before it ended, after which the others may have failed."""
    if RunResult.read(folder) is None:
        outcome.write(folder)


def lost(folder: Path, failures: Mapping[int, Any]) -> RunResult:
    """What is to be said of workers that ended by themselves or were ended."""
    step = EventLog.read(folder).newest(events.Step)
    place = (step.epoch, step.step) if step is not None else (0, 0)
    # In the order in which torchrun saw them end: the first one's end may have been that of the others.
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    # torchrun ends those that are left by SIGTERM.
    killed = [rank for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM]
    # Where another worker is gone, a thread of gloo may abort.
    killed.sort(key=lambda rank: -codes[rank] == signal.SIGABRT)
    if killed:
        reason = f"worker {killed[0]} of the run {ended_by_signal(-codes[killed[0]])}"
        return RunResult("failed", reason, *place, resumable=True)
    broken = [rank for rank, code in codes.items() if code not in (LEFT_ALONE, -signal.SIGTERM)]
    if broken:
        return RunResult("failed", f"internal error in worker {broken[0]}; the run's log has it", *place)
    return RunResult("failed", "a worker of the run was lost", *place, resumable=True)


def _tell_workers(number: int) -> None:
    for pid in children_of(os.getpid()):
        os.kill(pid, number)


def _end_with_parent() -> None:
    """Has the system kill this process when torchrun's is killed: nobody else would end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def _loopback() -> str:
    return "lo" if sys.platform == "linux" else "lo0"
