"""The server's handle of the sinks' processes: starts them, and again when they have ended."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from layerserve_server.extensions.trackers import main

logger = logging.getLogger(__name__)

#: Time after which a process that has ended is started again, in seconds.
RESTART_SECONDS = 10.0
#: Time that a process has to send what it holds when the server stops, in seconds.
STOP_SECONDS = 5.0


class SinkProcesses:
    """A process for each sink, which copies the runs in a folder. Neither runs nor calls wait for it."""

    def __init__(self, specs: Sequence[str], runs: Path, notes: Path) -> None:
        """`specs` are the settings of the sinks; `notes` is the folder for their places and files."""
        self._specs = specs
        self._command = [sys.executable, "-m", main.__name__, str(runs), str(notes)]
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the processes."""
        for spec in self._specs:
            thread = threading.Thread(target=self._keep, args=(spec,), name="run sink", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ends the processes. They go on where they were at the next start."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _keep(self, spec: str) -> None:
        kind = spec.partition(":")[0]
        environment = {**os.environ, main.SINK: spec}
        while not self._stopping.is_set():
            try:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
                )
            except OSError as error:
                logger.warning("run sink %s can't be started: %s", kind, error.strerror)
            else:
                self._await(process)
                if not self._stopping.is_set():
                    logger.warning("run sink %s ended with status %s", kind, process.returncode)
            self._stopping.wait(RESTART_SECONDS)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for the end of a process; ends it when the server stops."""
        while process.poll() is None and not self._stopping.wait(1.0):
            pass
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
