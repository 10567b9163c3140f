"""The server's handle of the process that chooses the settings of a sweep's trials."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from layerserve_server.errors import NotTrainableError
from layerserve_server.extensions.sweeps.space import Settings

logger = logging.getLogger(__name__)

PROGRAM = "layerserve_server.extensions.sweeps.study"
#: Number of times that the process is started for a request: it may have been killed.
TRIES = 3


def check_installed() -> None:
    """Raises NotTrainableError if Optuna isn't installed."""
    if find_spec("optuna") is None:
        raise NotTrainableError("sweeps require Optuna on the server: pip install optuna")


class StudyProcess:
    """Starts the process when needed, and again when it has died. A context manager. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def ask(self) -> tuple[int, Settings]:
        """Returns the number and settings of a new trial. Raises OSError if the process can't be used."""
        reply = self._request("ask")
        return reply["trial"], reply["settings"]

    def asked(self) -> dict[int, Settings]:
        """Returns the settings of all trials so far, by number. Raises OSError as `ask` does."""
        return {one["trial"]: one["settings"] for one in self._request("asked")["trials"]}

    def end(self, trial: int, state: str, value: float | None) -> None:
        """Ends a trial as "finished" or "failed". Raises OSError as `ask` does."""
        self._request("end", trial=trial, state=state, value=value)

    def _request(self, do: str, **arguments: Any) -> dict[str, Any]:
        for _ in range(TRIES):
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
                process.stdin.flush()
                if line := process.stdout.readline():
                    return cast(dict[str, Any], json.loads(line))
            self._end()
            logger.warning(
                "the process that chooses the settings of a sweep has died", extra={"sweep": self._folder.name}
            )
        raise OSError("the process that chooses the settings of trials can't be used")

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                # Its threads would only compete with serving.
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()
            self._process = None

    def __enter__(self) -> StudyProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
