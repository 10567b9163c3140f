"""The process that trains a run: started, waited for, told to stop, and why it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from layerserve_server.training.process.cpu_usage import SERVER
from layerserve_server.training.process.warm_parent import ForkedProcess, WarmParent
from layerserve_server.training.result import ended_by_signal
from layerserve_server.training.runs.folder import CHILD_LOCK, CHILD_OUTPUT

#: Time between two looks at a training process, in seconds: how late an event may reach its watchers.
LOOK_SECONDS = 0.05


class TrainingProcess:
    """What trains the run in a folder: started here, or by a server before this one.

    A process that another server started is known by the lock that it holds alone.
    """

    __slots__ = ("_folder", "_started")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: subprocess.Popen[bytes] | ForkedProcess | None = None

    def start(self, command: Sequence[str], threads: int, parent: WarmParent | None = None) -> None:
        """Starts `command`, to which the run's folder is appended, with so many threads to compute with.

        With a `parent` it is forked from that instead, which does the same but for importing torch again, if it can be.
        """
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # As in the warm parent, so that the numbers don't depend on how the process was started.
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1",
            SERVER: str(os.getpid()),
        }
        self._started = parent.fork(self._folder, environment) if parent is not None else None
        if self._started is not None:
            return
        with (self._folder / CHILD_OUTPUT).open("ab") as output:
            self._started = subprocess.Popen(
                [*command, str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # Its own session: Ctrl-C in the server's terminal is for the server to act on.
                start_new_session=True,
            )

    def forget(self) -> None:
        """The process has ended, and another one will take its place."""
        if isinstance(self._started, ForkedProcess):
            self._started.close()
        self._started = None

    @property
    def lives(self) -> bool:
        """Whether a training process holds the run's lock, whoever started it."""
        try:
            with (self._folder / CHILD_LOCK).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def pid(self) -> int | None:
        """Its number: of the process started here, or of that of this machine which holds the run's lock, if any."""
        if self._started is not None:
            return self._started.pid
        if not self.lives:
            return None
        try:
            pid, host = (self._folder / CHILD_LOCK).read_text().split()
            return int(pid) if host == socket.gethostname() else None
        except (OSError, ValueError):
            return None

    def wait(self) -> bool:
        """Waits a moment; gives whether it is still there."""
        # Not subprocess's own waiting: it looks a hundred times a second, beside those who answer requests.
        time.sleep(LOOK_SECONDS)
        try:
            return self.lives if self._started is None else self._started.poll() is None
        except ChildProcessError:
            # Its exit status is lost: then it is as if a server before this one had started it.
            self._started = None
            return self.lives

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it is there."""
        if self._started is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if self._started.poll() is None:
                    self._started.send_signal(number)
        elif (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def ended_by_itself(self) -> bool:
        """Whether it ended with a status of its own, not by a signal: it would do so again."""
        return self._started is not None and (self._started.returncode or 0) >= 0

    @property
    def death(self) -> str:
        """Why it ended, in words."""
        code = self._started.returncode if self._started is not None else None
        if code is None:
            return "the training process ended without a word"
        if code < 0:
            return f"the training process {ended_by_signal(-code)}"
        return f"the training process ended with status {code}; the run's log has why"
