"""Interface of the server's handle of a run's process, wherever that runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

from layerserve_server.jobs.jobs import Jobs


class RunProcess(Protocol):
    """The process of the run in a folder, started by this server or by an earlier one."""

    @property
    def survives_stop(self) -> bool:
        """Whether an orderly stop of the server leaves the process running. A killed one leaves all running."""

    def start(
        self,
        command: Sequence[str],
        threads: int,
        jobs: Jobs | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Starts the process with `threads` compute threads, and with `more` variables in its environment.

        `command`, with the run's folder as its last argument, starts it on this machine; with `jobs` it is forked.
        Raises NotTrainableError if it can't be started.
        """

    def forget(self) -> None:
        """Drops the handle of an ended process, before another is started."""

    @property
    def lives(self) -> bool:
        """Whether the process is alive, no matter which server started it."""

    @property
    def pid(self) -> int | None:
        """Process id, if the process is on this machine; else None."""

    def wait(self) -> bool:
        """Waits a moment. Returns whether the process is still alive."""

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it is alive."""

    @property
    def ended_by_itself(self) -> bool:
        """Whether the process exited, rather than being killed by a signal: if resumed, it would exit again."""

    @property
    def out_of_space(self) -> bool:
        """Whether the process couldn't write its result since there was no space on the disk."""

    @property
    def death(self) -> str:
        """Reason why the process ended, as a text."""


#: Returns the handle of the process of the run in a folder.
MakeProcess: TypeAlias = Callable[[Path], RunProcess]
