"""Jobs that are carried out in children of a warm parent: a process that has imported torch, and forks for each.

What a caller names is tried in such a child, under limits of memory and time, and never in the serving process.
Importing torch takes seconds, a fork milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from layerserve_server.errors import UnavailableError

#: The parent's program.
PROGRAM = "layerserve_server.training.forking"
#: Longest reply of a job, in bytes.
MAX_REPLY = 1 << 20
#: Seconds that the parent has to import torch, on a machine that is busy.
START_SECONDS = 120.0
#: Times that the parent is started for one job: it may have been ended for want of memory.
TRIES = 2


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Seconds of computing, and bytes of memory beyond what the parent has."""

    seconds: float
    memory_bytes: int

    @property
    def wall_seconds(self) -> float:
        """Time after which a job is ended in any case, in seconds; more than it may compute, on a busy machine."""
        return 2 * self.seconds + 10


class JobDiedError(Exception):
    """A job ended without a reply, by a signal or, where `signal` is 0, by itself."""

    def __init__(self, number: int, *, late: bool) -> None:
        super().__init__(f"signal {number}")
        self.signal = number
        #: Whether it took more time than it had.
        self.late = late or number == signal.SIGXCPU


class WarmParent:
    """Carries out jobs. The process starts with the first one, and again where it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def run(self, job: str, arguments: Mapping[str, Any], limits: JobLimits) -> dict[str, Any]:
        """Has the job of this name (`rehearsal.JOBS`) carried out; gives its reply. Arguments and reply are JSON.

        Raises JobDiedError for one that ended without a reply, and UnavailableError where no process can be started.
        """
        text = json.dumps({"job": job, "limits": asdict(limits), "arguments": arguments}).encode()
        for _ in range(TRIES):
            if answer := self._answer(text, START_SECONDS + limits.wall_seconds):
                reply: dict[str, Any] = json.loads(answer)
                if "died" in reply:
                    raise JobDiedError(reply["died"], late=reply["late"])
                return reply
        raise UnavailableError("the process that tries training requests can't be started; try again later")

    def _answer(self, text: bytes, seconds: float) -> bytes:
        """What came back; nothing where the parent has ended."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(seconds)
            with self._lock:
                process, control = self._started()
            try:
                with theirs:
                    socket.send_fds(control, [b"."], [theirs.fileno()])
                ours.sendall(text)
                ours.shutdown(socket.SHUT_WR)
                return received(ours, MAX_REPLY)
            except OSError:
                with self._lock:
                    if self._process is process:
                        self._end()
                return b""

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process and the socket to it. To be called with the lock."""
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._end()
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", PROGRAM],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    # Threads that libraries start don't survive a fork.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
                    # Its own session: Ctrl-C in the server's terminal is for the server to act on.
                    start_new_session=True,
                )
        return self._process, self._control

    def close(self) -> None:
        """Ends the parent."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None


def received(channel: socket.socket, most: int | None = None) -> bytes:
    """All that comes until the other end is closed, or a little more than `most` bytes. Raises OSError."""
    parts, length = [], 0
    while part := channel.recv(1 << 16):
        parts.append(part)
        length += len(part)
        if most is not None and length > most:
            raise OSError("the reply is too long")
    return b"".join(parts)
