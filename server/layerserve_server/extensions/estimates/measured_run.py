"""Trials of runs: the first steps of a run on random rows, in a process like the run's, which is measured.

The process is a child of a job, with limits of memory and time. It executes the run's own code in a
folder of its own; nothing of it is kept.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from layerserve_server import folder_owner
from layerserve_server.errors import BusyError, InvalidRequestError, NotTrainableError
from layerserve_server.extensions.estimates.costs import Trial
from layerserve_server.extensions.estimates.random_rows import class_bounds, trial_request, write_rows
from layerserve_server.extensions.estimates.trial_times import OPTION, Lap, TrialTimes
from layerserve_server.folder_owner import unfinished
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits, within_available
from layerserve_server.jobs.table import Job
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.system_memory import memory_of
from layerserve_server.training.budget import folder_bytes
from layerserve_server.training.events import EVENTS
from layerserve_server.training.proc_files import descendants_of
from layerserve_server.training.process.training_process import run_environment
from layerserve_server.training.process.workers import end_with_parent
from layerserve_server.training.program import main as run
from layerserve_server.training.request import REQUEST, RunRequest
from layerserve_server.training.run_folder.computing import computing
from layerserve_server.training.run_folder.data import DATA
from layerserve_server.training.run_folder.layout import BASE, BEST, CACHE, CHECKPOINTS, RESULT
from layerserve_server.training.run_folder.result import RunResult, ended_by_signal

#: Maximum number of concurrent trials: another one would disturb the times.
MAX_TRIALS = 1
#: Time of training of a trial, in seconds.
TRIAL_SECONDS = 4.0
#: Time of a trial with all that it loads and writes, as a multiple of that of a dry run.
DRY_RUNS = 3
#: Time between two measurements of memory, in seconds, and if it is that of several processes.
MEMORY_SECONDS, MEMORIES_SECONDS = 0.004, 0.05
#: Maximum time for the process of a trial whose caller has gone to end, and time between two tries, in seconds.
REMOVE_SECONDS, REMOVE_AGAIN_SECONDS = 5.0, 0.02
#: Time for which the folder of a trial that was broken off has to be gone, in seconds.
SETTLED_SECONDS = 0.5
#: More memory than there is, in bytes.
NO_LIMIT = 1 << 60
#: The program of the run's process.
TIMED_RUN = "layerserve_server.extensions.estimates.timed_run"
MEASURE_RUN = Job(f"{__name__}:measure", "a trial of the run")
FAILS = f"{MEASURE_RUN.what} fails"


class MeasuredRuns:
    """Trials in child processes."""

    def __init__(self, jobs: Jobs, folder: Path, seconds: float) -> None:
        """`folder` is that of all runs; `seconds` limits the time of a dry run, and of a trial to DRY_RUNS of them."""
        self._jobs = jobs
        self._folder = folder
        self._seconds = DRY_RUNS * seconds
        self._slots = threading.BoundedSemaphore(MAX_TRIALS)

    def __call__(self, request: RunRequest, base: FoundVersion, gone: Callable[[], bool] = never) -> Trial:
        """Returns what a trial of a run shows; the request has been checked, and `base` is its model.

        Raises InvalidRequestError if the trial fails, TooLargeError if it exceeds a limit of memory or time,
        NotTrainableError if the folder of runs can't be written, BusyError if another trial is under way,
        UnavailableError if no process can be started, and CallCancelledError once `gone` returns True.
        """
        if not self._slots.acquire(blocking=False):
            raise BusyError("another run is being estimated", retry_after=TRIAL_SECONDS)
        try:
            folder_owner.sweep(self._folder)
            with unfinished(self._folder) as folder, computing(self._folder):
                return self._tried(folder, request, base, gone)
        except OSError as error:
            raise NotTrainableError(f"the folder of runs can't be written: {error.strerror}") from error
        finally:
            self._slots.release()

    def _tried(self, folder: Path, request: RunRequest, base: FoundVersion, gone: Callable[[], bool]) -> Trial:
        try:
            trial = self._try(folder, request, base, gone)
        except BaseException:
            _remove(folder, SETTLED_SECONDS)
            raise
        _remove(folder)
        return trial

    def _try(self, folder: Path, request: RunRequest, base: FoundVersion, gone: Callable[[], bool]) -> Trial:
        for part in (base.path.name, *base.parts):
            link = folder / BASE / part
            link.parent.mkdir(parents=True, exist_ok=True)
            # Absolute, as the repository may be given by a relative path, which the link would take as its own.
            link.symlink_to((base.path.parent / part).absolute())
        replace(trial_request(request), kind_options={OPTION: TRIAL_SECONDS}).write(folder)
        limits = self._limits(request)
        environment = run_environment(request.threads) | {run.PROGRAM: TIMED_RUN}
        arguments = {"folder": str(folder), "environment": environment}
        reply = self._jobs.run(MEASURE_RUN, arguments, limits, gone)
        return Trial(**{**reply["trial"], "laps": [Lap(**lap) for lap in reply["trial"]["laps"]]})

    def _limits(self, request: RunRequest) -> JobLimits:
        # CUDA reserves more address space than there is memory.
        memory = within_available(NO_LIMIT) if request.device == "cpu" else None
        return JobLimits(self._seconds, memory, max(1, request.threads))


def _remove(folder: Path, settled: float = 0.0) -> None:
    """Removes a trial's folder, until it has been gone for `settled` seconds.

    The process of a trial that was broken off may write to the folder, or create it again, a moment longer.
    """
    end = time.monotonic() + REMOVE_SECONDS
    shutil.rmtree(folder, ignore_errors=True)
    gone_since = time.monotonic()
    while (left := folder.exists()) or time.monotonic() - gone_since < settled:
        if time.monotonic() > end:
            return
        time.sleep(REMOVE_AGAIN_SECONDS)
        if left:
            shutil.rmtree(folder, ignore_errors=True)
            gone_since = time.monotonic()


# In the child process.


def measure(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job of a trial. Returns {"trial"}, the fields of Trial. Raises InvalidRequestError if the trial fails."""
    folder = Path(arguments["folder"])
    request = RunRequest.read(folder)
    reason = ""
    # With random rows, and if the layers or losses refuse them, with zeros.
    for zeros in (False, True):
        _clear(folder)
        _, death = _in_child(partial(_write_rows, folder, request, zeros))
        if death:
            raise InvalidRequestError(f"{FAILS}: its process {death}")
        began = time.monotonic()
        execute = partial(_execute, folder, request, arguments["environment"])
        memory, death = _in_child(execute, several=request.workers > 1)
        ended = time.monotonic()
        result, times = RunResult.read(folder), TrialTimes.read(folder)
        if times is not None and result is not None and result.kind != "failed":
            return {"trial": asdict(_measured(folder, request, times, began, ended, memory))}
        reason = result.reason if result is not None else f"its process {death}"
    raise InvalidRequestError(f"{FAILS}: {reason}")


def _clear(folder: Path) -> None:
    """Removes what an earlier trial has left in the folder."""
    for path in folder.iterdir():
        if path.name not in (BASE, REQUEST):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_rows(folder: Path, request: RunRequest, zeros: bool) -> None:
    from layergraph import load_model
    from layergraph.archive.finding import find_model

    from layerserve_server.inference.runner import load_plugins
    from layerserve_server.training.model import prepare_model

    (folder / DATA).mkdir()
    if zeros:
        bounds = dict.fromkeys(range(len(request.data)), 1)
    else:
        load_plugins()
        model = load_model(find_model(folder / BASE), keep_lora=True)
        prepare_model(model, request)
        bounds = class_bounds(model, request.data)
    write_rows(folder, request, bounds)


def _execute(folder: Path, request: RunRequest, environment: Mapping[str, str]) -> None:
    """Executes the run as its own process would."""
    os.environ.clear()
    os.environ.update(environment)
    if request.workers > 1 or request.device != "cpu":
        os.execv(sys.executable, [sys.executable, "-m", run.__name__, str(folder)])
    random.seed()
    np.random.seed()
    run.main(folder)


def _in_child(work: Callable[[], None], *, several: bool = False) -> tuple[int, str]:
    """Does some work in a child process. Returns its maximum memory in bytes, and how it failed, as a text.

    If it starts `several` processes, the memory is that of all of them together.
    """
    child = os.fork()
    if child == 0:
        _work(work)
    peak = 0
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        processes = (child, *descendants_of(child)) if several else (child,)
        peak = max(peak, sum(map(memory_of, processes)))
        time.sleep(MEMORIES_SECONDS if several else MEMORY_SECONDS)
    code = os.waitstatus_to_exitcode(ended[1])
    return peak, ended_by_signal(-code) if code < 0 else f"ended with status {code}" if code else ""


def _work(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        end_with_parent()
        # Its own session, as a run has: the session gets a low priority.
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def _measured(folder: Path, request: RunRequest, times: TrialTimes, began: float, ended: float, memory: int) -> Trial:
    lines = (folder / EVENTS).read_bytes().splitlines(keepends=True)
    return Trial(
        laps=times.laps,
        start=times.began - began,
        finish=ended - times.ended,
        memory=memory,
        checkpoint=folder_bytes(folder / CHECKPOINTS),
        best=folder_bytes(folder / BEST),
        result=folder_bytes(folder / RESULT),
        cache=folder_bytes(folder / CACHE),
        largest_file=times.largest_file,
        event=max(map(len, lines), default=0),
        trainable=times.trainable,
        non_trainable=times.non_trainable,
    )
