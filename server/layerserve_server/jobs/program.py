"""The program of a process that forks a child for each connection: its standard input is a socket to the server.

For a job the child forks once more: it stays as the supervisor, which enforces the time limit and reports how the
worker ended, and the worker does the job under its limits. The process itself reads no jobs and computes nothing, so
that no library starts threads in it, which a fork would lose. A run is forked in the same way, without limits; its
supervisor waits for its end, even if the process and the server have ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerserve_server.jobs import failures, table
from layerserve_server.jobs.channel import Channel
from layerserve_server.jobs.limits import JobLimits

#: Time between two checks of a job, in seconds.
CHECK_SECONDS = 0.01


def main() -> None:
    """Forks for each connection, until the server closes the socket.

    Arguments: "warm" or "cold", the seconds without a connection after which the process ends, and further modules.
    """
    kind, idle, *modules = sys.argv[1:]
    prepare(modules, warm=kind == "warm")
    serve(handle, None if idle == "inf" else float(idle))


def prepare(modules: Sequence[str] = (), *, warm: bool) -> None:
    """Imports the modules of all jobs of a process, and further ones, and excludes them from garbage collection."""
    of_jobs = dict.fromkeys(job.module for job in table.JOBS if job.warm is warm)
    for module in (*of_jobs, *(table.PROGRAMS if warm else ()), *modules):
        # A package may not be installed: then the server has no such jobs.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()


def serve(handle: Callable[[Channel], None], idle_seconds: float | None = None) -> None:
    """Forks for each connection, and calls `handle` with it in the child.

    Returns when the server closes the socket, or after `idle_seconds` without a connection.
    """
    control = socket.socket(fileno=os.dup(0))
    # A child may outlive the process, and must not keep the server's socket open.
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    control.settimeout(idle_seconds)
    # Nothing waits for the children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            byte, files, *_ = socket.recv_fds(control, 1, 1)
        except TimeoutError:
            # Further connections are refused from here on; those that were made before are still served.
            control.shutdown(socket.SHUT_RD)
            continue
        if not byte:
            return
        if os.fork() == 0:
            control.close()
            with contextlib.suppress(OSError):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                channel = Channel(socket.socket(fileno=files[0]))
                channel.send({})
                handle(channel)
            os._exit(0)
        os.close(files[0])


def handle(channel: Channel) -> None:
    """Reads what is to be done, and supervises the process that does it."""
    request = channel.request()
    function = request["function"]
    if "limits" not in request:
        _supervise_program(channel, function, request["arguments"])
        return

    def work() -> None:
        os.nice(request["nice"])
        try:
            reply = _named(function)(request["arguments"], channel)
        except Exception as error:
            reply = failures.reply_of(error)
        channel.send(reply)

    supervise(channel, work, JobLimits(**request["limits"]))


def _named(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _supervise_program(channel: Channel, function: str, arguments: Mapping[str, Any]) -> None:
    """Calls a function in a process without limits, which outlives this one and the server.

    Reports its process id, and finally its exit status.
    """
    child = os.fork()
    if child == 0:
        channel.socket.close()
        try:
            _named(function)(**arguments)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    channel.send(child)
    _, status = os.waitpid(child, 0)
    channel.send(os.waitstatus_to_exitcode(status))


def supervise(channel: Channel, work: Callable[[], None], limits: JobLimits) -> None:
    """Does `work` in a child process with these limits.

    Kills it if it takes too long, or if the server closes the channel. If it doesn't end by itself without an
    exception, {"died": signal or 0, "late": whether it took too long} is sent.
    """
    child = os.fork()
    if child == 0:
        _run(work, limits)
    deadline = time.monotonic() + limits.wall_seconds
    hangup = select.poll()
    hangup.register(channel.socket, 0)
    late = False
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        late = time.monotonic() > deadline
        if hangup.poll(CHECK_SECONDS * 1000) or late:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
    status = os.waitstatus_to_exitcode(ended[1])
    if status != 0:
        channel.send({"died": max(0, -status), "late": late})


def _run(work: Callable[[], None], limits: JobLimits) -> None:
    """Does the work under its limits, and ends the process."""
    status = 1
    try:
        _silence()
        _limit(limits.processor_seconds, limits.memory_bytes)
        work()
        status = 0
    finally:
        # Without cleanup of state that was inherited from the parent.
        os._exit(status)


def _silence() -> None:
    """Discards a job's output, which may be of any length."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)


def _limit(seconds: float, memory_bytes: int | None) -> None:
    whole = max(1, round(seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    if memory_bytes is not None:
        # In addition to the address space that libraries have reserved.
        allowed = memory_bytes + _reserved_bytes()
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
