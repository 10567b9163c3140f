"""The program of a process that forks a child for each connection: its standard input is a socket to the server.

For a job the child forks once more: it stays as the supervisor, which enforces the time limit and reports how the
worker ended, and the worker does the job under its limits. The process itself reads no jobs and computes nothing, so
that no library starts threads in it, which a fork would lose.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: Time between two checks of a job, in seconds.
CHECK_SECONDS = 0.01


def serve(handle: Callable[[socket.socket], None]) -> None:
    """Forks for each connection, and calls `handle` with it in the child.

    Returns when the server closes the socket, or after the seconds in the program's argument without a connection.
    """
    control = socket.socket(fileno=os.dup(0))
    # A child may outlive the process, and must not keep the server's socket open.
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    if sys.argv[1:]:
        control.settimeout(float(sys.argv[1]))
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
                handle(socket.socket(fileno=files[0]))
            os._exit(0)
        os.close(files[0])


def supervise(
    channel: socket.socket, work: Callable[[], None], *, seconds: float, memory_bytes: int | None, wall_seconds: float
) -> None:
    """Does `work` in a child process with limits of processor time, and of memory in addition to what it has.

    Kills it if it takes longer than `wall_seconds`, or if the server closes the channel. If it doesn't end by itself
    without an exception, {"died": signal or 0, "late": whether it took too long} is sent.
    """
    child = os.fork()
    if child == 0:
        _run(work, seconds, memory_bytes)
    deadline = time.monotonic() + wall_seconds
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
        channel.sendall(json.dumps({"died": max(0, -status), "late": late}).encode() + b"\n")


def _run(work: Callable[[], None], seconds: float, memory_bytes: int | None) -> None:
    """Does the work under its limits, and ends the process."""
    status = 1
    try:
        _silence()
        _limit(seconds, memory_bytes)
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
