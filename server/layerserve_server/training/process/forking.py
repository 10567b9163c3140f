"""Program of the warm parent process. Its standard input is a socket to the server.

It imports what training needs. A job is done under limits of time and memory. A run is forked in the same way, without
limits; its supervisor waits for its end, even if the parent and the server have ended.
"""

from __future__ import annotations

import json
import os
import random
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from layerserve_server.forking import forked
from layerserve_server.forking.fork_server import received
from layerserve_server.inference import runner
from layerserve_server.training.checkpoint_models import BUILD, PREDICT, build, predict
from layerserve_server.training.conversion import CONVERT, convert
from layerserve_server.training.dry_run import JOBS, Job
from layerserve_server.training.estimates.trials import TRIAL_JOBS
from layerserve_server.training.process import main as run
from layerserve_server.training.process.warm_parent import MAX_REPLY, JobLimits
from layerserve_server.training.runs.folder import CHILD_OUTPUT


def main() -> None:
    """Forks for each job, until the server closes the socket or no job arrives for the seconds in the argument."""
    _import_all()
    forked.serve(_handle)


def _import_all() -> None:
    """Imports what loading and training need, and excludes it from garbage collection."""
    import h5py  # noqa: F401
    import layergraph.layers.table
    import layergraph.ops.table
    import layergraph.training.callbacks.table  # noqa: F401
    from layergraph import Input, Model, layers

    import layerserve_server.training.online.program
    import layerserve_server.training.process.work  # noqa: F401

    # torch imports many modules when shapes are first inferred. That uses the meta device, which computes nothing.
    inputs = Input((1,))
    Model(inputs, layers.Dense(1)(inputs))
    runner.make_ready()


def _handle(channel: socket.socket) -> None:
    """Reads a job or a run and supervises its process."""
    request = json.loads(received(channel))
    if "run" in request:
        _supervise_run(channel, Path(request["run"]), request["environment"])
        return
    limits = JobLimits(**request["limits"])
    jobs: Mapping[str, Job] = {**JOBS, **TRIAL_JOBS, CONVERT: convert, BUILD: build, PREDICT: predict}

    def work() -> None:
        reply = json.dumps(jobs[request["job"]](request["arguments"])).encode()
        if len(reply) > MAX_REPLY:
            raise ValueError("the reply is too long")
        channel.sendall(reply)

    forked.supervise(
        channel,
        work,
        seconds=limits.processor_seconds,
        memory_bytes=limits.memory_bytes,
        wall_seconds=limits.wall_seconds,
    )


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


if __name__ == "__main__":
    main()
