"""Jobs and runs in children of a warm parent: a process that has imported torch, and forks for each.

What a caller names is tried in such a child, under limits of memory and time, and never in the serving process. A run
is forked likewise and has no limits. Importing torch takes seconds, a fork milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from layerserve_server.errors import UnavailableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The parent's program.
PROGRAM = "layerserve_server.training.process.forking"
#: Longest reply of a job, in bytes.
MAX_REPLY = 1 << 20
#: Seconds that the parent has to import torch, on a machine that is busy.
START_SECONDS = 120.0
#: Time without a job after which the parent ends, in seconds, unless it is to be kept.
IDLE_SECONDS = 900.0
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


class ForkedProcess:
    """A run's process that the warm parent has forked, in the words of subprocess.Popen."""

    def __init__(self, channel: socket.socket) -> None:
        """`channel` leads to who minds it. Raises OSError where there is no process."""
        self._text = b""
        self.returncode: int | None = None
        while b"\n" not in self._text:
            if not (part := channel.recv(64)):
                raise OSError("the warm parent forked nothing")
            self._text += part
        pid, _, self._text = self._text.partition(b"\n")
        self.pid = int(pid)
        self._channel = channel.dup()
        self._channel.setblocking(False)

    def poll(self) -> int | None:
        """Its exit status; None while it is there. Raises ChildProcessError where who minded it is gone."""
        while self.returncode is None:
            if self._text.endswith(b"\n"):
                self.returncode = int(self._text)
                self.close()
                break
            try:
                part = self._channel.recv(64)
            except BlockingIOError:
                return None
            except OSError:
                part = b""
            if not part:
                self.close()
                raise ChildProcessError("nobody knows how the process ends")
            self._text += part
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Raises ProcessLookupError where it has just ended."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Asks no more."""
        self._channel.close()


class WarmParent:
    """Carries out jobs and starts runs. The process starts with the first one, and again where it has ended."""

    def __init__(self, idle_seconds: float | None = IDLE_SECONDS) -> None:
        """`idle_seconds` is the time without a job after which the process ends; None for never."""
        self._idle = () if idle_seconds is None else (str(idle_seconds),)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def run(self, job: str, arguments: Mapping[str, Any], limits: JobLimits) -> dict[str, Any]:
        """Has the job of this name (`rehearsal.JOBS`) carried out; gives its reply. Arguments and reply are JSON.

        Raises JobDiedError for one that ended without a reply, and UnavailableError where no process can be started.
        """
        text = json.dumps({"job": job, "limits": asdict(limits), "arguments": arguments}).encode()
        for _ in range(TRIES):
            if answer := self._ask(text, lambda channel: received(channel, MAX_REPLY), limits.wall_seconds):
                reply: dict[str, Any] = json.loads(answer)
                if "died" in reply:
                    raise JobDiedError(reply["died"], late=reply["late"])
                return reply
        raise UnavailableError("the process that tries training requests can't be started; try again later")

    def fork(self, folder: Path, environment: Mapping[str, str]) -> ForkedProcess | None:
        """Starts the process of the run in `folder`; None where it has to be started otherwise."""
        text = json.dumps({"run": str(folder), "environment": dict(environment)}).encode()
        for _ in range(TRIES):
            if process := self._ask(text, ForkedProcess):
                return process
        logger.warning("can't fork training runs: each run imports PyTorch when it starts", extra={"run": folder.name})
        return None

    def start(self) -> None:
        """Starts the process, if it isn't there, and doesn't wait until it is ready."""
        with self._lock:
            self._started()

    def _ask(self, text: bytes, read: Callable[[socket.socket], T], seconds: float = 0.0) -> T | None:
        """What is read of the answer, for which there are some seconds once it is warm; None where it has ended."""
        with self._lock:
            if self._closed:
                return None
            process, control = self._started()
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(START_SECONDS + seconds)
            try:
                with theirs:
                    socket.send_fds(control, [b"."], [theirs.fileno()])
                ours.sendall(text)
                ours.shutdown(socket.SHUT_WR)
                return read(ours)
            except OSError:
                with self._lock:
                    if self._process is process:
                        self._end()
                return None

    def _started(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process and the socket to it. To be called with the lock."""
        if self._process is None or self._control is None or self._process.poll() is not None:
            self._end()
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", PROGRAM, *self._idle],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    # Threads that libraries start don't survive a fork.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
                    # Its own session: Ctrl-C in the server's terminal is for the server to act on.
                    start_new_session=True,
                )
        return self._process, self._control

    def close(self) -> None:
        """Ends the parent. Runs go on, and further ones aren't forked."""
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


def received(channel: socket.socket, most: int | None = None) -> bytes:
    """All that comes until the other end is closed, or a little more than `most` bytes. Raises OSError."""
    parts, length = [], 0
    while part := channel.recv(1 << 16):
        parts.append(part)
        length += len(part)
        if most is not None and length > most:
            raise OSError("the reply is too long")
    return b"".join(parts)
