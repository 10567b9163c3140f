"""The warm parent's program, with the server's socket as its input.

It imports what training needs, and forks for each job two processes: one that minds the limits of time and says how the
other one ended, and that one, which carries the job out under limits of memory and sends its reply. A run is forked in
the same way, without limits: its minder waits for its end, also when parent and server are gone. The parent itself
reads no job and computes nothing, so that torch has no threads in it that a fork would lose.
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

#: Seconds between two looks at a job.
LOOK_SECONDS = 0.01


def main() -> None:
    """Forks for each job until the server closes its end, or for so many seconds (the argument) there was none."""
    _import_all()
    control = socket.socket(fileno=os.dup(0))
    # Who minds a run outlives the parent, and must not keep the server's socket open.
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    if sys.argv[1:]:
        control.settimeout(float(sys.argv[1]))
    # Children end by themselves; nothing waits for them.
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
                _mind(socket.socket(fileno=files[0]), {**JOBS, CONVERT: convert})
            os._exit(0)
        os.close(files[0])


def _import_all() -> None:
    """Imports what loading and training need, and takes it out of the garbage collector's sight."""
    import layergraph.layers.table
    import layergraph.ops.table
    import layergraph.training.callbacks.table  # noqa: F401
    from layergraph import Input, Model, layers

    import layerserve_server.training.process.work  # noqa: F401

    # torch imports much only when shapes are first inferred: on the meta device, where nothing is computed.
    inputs = Input((1,))
    Model(inputs, layers.Dense(1)(inputs))
    runner.make_ready()


def _mind(channel: socket.socket, jobs: Mapping[str, Job]) -> None:
    """Reads a job, has a child carry it out, and says how that one ended unless it replied."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(received(channel))
    if "run" in request:
        _mind_run(channel, Path(request["run"]), request["environment"])
        return
    limits = JobLimits(**request["limits"])
    child = os.fork()
    if child == 0:
        _carry_out(channel, lambda: jobs[request["job"]](request["arguments"]), limits)
    deadline = time.monotonic() + limits.wall_seconds
    hangup = select.poll()
    hangup.register(channel, 0)
    late = False
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        late = time.monotonic() > deadline
        if hangup.poll(LOOK_SECONDS * 1000) or late:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
    status = os.waitstatus_to_exitcode(ended[1])
    if status != 0:
        channel.sendall(json.dumps({"died": max(0, -status), "late": late}).encode())


def _mind_run(channel: socket.socket, folder: Path, environment: Mapping[str, str]) -> None:
    """Starts a run, says which process it is, and in the end how that one ended."""
    child = os.fork()
    if child == 0:
        channel.close()
        _train(folder, environment)
    channel.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    channel.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _train(folder: Path, environment: Mapping[str, str]) -> NoReturn:
    """Carries a run out as `python -m layerserve_server.training.process.main` does."""
    try:
        # Its own session: the system shares the processor between sessions first, and a run stands back as one.
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        output = os.open(folder / CHILD_OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        # What a fork copies is the same in all of them.
        random.seed()
        np.random.seed()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    run.carry_out(folder)


def _carry_out(channel: socket.socket, job: Callable[[], Mapping[str, Any]], limits: JobLimits) -> None:
    """Carries the job out under its limits, and ends the process."""
    status = 1
    try:
        _silence()
        _limit(limits)
        reply = json.dumps(job()).encode()
        if len(reply) <= MAX_REPLY:
            channel.sendall(reply)
            status = 0
    finally:
        # What belongs to the parent isn't to be taken down here.
        os._exit(status)


def _silence() -> None:
    """What a job prints may be of any length."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)


def _limit(limits: JobLimits) -> None:
    seconds = max(1, round(limits.seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    # Beyond what torch has reserved.
    allowed = limits.memory_bytes + _reserved_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    # Where memory is short the system should end this process first.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _reserved_bytes() -> int:
    """Size of this process's address space; 0 where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    main()
