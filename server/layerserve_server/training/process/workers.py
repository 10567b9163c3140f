"""Worker processes of a distributed run: forked from the run's process, or started by torchrun in a cluster."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.result import INTERRUPT, NO_SPACE, RunResult, ended_by_signal

if TYPE_CHECKING:
    from layergraph.training.workers import Workers

#: Environment variable of forked workers: their rendezvous file. So they needn't listen on a network.
RENDEZVOUS = "LAYERSERVE_WORKERS_RENDEZVOUS"
#: Exit status of a worker that ended because another worker was lost.
LOST_PEER = 75
#: Time for the others to end once a worker failed, in seconds.
END_SECONDS = 30.0
#: Option of Linux's prctl: the signal that a process receives when its parent ends.
PR_SET_PDEATHSIG = 1


def forked() -> bool:
    """Whether this process is a worker that `launch` has forked."""
    return RENDEZVOUS in os.environ


def under_torchrun() -> bool:
    """Whether this process is one of torchrun's workers."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_worker() -> bool:
    """Whether this process is one of several workers of a run."""
    return forked() or under_torchrun()


def launch(folder: Path, request: RunRequest, work: Callable[[], int]) -> None:
    """Forks the workers of the run in `folder`, which end with the status that `work` returns.

    Writes the result if they fail. Raises SystemExit if they couldn't for lack of disk space.
    """
    # Imported before the fork, and thus once for all workers.
    from layerserve_server.training.process import work as _training  # noqa: F401

    cancelled = False
    workers: list[BaseProcess] = []

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal cancelled
        cancelled = cancelled or number == signal.SIGTERM
        _send(workers, number)

    signals = (INTERRUPT, signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="workers.", dir=folder) as rendezvous:
        # gloo connects only processes on this machine.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
        # A signal that comes while workers are forked reaches all of them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            for rank in range(request.workers):
                variables = {
                    RENDEZVOUS: f"{rendezvous}/workers",
                    "RANK": str(rank),
                    "WORLD_SIZE": str(request.workers),
                }
                worker = multiprocessing.get_context("fork").Process(target=_run, args=(variables, signals, work))
                worker.start()
                workers.append(worker)
            for number in signals:
                signal.signal(number, forward)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            failures = _wait(workers)
        finally:
            _send(workers, signal.SIGKILL)
    if NO_SPACE in failures.values():
        sys.exit(NO_SPACE)
    # A worker may have written a result before it ended, which may have made the others fail.
    if RunResult.read(folder) is None:
        if cancelled:
            RunResult("cancelled").write(folder)
        elif failures:
            lost(folder, failures).write(folder)


def _run(variables: Mapping[str, str], signals: Sequence[signal.Signals], work: Callable[[], int]) -> None:
    """Works as a worker, and ends the process."""
    end_with_parent()
    os.environ.update(variables)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    status = work()
    sys.stdout.flush()
    sys.stderr.flush()
    # As the run's process does: threads of gloo may abort an orderly end.
    os._exit(status)


def _wait(workers: Sequence[BaseProcess]) -> dict[int, int]:
    """Waits until all have ended. Once one fails, the others are made to end.

    Returns the exit statuses of those that failed by themselves, by rank, in the order of their ends: the first one's
    end may have caused the others'.
    """
    failures: dict[int, int] = {}
    sent: list[signal.Signals] = []
    ranks: dict[Any, int] = {worker.sentinel: rank for rank, worker in enumerate(workers)}
    deadline: float | None = None
    while ranks:
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        for sentinel in connection.wait(list(ranks), seconds):
            rank = ranks.pop(sentinel)
            workers[rank].join()
            status = workers[rank].exitcode or 0
            if status and -status not in sent:
                failures[rank] = status
        if not failures:
            continue
        if deadline is None or time.monotonic() > deadline:
            sent.append(signal.SIGTERM if deadline is None else signal.SIGKILL)
            _send(workers, sent[-1])
            deadline = time.monotonic() + END_SECONDS
    return failures


def _send(workers: Sequence[BaseProcess], number: int) -> None:
    for worker in workers:
        if worker.pid is not None and worker.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)


def join() -> Workers:
    """Joins the process group of the run's workers, and returns this worker's place in it. Waits for all workers."""
    from layergraph.training.workers import Workers
    from torch import distributed

    if forked():
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


def lost(folder: Path, failures: Mapping[int, int]) -> RunResult:
    """Returns the result of a run whose workers failed. `failures` are their exit statuses, by rank."""
    step = EventLog.read(folder).newest(events.Step)
    position = (step.epoch, step.step) if step is not None else (0, 0)
    killed = [rank for rank, code in failures.items() if code < 0]
    # A thread of gloo may abort when another worker is lost, so SIGABRT is the least likely cause.
    killed.sort(key=lambda rank: -failures[rank] == signal.SIGABRT)
    if killed:
        reason = f"worker {killed[0]} of the run {ended_by_signal(-failures[killed[0]])}"
        return RunResult("killed", reason, *position)
    broken = [rank for rank, code in failures.items() if code != LOST_PEER]
    if broken:
        return RunResult("failed", f"internal error in worker {broken[0]}; see the run's log", *position)
    return RunResult("killed", "a worker of the run was lost", *position)


def end_with_parent() -> None:
    """Makes the system kill this process when its parent is killed: otherwise it would never end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def _loopback() -> str:
    return "lo" if sys.platform == "linux" else "lo0"
