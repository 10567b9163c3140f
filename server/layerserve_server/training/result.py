"""How a training process ends, and how it is asked to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from layerserve_server.errors import safe_text
from layerserve_server.training.runs.folder import OUTCOME

#: Asks a process to end and be resumed later; SIGTERM asks it to end.
INTERRUPT = signal.SIGUSR1


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a child ended: "trained", "evaluated", "failed", "cancelled" or "interrupted".

    `withheld` says why what was trained is not to be published.
    """

    kind: str
    reason: str = ""
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    logs: Mapping[str, float] = field(default_factory=dict)
    withheld: str = ""
    #: Whether a failure is of the machine and not of the run: with more disk or memory it may pass.
    resumable: bool = False

    @property
    def stopped(self) -> bool:
        """Whether it was told to end before it was done."""
        return self.kind in ("cancelled", "interrupted")

    def write(self, folder: Path) -> None:
        """Leaves the outcome in the run's folder, whole or not at all."""
        temporary = folder / (OUTCOME + ".part")
        # Cut here: the server reads it whole.
        said = replace(self, reason=safe_text(self.reason), withheld=safe_text(self.withheld))
        temporary.write_text(json.dumps(asdict(said)), "utf-8")
        os.replace(temporary, folder / OUTCOME)

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """The outcome in a run's folder; None where the child left none."""
        try:
            return cls(**json.loads((folder / OUTCOME).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def ended_by_signal(number: int) -> str:
    """Words for a process that was ended by a signal."""
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    hint = "; the system may have run out of memory" if number == signal.SIGKILL else ""
    return f"was ended by signal {name}{hint}"


class Interruption(BaseException):
    """The run is to be resumed later."""


class StopRequest(BaseException):
    """SIGTERM came. Not an Exception, so that nothing on the way takes it for an error of its own."""
