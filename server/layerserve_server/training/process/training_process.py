"""The server's handle of a run's process: starts, monitors and signals it, and reports why it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from layerserve_server.disk import is_locked
from layerserve_server.jobs.forked_process import ForkedProcess
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training.process.cpu_usage import SERVER
from layerserve_server.training.run_folder.layout import CHILD_LOCK, CHILD_OUTPUT
from layerserve_server.training.run_folder.result import NO_SPACE, ended_by_signal

logger = logging.getLogger(__name__)

#: What is called in a forked process of a run.
TRAIN = "layerserve_server.training.program.warm:train"
#: Time between two checks of a training process, in seconds. Events reach their watchers with this delay at most.
CHECK_SECONDS = 0.05


def run_environment(threads: int) -> dict[str, str]:
    """Returns the environment of a run's process with this number of compute threads."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # As where runs are forked, so that results don't depend on how the process was started.
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        SERVER: str(os.getpid()),
    }


class TrainingProcess:
    """The process of the run in a folder, started by this server or by an earlier one.

    A process that another server started can only be detected by the lock that it holds.
    """

    __slots__ = ("_folder", "_started")

    survives_stop = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: subprocess.Popen[bytes] | ForkedProcess | None = None

    def start(
        self,
        command: Sequence[str],
        threads: int,
        jobs: Jobs | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Starts `command`, with the run's folder as its last argument, and `threads` compute threads.

        `more` are further variables of its environment.

        With `jobs`, the process is forked instead, if possible: equivalent, but without importing torch.
        """
        environment = run_environment(threads) | dict(more or {})
        if jobs is not None:
            self._started = jobs.fork(TRAIN, {"folder": str(self._folder), "environment": environment})
            if self._started is not None:
                return
            extra = {"run": self._folder.name}
            logger.warning("can't fork training runs: each run imports PyTorch when it starts", extra=extra)
        with (self._folder / CHILD_OUTPUT).open("ab") as output:
            self._started = subprocess.Popen(
                [*command, str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # Its own session, so that Ctrl-C in the server's terminal signals the server only.
                start_new_session=True,
            )

    def forget(self) -> None:
        """Drops the handle of an ended process, before another is started."""
        if isinstance(self._started, ForkedProcess):
            self._started.close()
        self._started = None

    @property
    def lives(self) -> bool:
        """Whether a training process holds the run's lock, no matter which server started it."""
        return is_locked(self._folder / CHILD_LOCK)

    @property
    def pid(self) -> int | None:
        """Process id of the process started here, or of the lock's holder if that is on this machine; else None."""
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
        """Waits CHECK_SECONDS. Returns whether the process is still alive."""
        # Not subprocess's own wait with a timeout, which polls a hundred times a second in the serving process.
        time.sleep(CHECK_SECONDS)
        try:
            return self.lives if self._started is None else self._started.poll() is None
        except ChildProcessError:
            # Its exit status is lost, so it is treated as if an earlier server had started it.
            self._started = None
            return self.lives

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it is alive."""
        if self._started is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if self._started.poll() is None:
                    self._started.send_signal(number)
        elif (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def ended_by_itself(self) -> bool:
        """Whether the process exited, rather than being killed by a signal: if resumed, it would exit again."""
        return self._started is not None and (self._started.returncode or 0) >= 0

    @property
    def out_of_space(self) -> bool:
        """Whether the process couldn't write its result since there was no space on the disk."""
        return self._started is not None and self._started.returncode == NO_SPACE

    @property
    def death(self) -> str:
        """Reason why the process ended, as a text."""
        code = self._started.returncode if self._started is not None else None
        if code is None:
            return "the training process ended for an unknown reason"
        if code < 0:
            return f"the training process {ended_by_signal(-code)}"
        return f"the training process ended with status {code}; see the run's log"
