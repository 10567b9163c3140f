"""The server's handle of a process that forks a child for each connection."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from layerserve_server.jobs.channel import Channel, never

#: Maximum time for the process to import its modules on a busy machine, in seconds.
START_SECONDS = 120.0
#: Number of times that the process is started for a connection: it may have been killed for lack of memory.
TRIES = 2


class ForkServer:
    """Starts the process when needed, and again when it has died. Thread-safe."""

    def __init__(self, program: str, arguments: Sequence[str] = ()) -> None:
        """`program` is a module that calls `program.serve`."""
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
    def connection(self, seconds: float | None, gone: Callable[[], bool] = never) -> Iterator[Channel]:
        """Connects to a new child. `seconds` is the maximum time for each message from it; None for any time.

        Raises OSError if no child can be forked, and CallCancelledError once `gone` returns True. The child ends when
        the connection does.
        """
        channel = self._connected(gone)
        with channel.socket:
            channel.socket.settimeout(seconds)
            yield channel

    def _connected(self, gone: Callable[[], bool]) -> Channel:
        """Returns a connection to a child that has been forked: its first message says so."""
        for attempt in range(TRIES):
            ours, theirs = socket.socketpair()
            channel, process = Channel(ours), None
            ours.settimeout(START_SECONDS)
            try:
                with theirs:
                    process = self._connect(theirs)
                channel.receive(gone)
                return channel
            except OSError:
                ours.close()
                with self._lock:
                    if process is not None and self._process is process:
                        self._end()
                if self._closed or attempt + 1 == TRIES:
                    raise
            except BaseException:
                ours.close()
                raise
        raise AssertionError("the last try raises")

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
