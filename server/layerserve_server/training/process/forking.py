"""Program of the warm parent process. Its standard input is a socket to the server.

It imports what training needs. For each job it forks a supervisor, which forks the worker: the supervisor enforces the
time limit and reports how the worker ended, and the worker runs the job under a memory limit and sends its reply. A run
is forked in the same way, without limits; its supervisor waits for its end, even if the parent and the server have
ended. The parent itself reads no jobs and computes nothing, so that torch starts no threads in it, which a fork would
lose.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from layerserve_server.inference import runner
from layerserve_server.training.conversion import CONVERT, convert
from layerserve_server.training.dry_run import JOBS, Job
from layerserve_server.training.process import main as run
from layerserve_server.training.process.warm_parent import MAX_REPLY, JobLimits, received
from layerserve_server.training.runs.folder import CHILD_OUTPUT

#: Time between two checks of a job, in seconds.
CHECK_SECONDS = 0.01


def main() -> None:
    """Forks for each job, until the server closes the socket or no job arrives for the seconds in the argument."""
    _import_all()
    control = socket.socket(fileno=os.dup(0))
    # The supervisor of a run outlives the parent, and must not keep the server's socket open.
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    if sys.argv[1:]:
        control.settimeout(float(sys.argv[1]))
    # Nothing waits for the supervisors.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            byte, files, *_ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            return
        if not byte:
            return
        if os.fork() == 0:
            control.close()
            with contextlib.suppress(OSError):
                _supervise(socket.socket(fileno=files[0]), {**JOBS, CONVERT: convert})
            os._exit(0)
        os.close(files[0])


def _import_all() -> None:
    """Imports what loading and training need, and excludes it from garbage collection."""
    import layergraph.layers.table
    import layergraph.ops.table
    import layergraph.training.callbacks.table  # noqa: F401
    from layergraph import Input, Model, layers

    import layerserve_server.training.process.work  # noqa: F401

    # torch imports many modules when shapes are first inferred. That uses the meta device, which computes nothing.
    inputs = Input((1,))
    Model(inputs, layers.Dense(1)(inputs))
    runner.make_ready()


def _supervise(channel: socket.socket, jobs: Mapping[str, Job]) -> None:
    """Reads a job and runs it in a child process. Reports how the child ended, unless it has replied."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(received(channel))
    if "run" in request:
        _supervise_run(channel, Path(request["run"]), request["environment"])
        return
    limits = JobLimits(**request["limits"])
    child = os.fork()
    if child == 0:
        _run_job(channel, lambda: jobs[request["job"]](request["arguments"]), limits)
    deadline = time.monotonic() + limits.wall_seconds
    hangup = select.poll()
    hangup.register(channel, 0)
    late = False
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        late = time.monotonic() > deadline
        if hangup.poll(CHECK_SECONDS * 1000) or late:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
    status = os.waitstatus_to_exitcode(ended[1])
    if status != 0:
        channel.sendall(json.dumps({"died": max(0, -status), "late": late}).encode())


def _supervise_run(channel: socket.socket, folder: Path, environment: Mapping[str, str]) -> None:
    """Starts a run's process; reports its process id, and finally its exit status."""
    child = os.fork()
    if child == 0:
        channel.close()
        _train(folder, environment)
    channel.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    channel.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _train(folder: Path, environment: Mapping[str, str]) -> NoReturn:
    """Executes a run as `python -m layerserve_server.training.process.main` does."""
    try:
        # Its own session: Linux divides the processor among sessions first, and the session gets a low priority.
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        output = os.open(folder / CHILD_OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        # The random state would be the same in all forks.
        random.seed()
        np.random.seed()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    run.carry_out(folder)


def _run_job(channel: socket.socket, job: Callable[[], Mapping[str, Any]], limits: JobLimits) -> None:
    """Runs a job under its limits, sends its reply, and ends the process."""
    status = 1
    try:
        _silence()
        _limit(limits)
        reply = json.dumps(job()).encode()
        if len(reply) <= MAX_REPLY:
            channel.sendall(reply)
            status = 0
    finally:
        # Without cleanup of state that was inherited from the parent.
        os._exit(status)


def _silence() -> None:
    """Discards a job's output, which may be of any length."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)


def _limit(limits: JobLimits) -> None:
    seconds = max(1, round(limits.seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    # In addition to the address space that torch has reserved.
    allowed = limits.memory_bytes + _reserved_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    # If memory runs out, the system should kill this process first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _reserved_bytes() -> int:
    """Returns the size of this process's address space, in bytes; 0 if unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    main()
