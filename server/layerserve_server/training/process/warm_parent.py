"""The server's handle of the warm parent: a process that has imported torch and forks a child per job or run.

Requests are tried in such a child, under limits on memory and time, and never in the serving process. A run is forked
in the same way, without limits. Importing torch takes seconds, a fork milliseconds.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from layerserve_server.errors import UnavailableError
from layerserve_server.forking.fork_server import ForkServer, never, received

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Module of the parent's program.
PROGRAM = "layerserve_server.training.process.forking"
#: Maximum length of a job's reply, in bytes.
MAX_REPLY = 1 << 20
#: Default time without a job after which the parent exits, in seconds.
IDLE_SECONDS = 900.0
#: Number of times that the parent is started for a job: it may have been killed for lack of memory.
TRIES = 2


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Limits of a job: processor time in seconds, and memory in bytes, in addition to the parent's."""

    seconds: float
    memory_bytes: int
    #: Threads that compute at a time.
    threads: int = 1

    @property
    def wall_seconds(self) -> float:
        """Elapsed time after which a job is killed, in seconds: more than `seconds`, as the machine may be busy."""
        return 2 * self.seconds + 10

    @property
    def processor_seconds(self) -> float:
        """Time of all threads together, in seconds."""
        return self.seconds * self.threads


class JobDiedError(Exception):
    """A job ended without a reply: killed by `signal`, or exited if that is 0."""

    def __init__(self, number: int, *, late: bool) -> None:
        super().__init__(f"signal {number}")
        self.signal = number
        #: Whether it exceeded its time limit.
        self.late = late or number == signal.SIGXCPU


class ForkedProcess:
    """A run's process, forked by the warm parent. Has the methods of subprocess.Popen that runs use."""

    def __init__(self, channel: socket.socket) -> None:
        """`channel` is a socket to the process's supervisor. Raises OSError if no process was started."""
        self._text = b""
        self.returncode: int | None = None
        while b"\n" not in self._text:
            if not (part := channel.recv(64)):
                raise OSError("the warm parent started no process")
            self._text += part
        pid, _, self._text = self._text.partition(b"\n")
        self.pid = int(pid)
        self._channel = channel.dup()
        self._channel.setblocking(False)

    def poll(self) -> int | None:
        """Returns the exit status; None while the process is alive. Raises ChildProcessError if it is unknown."""
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
                raise ChildProcessError("the exit status of the process is unknown: its supervisor ended")
            self._text += part
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal. Raises ProcessLookupError if the process has ended."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """Closes the connection to the supervisor. The process keeps running."""
        self._channel.close()


class WarmParent(ForkServer):
    """Runs jobs and starts runs in forked processes. Starts the parent process when needed. Thread-safe."""

    def __init__(self, idle_seconds: float | None = IDLE_SECONDS) -> None:
        """`idle_seconds` is the time without a job after which the parent process exits; None for never."""
        super().__init__(PROGRAM, () if idle_seconds is None else (str(idle_seconds),))

    def run(
        self, job: str, arguments: Mapping[str, Any], limits: JobLimits, gone: Callable[[], bool] = never
    ) -> dict[str, Any]:
        """Runs the job of this name (see `forking`) and returns its reply. Arguments and reply are JSON objects.

        Raises JobDiedError if the job ended without a reply, UnavailableError if no process can be started, and
        CallCancelledError, after ending the job, once `gone` returns True.
        """
        text = json.dumps({"job": job, "limits": asdict(limits), "arguments": arguments}).encode()
        for _ in range(TRIES):
            if data := self._request(text, lambda channel: received(channel, MAX_REPLY, gone), limits.wall_seconds):
                reply: dict[str, Any] = json.loads(data)
                if "died" in reply:
                    raise JobDiedError(reply["died"], late=reply["late"])
                return reply
        raise UnavailableError("the process for dry runs of training requests can't be started; try again later")

    def fork(self, folder: Path, environment: Mapping[str, str]) -> ForkedProcess | None:
        """Starts the process of the run in `folder`. Returns None if it can't be forked."""
        text = json.dumps({"run": str(folder), "environment": dict(environment)}).encode()
        for _ in range(TRIES):
            if process := self._request(text, ForkedProcess):
                return process
        logger.warning("can't fork training runs: each run imports PyTorch when it starts", extra={"run": folder.name})
        return None

    def _request(self, text: bytes, read: Callable[[socket.socket], T], seconds: float = 0.0) -> T | None:
        """Sends a request to the parent process and returns what `read` returns of the reply; None if it failed.

        `seconds` is the timeout for the reply after the parent process has started.
        """
        try:
            with self.connection(seconds) as channel:
                channel.sendall(text)
                channel.shutdown(socket.SHUT_WR)
                return read(channel)
        except OSError:
            return None
