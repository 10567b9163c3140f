"""The server's handle of a process that forks a child for each connection."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from layerserve_server.errors import CallCancelledError

#: Time between two checks whether the client still waits for a reply, in seconds.
GONE_CHECK_SECONDS = 0.05
#: Maximum time for the process to import its modules on a busy machine, in seconds.
START_SECONDS = 120.0


class ForkServer:
    """Starts the process when needed, and again when it has died. Thread-safe."""

    def __init__(self, program: str, arguments: Sequence[str] = ()) -> None:
        """`program` is a module that calls `forked.serve`."""
        self._command = [sys.executable, "-m", program, *arguments]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        """Starts the process if it isn't running, without waiting until it is ready."""
        with self._lock:
            self._started()

    @contextmanager
    def connection(self, seconds: float) -> Iterator[socket.socket]:
        """Connects to a new child. `seconds` is the timeout of each reply after the process has started.

        Raises OSError if the process can't be reached. After any OSError in the context, it is started again.
        """
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(START_SECONDS + seconds)
            with theirs:
                process = self._connect(theirs)
            try:
                yield ours
            except OSError:
                with self._lock:
                    if self._process is process:
                        self._end()
                raise

    def _connect(self, channel: socket.socket) -> subprocess.Popen[bytes]:
        """Sends one end of a channel to the process, and returns the process."""
        with self._lock:
            if self._closed:
                raise OSError("the process was closed")
            process, control = self._started()
            try:
                socket.send_fds(control, [b"."], [channel.fileno()])
            except OSError:
                # It is ending, as it wasn't needed for some time.
                self._end()
                process, control = self._started()
                socket.send_fds(control, [b"."], [channel.fileno()])
            return process

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Returns the process, started if needed, and the socket to it. Called with the lock held."""
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._end()
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    # One thread each: threads that libraries start don't survive a fork.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
                    # Its own session, so that Ctrl-C in the server's terminal signals the server only.
                    start_new_session=True,
                )
        return self._process, self._control

    def restart(self) -> None:
        """Ends the process, so that it is started when it is needed again. Its children continue."""
        with self._lock:
            self._end()

    def close(self) -> None:
        """Ends the process. Its children continue; further ones aren't forked."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None


def never() -> bool:
    """Returns False: the client never cancels."""
    return False


def received(channel: socket.socket, limit: int | None = None, gone: Callable[[], bool] = never) -> bytes:
    """Receives until the other end is closed.

    Raises OSError if there are more than `limit` bytes, or on an error, and CallCancelledError once `gone` returns
    True. The child ends when the channel is closed.
    """
    parts, length = [], 0
    if gone is not never:
        _wait_for_data(channel, gone)
    while part := channel.recv(1 << 16):
        parts.append(part)
        length += len(part)
        if limit is not None and length > limit:
            raise OSError("the reply is too long")
    return b"".join(parts)


def _wait_for_data(channel: socket.socket, gone: Callable[[], bool]) -> None:
    waiting = channel.gettimeout()
    end = float("inf") if waiting is None else time.monotonic() + waiting
    while not select.select([channel], [], [], GONE_CHECK_SECONDS)[0]:
        if gone():
            raise CallCancelledError("the client cancelled the call")
        if time.monotonic() > end:
            raise TimeoutError("no reply in time")
