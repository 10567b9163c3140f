"""Result of a run's process, and the signals and exceptions that stop it."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from layerserve_server.disk import json_object, replace_file
from layerserve_server.errors import safe_text
from layerserve_server.records import Int32, checked
from layerserve_server.training.run_folder.layout import OUTCOME

#: Exit status of a process that can't write its result since there is no space on the disk.
NO_SPACE = 76
#: Signal that interrupts a run, to be resumed later. SIGTERM cancels it.
INTERRUPT = signal.SIGUSR1


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run's process.

    `kind` is "trained", "evaluated", "scored", "failed", "cancelled", "interrupted" or "killed". Epoch and step count
    from 1; 0 outside of one. `seconds` is the time it took. `reason` is the error of a failed run, or what killed a
    worker of it, `withheld` the reason not to publish a trained model.
    """

    kind: str
    reason: str = ""
    epoch: Int32 = 0
    step: int = 0
    seconds: float = 0.0
    logs: Mapping[str, float] = field(default_factory=dict)
    withheld: str = ""
    #: Whether a failure is due to the machine, not to the run: it may succeed with more disk space or memory.
    resumable: bool = False
    #: Whether it failed since there was no space on the disk.
    out_of_space: bool = False
    #: Version that a trained model was compared with since it was published meanwhile, and how often that happened.
    compared: int = 0
    comparisons: int = 0

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped before it was complete."""
        return self.kind in ("cancelled", "interrupted", "killed")

    def write(self, folder: Path) -> None:
        """Writes the result to the run's folder, atomically. Raises OSError."""
        # Texts are shortened here, since the server reads the whole file.
        written = replace(self, reason=safe_text(self.reason), withheld=safe_text(self.withheld))
        replace_file(folder / OUTCOME, json.dumps(asdict(written)))

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """Reads the result in a run's folder; None if there is no valid one."""
        try:
            return checked(cls(**json_object((folder / OUTCOME).read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            return None


def ended_by_signal(number: int) -> str:
    """Returns the end of a sentence about a process that a signal ended."""
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    hint = "; the system may have run out of memory" if number == signal.SIGKILL else ""
    return f"was ended by signal {name}{hint}"


def out_of_space(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, means that there is no space on the disk.

    torch and HDF5 raise errors of their own for it, with the system's text.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(number) in str(seen) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


class Interruption(BaseException):
    """Raised to interrupt a run, which is to be resumed later."""


class StopRequest(BaseException):
    """Raised on SIGTERM. Not an Exception, so that handlers of errors on the way don't catch it."""
